import assert from 'node:assert/strict';
import { createHash, createHmac, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, beforeEach, describe, test } from 'node:test';
import { AzureObject } from '../../executor/context/kinds/azure-object.ts';
import { GoogleObject } from '../../executor/context/kinds/google-object.ts';
import { readObject } from '../../executor/context/kinds/remote-object.ts';
import type { WebAnswer } from '../../src/registry/index.ts';
import { archiveOf, fetchHere } from '../support/contexts.ts';
import { serve } from '../support/http.ts';
import { answerObject, type ServedObject } from '../support/object-server.ts';
import { temporaryDirectory, writeFiles } from '../support/programs.ts';

/*
 * Contexts in buckets, against servers of this machine that check what the clouds check: signatures and tokens.
 */

let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
let content: Buffer;
let text = '';
before(async () => {
  scratch = await temporaryDirectory();
  text = randomBytes(200_000).toString('hex');
  content = archiveOf(await writeFiles(join(scratch.path, 'tree'), { file: text }), 'zstd');
});
after(() => scratch[Symbol.asyncDispose]());

// The clouds' libraries read the process's environment. Whatever this machine has of it must not be seen.
const cloudVariable = /^(?:AWS|AZURE|GOOGLE|GCE|CLOUDSDK|GCLOUD)_|^HOME$/;
const saved = { ...process.env };
beforeEach(() => {
  for (const name of Object.keys(process.env)) if (cloudVariable.test(name)) delete process.env[name];
  Object.assign(process.env, { HOME: scratch.path, AWS_EC2_METADATA_DISABLED: 'true' });
});
after(() => {
  process.env = saved;
});

async function arrives(address: string, environment: Readonly<Record<string, string>>): Promise<void> {
  await using context = await fetchHere(address, { environment });
  assert.equal(readFileSync(join(context.directory, 'file'), 'utf8'), text);
}

/** Fails as the given expressions say: the message, and what to do. */
async function failsWith(
  failing: Promise<unknown>,
  code: string,
  message: RegExp,
  remedy = /./,
): Promise<void> {
  await assert.rejects(failing, (error: Error & { code: string; remedy: string }) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    assert.match(error.remedy, remedy);
    return true;
  });
}

const hmac = (key: string | Buffer, data: string): Buffer => createHmac('sha256', key).update(data).digest();
const sha256 = (data: string): string => createHash('sha256').update(data).digest('hex');

/** Whether a request is signed with the secret `secret` (Signature Version 4, "Create a signed AWS API request"). */
function isSigned(request: IncomingMessage, region: string): boolean {
  const { authorization = '', 'x-amz-date': date = '' } = request.headers as Record<
    string,
    string | undefined
  >;
  const pattern =
    /^AWS4-HMAC-SHA256 Credential=id\/([0-9]{8})\/([^/]+)\/s3\/aws4_request, SignedHeaders=([^,]+), Signature=(.+)$/;
  const [, day = '', signedRegion, names = '', signature] = pattern.exec(authorization) ?? [];
  if (signedRegion !== region) return false;
  const url = new URL(request.url ?? '/', 'http://host');
  const query = [...url.searchParams].map(([name, value]) => `${name}=${encodeURIComponent(value)}`).sort();
  const headers = names.split(';').map((name) => `${name}:${String(request.headers[name]).trim()}\n`);
  const payload = String(request.headers['x-amz-content-sha256']);
  const canonical = [request.method, url.pathname, query.join('&'), headers.join(''), names, payload].join(
    '\n',
  );
  const scope = `${day}/${region}/s3/aws4_request`;
  const toSign = ['AWS4-HMAC-SHA256', date, scope, sha256(canonical)].join('\n');
  const key = [day, region, 's3', 'aws4_request'].reduce<string | Buffer>(hmac, 'AWS4secret');
  return hmac(key, toSign).toString('hex') === signature;
}

const s3Error = (response: ServerResponse, status: number, code: string): void => {
  response.writeHead(status, { 'content-type': 'application/xml' });
  response.end(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>No.</Message></Error>`);
};

describe('a context in S3', () => {
  const login = { AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: 'secret', AWS_REGION: 'eu-north-1' };
  const serveS3 = (object: ServedObject): ReturnType<typeof serve> =>
    serve((request, response) => {
      if (!isSigned(request, 'eu-north-1')) s3Error(response, 403, 'SignatureDoesNotMatch');
      else if (request.url?.startsWith('/bucket/dir/context.tar.gz') !== true)
        s3Error(response, 404, 'NoSuchKey');
      else answerObject(object, request, response);
    });
  const at = (host: string): Record<string, string> => ({
    S3_ENDPOINT: `http://${host}`,
    S3_FORCE_PATH_STYLE: 'true',
  });

  test('is signed for, and read on where it broke off', async () => {
    Object.assign(process.env, login);
    await using server = await serveS3({ content, etag: '"1"', cuts: [50_000, 50_000] });
    await arrives('s3://bucket/dir/context.tar.gz', at(server.host));
    assert.equal(server.requests.length, 3);
    assert.equal(server.requests[2]?.headers['if-match'], '"1"');
    Object.assign(process.env, { AWS_ENDPOINT_URL: `http://${server.host}` });
    await arrives('s3://bucket/dir/context.tar.gz', { S3_FORCE_PATH_STYLE: 'true' });
  });

  test('that changed is not mixed', async () => {
    Object.assign(process.env, login);
    const object: ServedObject = { content, etag: '"1"', cuts: [50_000] };
    await using server = await serve((request, response, count) => {
      if (count === 2) object.etag = '"2"';
      answerObject(object, request, response);
    });
    await failsWith(
      fetchHere('s3://bucket/x', { environment: at(server.host) }),
      'E_CONTEXT_CHANGED',
      /changed/,
    );
  });

  test('that is refused says why', async () => {
    Object.assign(process.env, login);
    await using server = await serveS3({ content });
    const fetching = (key: string): ReturnType<typeof fetchHere> =>
      fetchHere(`s3://bucket/${key}`, { environment: at(server.host) });
    await failsWith(fetching('other'), 'E_CONTEXT_NOT_FOUND', /s3:\/\/bucket\/other: .*404 \(NoSuchKey\)/);
    process.env.AWS_SECRET_ACCESS_KEY = 'wrong';
    await failsWith(fetching('x'), 'E_CONTEXT_REFUSED', /403 \(SignatureDoesNotMatch\)/, /AWS_ACCESS_KEY_ID/);
    delete process.env.AWS_ACCESS_KEY_ID;
    await failsWith(fetching('x'), 'E_CONTEXT_UNAVAILABLE', /no credentials of AWS/);
    Object.assign(process.env, login);
    await using expired = await serve((_request, response) => s3Error(response, 400, 'ExpiredToken'));
    await failsWith(
      fetchHere('s3://bucket/x', { environment: at(expired.host) }),
      'E_CONTEXT_REFUSED',
      /403 \(ExpiredToken\)/,
      /credentials/,
    );
  });

  test('is asked for in the region that its bucket says', async () => {
    Object.assign(process.env, { ...login, AWS_REGION: 'us-east-1' });
    await using server = await serve((request, response) => {
      if (isSigned(request, 'eu-north-1')) answerObject({ content }, request, response);
      else {
        response.setHeader('x-amz-bucket-region', 'eu-north-1');
        s3Error(response, 301, 'PermanentRedirect');
      }
    });
    await arrives('s3://bucket/x', at(server.host));
  });
});

describe('a context in Google Cloud Storage', () => {
  const path = '/storage/v1/b/bucket/o/dir%2Fcontext.tar.gz?alt=media';

  test('is read from an emulator without credentials, and on where it broke off', async () => {
    const object = { content, cuts: [50_000] };
    await using server = await serve((request, response) => {
      assert.equal(request.headers.authorization, undefined);
      const { generation = '7' } = Object.fromEntries(new URL(request.url ?? '', 'http://h').searchParams);
      if (request.url?.startsWith(path) !== true || generation !== '7') response.writeHead(404).end('{}');
      else answerObject(object, request, response, { 'x-goog-generation': '7' });
    });
    await arrives('gs://bucket/dir/context.tar.gz', { STORAGE_EMULATOR_HOST: server.host });
    assert.match(server.requests[1]?.url ?? '', /generation=7/);
    const missing = fetchHere('gs://bucket', {
      environment: { STORAGE_EMULATOR_HOST: `http://${server.host}` },
    });
    await failsWith(missing, 'E_CONTEXT_NOT_FOUND', /gs:\/\/bucket\/context.tar.gz: the server answered 404/);
  });

  test('that changed is not mixed', async () => {
    await using server = await serve((request, response, count) => {
      if (count > 1) response.writeHead(404).end('{}');
      else answerObject({ content, cuts: [50_000] }, request, response, { 'x-goog-generation': '7' });
    });
    const failing = fetchHere('gs://bucket', { environment: { STORAGE_EMULATOR_HOST: server.host } });
    await failsWith(failing, 'E_CONTEXT_CHANGED', /changed/);
  });

  test("is asked for with the token of the workload's identity", async () => {
    await using tokens = await serve((_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ access_token: 'token-1', expires_in: 3600, token_type: 'Bearer' }));
    });
    const key = {
      type: 'external_account',
      audience: '//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q',
      subject_token_type: 'urn:ietf:params:oauth:token-type:jwt',
      token_url: `http://${tokens.host}/sts`,
      credential_source: { file: join(scratch.path, 'token') },
    };
    await writeFiles(scratch.path, { 'key.json': JSON.stringify(key), token: 'the-oidc-token' });
    const environment = { GOOGLE_APPLICATION_CREDENTIALS: join(scratch.path, 'key.json') };
    Object.assign(process.env, environment);
    for (const status of [200, 401, 403] as const) {
      const asked: { url: URL; authorization?: string | undefined }[] = [];
      const client = {
        readWebFile: (request: { url: URL; authorization?: string | undefined }) => {
          asked.push(request);
          const body = JSON.stringify({ error: { message: 'builder may not do storage.objects.get' } });
          return Promise.resolve(answerOf(status, body));
        },
      };
      const object = new GoogleObject(client, { bucket: 'b', key: 'k' }, 'gs://b/k', environment);
      const reading = readObject(object, new AbortController().signal);
      if (status === 200) await reading;
      else
        await failsWith(reading, 'E_CONTEXT_REFUSED', /builder may not do/, /GOOGLE_APPLICATION_CREDENTIALS/);
      assert.equal(asked[0]?.authorization, 'Bearer token-1');
      assert.equal(asked[0]?.url.origin, 'https://storage.googleapis.com');
    }
  });
});

describe('a context in Azure Blob Storage', () => {
  const address = 'https://account.blob.core.windows.net/container/dir/context.tar.gz';
  const secret = Buffer.from('the key of the account').toString('base64');
  const connection = (host: string, key = secret): Record<string, string> => ({
    AZURE_STORAGE_CONNECTION_STRING: `DefaultEndpointsProtocol=http;AccountName=account;AccountKey=${key};BlobEndpoint=http://${host}/account;`,
  });

  /** Whether a request is signed with the account's key ("Authorize with Shared Key"). */
  function isOfAccount({ method = '', url = '', headers }: IncomingMessage): boolean {
    const standard = [
      'content-encoding',
      'content-language',
      'content-length',
      'content-md5',
      'content-type',
    ];
    const more = ['date', 'if-modified-since', 'if-match', 'if-none-match', 'if-unmodified-since', 'range'];
    const values = [...standard, ...more].map((name) => {
      const value = headers[name];
      return typeof value !== 'string' || (name === 'content-length' && value === '0') ? '' : value;
    });
    const own = Object.keys(headers)
      .filter((name) => name.startsWith('x-ms-'))
      .sort();
    const lines = own.map((name) => `${name}:${String(headers[name])}`);
    // An emulator's path begins with the account, which then stands there twice.
    const toSign = [method, ...values, ...lines, `/account${new URL(url, 'http://h').pathname}`].join('\n');
    const signature = createHmac('sha256', Buffer.from(secret, 'base64')).update(toSign).digest('base64');
    return headers.authorization === `SharedKey account:${signature}`;
  }

  const azureError = (response: ServerResponse, status: number, code: string): void => {
    response.writeHead(status, { 'content-type': 'application/xml', 'x-ms-error-code': code });
    response.end(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>No.</Message></Error>`);
  };
  const serveAzure = (object: ServedObject): ReturnType<typeof serve> =>
    serve((request, response) => {
      const known = isOfAccount(request) || signedBySas(request);
      // The SDK asks for parts by a header of Azure's own.
      Object.assign(request.headers, { range: request.headers['x-ms-range'] });
      if (!known) azureError(response, 403, 'AuthenticationFailed');
      else if (!request.url?.startsWith('/account/container/dir/context.tar.gz'))
        azureError(response, 404, 'BlobNotFound');
      else answerObject(object, request, response);
    });
  const signedBySas = ({ url = '' }: IncomingMessage): boolean => url.includes('sig=good');

  test('is signed for, and read on where it broke off', async () => {
    await using server = await serveAzure({ content, etag: '"0x1"', cuts: [50_000] });
    await arrives(address, connection(server.host));
    assert.equal(server.requests.length, 2);
    assert.equal(server.requests[1]?.headers['if-match'], '"0x1"');
  });

  test('that changed is not mixed', async () => {
    const object: ServedObject = { content, etag: '"0x1"', cuts: [50_000] };
    await using server = await serve((request, response, count) => {
      if (count === 2) object.etag = '"0x2"';
      answerObject(object, request, response);
    });
    const failing = fetchHere(address, { environment: connection(server.host) });
    await failsWith(failing, 'E_CONTEXT_CHANGED', /changed/);
  });

  test('that is refused says why, and nothing of a signature', async () => {
    await using server = await serveAzure({ content, etag: '"0x1"' });
    const wrong = fetchHere(address, { environment: connection(server.host, 'AAAA') });
    await failsWith(wrong, 'E_CONTEXT_REFUSED', /403 \(AuthenticationFailed\)/, /AZURE_STORAGE_ACCESS_KEY/);
    const missing = fetchHere(`${address}x/../other`, { environment: connection(server.host) });
    await failsWith(missing, 'E_CONTEXT_NOT_FOUND', /404 \(BlobNotFound\)/);
    const other = fetchHere(address.replace('account', 'other'), { environment: connection(server.host) });
    await failsWith(other, 'E_CONTEXT_ADDRESS', /of the account account, the build context of other/);
    const senseless = { AZURE_STORAGE_CONNECTION_STRING: 'AccountKey' };
    await failsWith(
      fetchHere(address, { environment: senseless }),
      'E_CONTEXT_ADDRESS',
      /cannot be understood/,
    );
  });

  test('is asked for with the key, the signature or the token that there is', async () => {
    await using server = await serveAzure({ content, etag: '"0x1"' });
    const reading = (url: string, environment: Record<string, string>): ReturnType<typeof readObject> =>
      readObject(new AzureObject({}, url, 'it', environment), new AbortController().signal);
    const own = `http://${server.host}/account/container/dir/context.tar.gz`;
    const { source } = await reading(`${own}?sv=1&sig=good`, {});
    source.destroy();
    const token = await reading(own, { AZURE_STORAGE_SAS_TOKEN: '?sv=1&sig=good' });
    token.source.destroy();
    await failsWith(reading(own, {}), 'E_CONTEXT_REFUSED', /403/);
    await failsWith(reading(`${own}?sig=bad`, {}), 'E_CONTEXT_REFUSED', /403/);
  });
});

/** An answer of a server that cannot be had here. */
function answerOf(status: number, text: string): WebAnswer {
  const body = Object.assign(Readable.from([Buffer.from(text)], { objectMode: false }), {
    dump: () => Promise.resolve(),
  });
  return { status, header: () => undefined, url: new URL('https://storage.googleapis.com'), body };
}
