import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { type IncomingMessage, request as forward, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { after, before, beforeEach, describe, test } from 'node:test';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { amazonIdentity } from '../../src/registry/auth/identities/amazon.ts';
import { azureIdentity } from '../../src/registry/auth/identities/azure.ts';
import { googleIdentity } from '../../src/registry/auth/identities/google.ts';
import { type Identity, IdentitySource } from '../../src/registry/auth/identities/identity-source.ts';
import { Transport } from '../../src/registry/http/transport.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { testBlob } from '../support/blobs.ts';
import { TestAuthority } from '../support/certificates.ts';
import { bodyOf, listen, serve, type TestServer } from '../support/http.ts';
import { temporaryDirectory, writeFiles } from '../support/programs.ts';
import { startRegistry } from '../support/registry.ts';

let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
before(async () => {
  scratch = await temporaryDirectory();
});
after(() => scratch[Symbol.asyncDispose]());

// The clouds' libraries read the process's environment. Whatever this machine has of it must not be seen.
const cloudVariable =
  /^(?:AWS|AZURE|GOOGLE|GCE|CLOUDSDK|IDENTITY|MSI|IMDS|GCLOUD)_|^(?:HOME|METADATA_SERVER_DETECTION)$/;
const saved = { ...process.env };
beforeEach(() => {
  for (const name of Object.keys(process.env)) if (cloudVariable.test(name)) delete process.env[name];
  process.env.HOME = scratch.path;
});
after(() => {
  process.env = saved;
});

const json = (response: ServerResponse, body: unknown, status = 200, headers: object = {}): void => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
};

/** What was asked, as `METHOD path`, with bodies. */
interface Asked {
  readonly line: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

/** A server of a cloud's protocol. */
async function cloud(
  answer: (asked: Asked, response: ServerResponse) => void,
): Promise<TestServer & { readonly asked: readonly Asked[] }> {
  const asked: Asked[] = [];
  const server = await serve((request, response) => {
    void bodyOf(request).then((body) => {
      const line = `${request.method ?? ''} ${request.url ?? ''}`;
      const one = { line, headers: request.headers, body: body.toString('utf8') };
      asked.push(one);
      answer(one, response);
    });
  });
  return { ...server, asked };
}

async function find(
  identity: Identity,
  registry: string,
): Promise<{ found: unknown; notes: string[]; source: IdentitySource }> {
  const source = new IdentitySource(identity);
  const notes: string[] = [];
  const target = { registry, repository: 'x' };
  return { found: await source.find(target, undefined, (note) => notes.push(note)), notes, source };
}

describe('Amazon ECR', () => {
  const registry = '123456789012.dkr.ecr.eu-west-1.amazonaws.com';
  const token = Buffer.from('AWS:password').toString('base64');
  const expiresAt = Math.floor(Date.now() / 1000) + 12 * 3600;

  /** ECR, STS, the container and the instance metadata endpoints in one. */
  const startAmazon = (expires = expiresAt): ReturnType<typeof cloud> =>
    cloud(({ line, headers, body }, response) => {
      const keys = (id: string): object => ({
        AccessKeyId: id,
        SecretAccessKey: 'secret',
        Token: 'session',
        Expiration: new Date(Date.now() + 3600_000).toISOString(),
      });
      if (headers['x-amz-target'] === 'AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken')
        json(response, { authorizationData: [{ authorizationToken: token, expiresAt: expires }] });
      else if (headers['x-amz-target'] === 'SpencerFrontendService.GetAuthorizationToken')
        json(response, { authorizationData: { authorizationToken: token, expiresAt: expires } });
      else if (body.includes('Action=AssumeRoleWithWebIdentity'))
        response.writeHead(200, { 'content-type': 'text/xml' }).end(
          `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
             <AssumeRoleWithWebIdentityResult><Credentials>
               <AccessKeyId>AKIDWEB</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>
               <SessionToken>session</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>
             </Credentials></AssumeRoleWithWebIdentityResult>
           </AssumeRoleWithWebIdentityResponse>`,
        );
      else if (line === 'GET /container') json(response, keys('AKIDPOD'));
      else if (line === 'PUT /latest/api/token') response.end('metadata-token');
      else if (line === 'GET /latest/meta-data/iam/security-credentials/') response.end('role');
      else if (line === 'GET /latest/meta-data/iam/security-credentials/role')
        json(response, { ...keys('AKIDNODE'), Code: 'Success' });
      else json(response, { __type: 'AccessDeniedException', message: 'not you' }, 400);
    });

  const keyOf = (asked: readonly Asked[]): string | undefined =>
    asked
      .flatMap(({ headers }) => /Credential=([A-Z]+)\//.exec(headers.authorization ?? '')?.[1] ?? [])
      .at(-1);

  for (const [what, key, environment] of [
    [
      'keys in the environment',
      'AKIDENV',
      () => Promise.resolve({ AWS_ACCESS_KEY_ID: 'AKIDENV', AWS_SECRET_ACCESS_KEY: 'secret' }),
    ],
    [
      'a web identity, as pods of EKS have it',
      'AKIDWEB',
      async () => ({
        AWS_WEB_IDENTITY_TOKEN_FILE: `${await writeFiles(scratch.path, { 'aws-token': 'jwt' })}/aws-token`,
        AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/build',
      }),
    ],
    [
      'a container’s endpoint, as EKS Pod Identity and ECS have it',
      'AKIDPOD',
      async (host: string) => ({
        AWS_CONTAINER_CREDENTIALS_FULL_URI: `http://${host}/container`,
        AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: `${await writeFiles(scratch.path, { pod: 'jwt' })}/pod`,
      }),
    ],
    [
      'the instance metadata of a node',
      'AKIDNODE',
      (host: string) => Promise.resolve({ AWS_EC2_METADATA_SERVICE_ENDPOINT: `http://${host}` }),
    ],
  ] as const)
    test(`is logged in to by ${what}`, async () => {
      await using amazon = await startAmazon();
      const endpoint = `http://${amazon.host}`;
      Object.assign(process.env, await environment(amazon.host), {
        AWS_ENDPOINT_URL_ECR: endpoint,
        AWS_ENDPOINT_URL_STS: endpoint,
      });
      const { found, notes } = await find(amazonIdentity(process.env), registry);
      assert.deepEqual(found, {
        kind: 'basic',
        username: 'AWS',
        password: 'password',
        source: 'Amazon ECR',
        expiresAt: expiresAt * 1000,
      });
      assert.deepEqual(notes, []);
      assert.equal(keyOf(amazon.asked), key);
      assert.match(amazon.asked.at(-1)?.headers.authorization ?? '', /\/eu-west-1\/ecr\//);
    });

  test('is asked again when the credential is about to expire, and only then', async () => {
    await using lasting = await startAmazon();
    Object.assign(process.env, { AWS_ACCESS_KEY_ID: 'A', AWS_SECRET_ACCESS_KEY: 's' });
    process.env.AWS_ENDPOINT_URL_ECR = `http://${lasting.host}`;
    const { source } = await find(amazonIdentity(process.env), registry);
    await Promise.all([1, 2, 3].map(() => source.find({ registry, repository: 'y' })));
    assert.equal(lasting.asked.length, 1);
    await using ending = await startAmazon(Math.floor(Date.now() / 1000) - 1);
    process.env.AWS_ENDPOINT_URL_ECR = `http://${ending.host}`;
    const { source: expired } = await find(amazonIdentity(process.env), registry);
    await expired.find({ registry, repository: 'y' });
    assert.equal(ending.asked.length, 2);
  });

  test('that gives nothing is no error but a note, and is not asked again at once', async () => {
    await using amazon = await cloud((_asked, response) =>
      json(response, { __type: 'AccessDeniedException', message: 'role/build is not allowed' }, 400),
    );
    Object.assign(process.env, {
      AWS_ACCESS_KEY_ID: 'A',
      AWS_SECRET_ACCESS_KEY: 's',
      AWS_ENDPOINT_URL_ECR: `http://${amazon.host}`,
    });
    const { found, notes, source } = await find(amazonIdentity(process.env), registry);
    assert.equal(found, undefined);
    assert.deepEqual(notes, ['Amazon ECR gave none: role/build is not allowed']);
    await source.find({ registry, repository: 'y' }, undefined, (note) => notes.push(note));
    assert.equal(notes.length, 2);
    assert.equal(amazon.asked.length, 1);
  });

  test('knows its registries, and the public one only when we are somebody', async () => {
    const identity = amazonIdentity({});
    for (const [host, expected] of [
      [registry, true],
      ['123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com', true],
      ['123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn', true],
      ['123456789012.dkr-ecr.us-east-1.on.aws', true],
      ['dkr.ecr.eu-west-1.amazonaws.com', false],
      ['123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example', false],
      ['public.ecr.aws', false],
    ] as const)
      assert.equal(identity.knows(host), expected, host);
    await using amazon = await startAmazon();
    Object.assign(process.env, {
      AWS_ACCESS_KEY_ID: 'A',
      AWS_SECRET_ACCESS_KEY: 's',
      AWS_ENDPOINT_URL_ECR_PUBLIC: `http://${amazon.host}`,
    });
    const { found } = await find(amazonIdentity(process.env), 'public.ecr.aws');
    assert.equal((found as { username?: string } | undefined)?.username, 'AWS');
  });

  test('takes a push that only its identity allows', async () => {
    await using amazon = await startAmazon();
    await using behind = await startRegistry({ user: 'AWS', password: 'password' });
    // The way to it: everything that is asked of the registry's name goes to the one of this test.
    await using way = await serve((request, response) => {
      const url = new URL(request.url ?? '');
      const [host, port] = behind.host.split(':');
      const { method, headers } = request;
      const outgoing = forward({ host, port, method, path: url.pathname + url.search, headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      });
      request.pipe(outgoing);
    });
    Object.assign(process.env, {
      AWS_ACCESS_KEY_ID: 'AKIDENV',
      AWS_SECRET_ACCESS_KEY: 'secret',
      AWS_ENDPOINT_URL_ECR: `http://${amazon.host}`,
    });
    const { descriptor, open, bytes } = testBlob(randomBytes(100_000));
    await using client = new RegistryClient({
      environment: { HTTP_PROXY: `http://${way.host}`, HOME: '/nonexistent' },
      registries: new Map([[registry, { insecure: true }]]),
    });
    const repository = client.repository({ registry, repository: 'team/app' });
    assert.equal(await repository.uploadBlob(descriptor, open), 'uploaded');
    assert.deepEqual(await bodyOf(await repository.openBlob(descriptor)), bytes);
    await using nobody = new RegistryClient({
      environment: { HTTP_PROXY: `http://${way.host}`, HOME: '/nonexistent' },
      registries: new Map([[registry, { insecure: true }]]),
      credentialHelpers: [],
    });
    await assert.rejects(nobody.repository({ registry, repository: 'team/app' }).checkPush(), {
      code: 'E_REGISTRY_UNAUTHORIZED',
      message: /asked without credentials$/,
    });
  });
});

describe('Google Artifact Registry', () => {
  const registry = 'europe-docker.pkg.dev';

  test('is logged in to by the metadata server, as nodes and pods with workload identity have it', async () => {
    await using google = await cloud(({ line }, response) => {
      const headers = { 'metadata-flavor': 'Google' };
      if (line.includes('/service-accounts/default/token'))
        json(response, { access_token: 'ya29.node', expires_in: 3000, token_type: 'Bearer' }, 200, headers);
      else json(response, {}, 200, headers);
    });
    process.env.GCE_METADATA_HOST = google.host;
    const { found, notes } = await find(googleIdentity(process.env), registry);
    assert.deepEqual(notes, []);
    const { expiresAt, ...credential } = found as { expiresAt: number };
    assert.deepEqual(credential, {
      kind: 'basic',
      username: 'oauth2accesstoken',
      password: 'ya29.node',
      source: 'Google',
    });
    assert.ok(Math.abs(expiresAt - Date.now() - 3000_000) < 60_000);
  });

  test('is logged in to by workload identity federation, from an OIDC token file', async () => {
    await using google = await cloud(({ line }, response) => {
      if (line === 'POST /sts')
        json(response, {
          access_token: 'ya29.federated',
          issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
          token_type: 'Bearer',
          expires_in: 3000,
        });
      else
        json(response, {
          accessToken: 'ya29.impersonated',
          expireTime: new Date(Date.now() + 3000_000).toISOString(),
        });
    });
    const directory = await writeFiles(`${scratch.path}/google`, { token: 'the-oidc-token' });
    const configuration = (more: object): Promise<string> =>
      writeFiles(directory, {
        'configuration.json': JSON.stringify({
          type: 'external_account',
          audience: '//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q',
          subject_token_type: 'urn:ietf:params:oauth:token-type:jwt',
          token_url: `http://${google.host}/sts`,
          credential_source: { file: `${directory}/token` },
          ...more,
        }),
      });
    process.env.GOOGLE_APPLICATION_CREDENTIALS = `${directory}/configuration.json`;
    await configuration({});
    const direct = await find(googleIdentity(process.env), registry);
    assert.deepEqual(direct.notes, []);
    assert.equal((direct.found as { password?: string } | undefined)?.password, 'ya29.federated');
    assert.match(google.asked[0]?.body ?? '', /subject_token=the-oidc-token/);
    await configuration({
      service_account_impersonation_url: `http://${google.host}/v1/projects/-/serviceAccounts/build:generateAccessToken`,
    });
    const impersonated = await find(googleIdentity(process.env), registry);
    assert.equal((impersonated.found as { password?: string } | undefined)?.password, 'ya29.impersonated');
  });

  test('that gives nothing is a note', async () => {
    process.env.GOOGLE_APPLICATION_CREDENTIALS = '/nowhere/key.json';
    const { found, notes } = await find(googleIdentity(process.env), registry);
    assert.equal(found, undefined);
    assert.match(notes.join(), /^Google gave none: .*\/nowhere\/key\.json/);
  });

  test('is asked for its own hosts only, and by nobody who is nobody', () => {
    const somebody = googleIdentity({ GOOGLE_APPLICATION_CREDENTIALS: '/key.json' });
    for (const host of [registry, 'gcr.io', 'eu.gcr.io']) assert.equal(somebody.knows(host), true, host);
    for (const host of ['gcr.io.evil.example', 'notgcr.io', 'docker.io'])
      assert.equal(somebody.knows(host), false, host);
  });
});

describe('Azure Container Registry', () => {
  /** Entra ID and a registry in one, over HTTPS, with instance metadata over HTTP. */
  async function startAzure(): Promise<
    AsyncDisposable & { host: string; metadata: string; asked: string[]; transport: Transport }
  > {
    const authority = await TestAuthority.create(scratch.path, `azure-${randomBytes(4).toString('hex')}`);
    const pair = await authority.issue('azure');
    setDefaultCACertificates([
      ...getCACertificates('default'),
      await readFile(authority.certificate, 'utf8'),
    ]);
    const asked: string[] = [];
    const exp = Math.floor(Date.now() / 1000) + 7200;
    const refresh = `h.${Buffer.from(JSON.stringify({ exp })).toString('base64url')}.s`;
    const server = await listen(
      createSecureServer(
        { cert: await readFile(pair.certificate), key: await readFile(pair.key) },
        (request, response) => {
          void bodyOf(request).then((body) => {
            const path = (request.url ?? '').split('?')[0] ?? '';
            const form = new URLSearchParams(body.toString('utf8'));
            const { host = '' } = request.headers;
            asked.push(
              `${request.method ?? ''} ${path} ${form.get('scope') ?? form.get('access_token') ?? ''}`,
            );
            if (path.endsWith('/.well-known/openid-configuration'))
              json(response, {
                issuer: `https://${host}/tenant/v2.0`,
                authorization_endpoint: `https://${host}/tenant/oauth2/v2.0/authorize`,
                token_endpoint: `https://${host}/tenant/oauth2/v2.0/token`,
                jwks_uri: `https://${host}/keys`,
              });
            else if (path === '/tenant/oauth2/v2.0/token')
              json(response, {
                token_type: 'Bearer',
                expires_in: 3600,
                access_token: `entra-${form.get('client_assertion') ?? ''}`,
              });
            else if (path === '/oauth2/exchange' && form.get('access_token') !== 'entra-refused')
              json(response, { refresh_token: refresh });
            else json(response, { errors: [{ code: 'UNAUTHORIZED', message: 'not you' }] }, 401);
          });
        },
      ),
    );
    const metadata = await serve((request, response) => {
      asked.push(`${request.method ?? ''} ${request.url?.split('?')[0] ?? ''}`);
      json(response, {
        access_token: 'entra-node',
        expires_on: String(exp),
        resource: 'https://management.azure.com',
        token_type: 'Bearer',
      });
    });
    return {
      host: server.host,
      metadata: metadata.host,
      asked,
      transport: new Transport('test', {}),
      [Symbol.asyncDispose]: async () => {
        await server[Symbol.asyncDispose]();
        await metadata[Symbol.asyncDispose]();
      },
    };
  }

  const everywhere = /./;

  test('is logged in to by a workload identity, from an OIDC token file', async () => {
    await using azure = await startAzure();
    const directory = await writeFiles(`${scratch.path}/azure`, { token: 'the-oidc-token' });
    Object.assign(process.env, {
      AZURE_FEDERATED_TOKEN_FILE: `${directory}/token`,
      AZURE_TENANT_ID: 'tenant',
      AZURE_CLIENT_ID: 'client',
      AZURE_AUTHORITY_HOST: `https://${azure.host}`,
    });
    await using transport = azure.transport;
    const send = transport.sender(() => ({ skipVerify: true }));
    const { found, notes } = await find(azureIdentity(send, process.env, everywhere), azure.host);
    assert.deepEqual(notes, []);
    assert.match((found as { token?: string } | undefined)?.token ?? '', /^h\..+\.s$/);
    const scope = 'https://management.azure.com/.default';
    assert.ok(azure.asked.some((line) => line.startsWith(`POST /tenant/oauth2/v2.0/token ${scope}`)));
    assert.equal(azure.asked.at(-1), 'POST /oauth2/exchange entra-the-oidc-token');
  });

  test('is logged in to by the managed identity of a node', async () => {
    await using azure = await startAzure();
    process.env.AZURE_POD_IDENTITY_AUTHORITY_HOST = `http://${azure.metadata}`;
    await using transport = azure.transport;
    const send = transport.sender(() => ({ skipVerify: true }));
    const { found, notes } = await find(azureIdentity(send, process.env, everywhere), azure.host);
    assert.deepEqual(notes, []);
    const { kind, expiresAt } = found as { kind: string; expiresAt: number };
    assert.equal(kind, 'identity');
    assert.ok(Math.abs(expiresAt - Date.now() - 7200_000) < 60_000);
    assert.equal(azure.asked.at(-1), 'POST /oauth2/exchange entra-node');
  });

  test('that takes no token is a note', async () => {
    await using azure = await startAzure();
    const directory = await writeFiles(`${scratch.path}/azure`, { token: 'refused' });
    Object.assign(process.env, {
      AZURE_FEDERATED_TOKEN_FILE: `${directory}/token`,
      AZURE_TENANT_ID: 'tenant',
      AZURE_CLIENT_ID: 'client',
      AZURE_AUTHORITY_HOST: `https://${azure.host}`,
    });
    await using transport = azure.transport;
    const send = transport.sender(() => ({ skipVerify: true }));
    const { found, notes } = await find(azureIdentity(send, process.env, everywhere), azure.host);
    assert.equal(found, undefined);
    assert.match(notes.join(), /^Azure gave none: POST a token of .*: the registry answered 401 .*not you/);
    // Some registries take no tokens for the resource manager.
    assert.equal(azure.asked.filter((line) => line.startsWith('POST /oauth2/exchange')).length, 2);
  });

  test('is asked for its own hosts only', () => {
    const send = (): never => {
      throw new Error('nothing is sent');
    };
    const identity = azureIdentity(send, { AZURE_CLIENT_ID: 'client' });
    for (const [host, expected] of [
      ['team.azurecr.io', true],
      ['team.azurecr.cn', true],
      ['team.azurecr.io.evil.example', false],
      ['mcr.microsoft.com', false],
    ] as const)
      assert.equal(identity.knows(host), expected, host);
  });
});
