import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { type Descriptor, digestOf, mediaTypes } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { parseChallenges } from '../../src/registry/auth/challenge.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';

const content = randomBytes(300_000);
const descriptor: Descriptor = {
  mediaType: 'application/octet-stream',
  digest: digestOf(content),
  size: content.length,
};
const open = () => Promise.resolve(Readable.from([content]));

async function bytesOf(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

describe('against a registry', () => {
  let registry: TestRegistry;
  const client = new RegistryClient();
  before(async () => {
    registry = await startRegistry();
  });
  after(async () => {
    await client[Symbol.asyncDispose]();
    await registry[Symbol.asyncDispose]();
  });

  test('a blob is uploaded once, mounted into a second repository, and read back', async () => {
    const a = client.repository({ registry: registry.host, repository: 'a/one' });
    const b = client.repository({ registry: registry.host, repository: 'b' });
    assert.equal(await a.uploadBlob(descriptor, open), 'uploaded');
    assert.equal(await a.uploadBlob(descriptor, open), 'exists');
    assert.equal(await b.uploadBlob(descriptor, open, { mountFrom: ['nowhere', 'a/one'] }), 'mounted');
    assert.deepEqual(await bytesOf(await b.openBlob(descriptor)), content);
    assert.deepEqual(await b.statBlob(descriptor.digest), { size: content.length });
  });

  test('manifests and tags come back as they were put', async () => {
    const repository = client.repository({ registry: registry.host, repository: 'c' });
    const config = Buffer.from('{}');
    const configDescriptor = { mediaType: mediaTypes.ociConfig, digest: digestOf(config), size: 2 };
    await repository.uploadBlob(configDescriptor, () => Promise.resolve(Readable.from([config])));
    const manifest = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: mediaTypes.ociManifest,
        config: configDescriptor,
        layers: [],
      }),
    );
    for (const tag of ['one', 'two']) await repository.putManifest(tag, mediaTypes.ociManifest, manifest);
    assert.equal((await repository.headManifest('one'))?.digest, digestOf(manifest));
    assert.deepEqual(Buffer.from((await repository.getManifest('two'))?.bytes ?? []), manifest);
    assert.equal(await repository.getManifest('three'), undefined);
    assert.deepEqual((await Array.fromAsync(repository.listTags())).sort(), ['one', 'two']);
    assert.equal(await repository.deleteManifest(digestOf(manifest)), true);
    assert.equal(await repository.headManifest('one'), undefined);
  });
});

describe('with credentials', () => {
  test('Basic is answered from config.json, by path; without them the error says so', async () => {
    await using registry = await startRegistry({ user: 'u', password: 'p:w' });
    const directory = mkdtempSync(join(tmpdir(), 'kiln-config-'));
    try {
      const auth = Buffer.from('u:p:w').toString('base64');
      const wrong = Buffer.from('u:no').toString('base64');
      writeFileSync(
        join(directory, 'config.json'),
        JSON.stringify({ auths: { [registry.host]: { auth: wrong }, [`${registry.host}/team`]: { auth } } }),
      );
      await using client = new RegistryClient({ dockerConfigDirectory: directory });
      assert.equal(
        await client
          .repository({ registry: registry.host, repository: 'team/x' })
          .uploadBlob(descriptor, open),
        'uploaded',
      );
      await assert.rejects(
        client.repository({ registry: registry.host, repository: 'other' }).uploadBlob(descriptor, open),
        { code: 'E_REGISTRY_UNAUTHORIZED' },
      );
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test('all forms of challenge are read', () => {
    const challenges = parseChallenges([
      'Basic realm="a, b", Bearer realm="https://x/t?a=b",service=s ,scope="r:x:pull,push"',
      'Negotiate',
    ]);
    assert.deepEqual(
      challenges.map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]),
      [
        ['basic', { realm: 'a, b' }],
        ['bearer', { realm: 'https://x/t?a=b', service: 's', scope: 'r:x:pull,push' }],
        ['negotiate', {}],
      ],
    );
  });
});

/** A server that answers as a faulty registry would. */
async function faulty(
  answer: (request: IncomingMessage, response: ServerResponse, count: number) => void,
): Promise<AsyncDisposable & { host: string; requests: IncomingMessage[] }> {
  const requests: IncomingMessage[] = [];
  const server: Server = createServer((request, response) => {
    requests.push(request);
    answer(request, response, requests.length);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    [Symbol.asyncDispose]: () => {
      server.closeAllConnections();
      return new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

describe('against a faulty registry', () => {
  test('a cut download goes on by Range', async () => {
    await using server = await faulty((request, response) => {
      const offset = Number(/bytes=([0-9]+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
      const rest = content.subarray(offset);
      response.writeHead(offset === 0 ? 200 : 206, {
        'content-length': rest.length,
        ...(offset === 0
          ? {}
          : { 'content-range': `bytes ${offset}-${content.length - 1}/${content.length}` }),
      });
      response.write(rest.subarray(0, 100_000), () => {
        if (rest.length > 100_000) response.destroy();
        else response.end();
      });
    });
    await using client = new RegistryClient();
    assert.deepEqual(
      await bytesOf(await client.repository({ registry: server.host, repository: 'x' }).openBlob(descriptor)),
      content,
    );
    assert.ok(server.requests.length >= 3);
  });

  test('a cut download starts over where Range is ignored', async () => {
    await using server = await faulty((_request, response, count) => {
      response.writeHead(200);
      if (count < 3) response.write(content.subarray(0, 100_000), () => response.destroy());
      else response.end(content);
    });
    await using client = new RegistryClient();
    assert.deepEqual(
      await bytesOf(await client.repository({ registry: server.host, repository: 'x' }).openBlob(descriptor)),
      content,
    );
  });

  for (const [what, bytes] of [
    ['other content', Buffer.alloc(content.length)],
    ['too much content', Buffer.concat([content, content])],
  ] as const)
    test(`${what} is never taken for the blob`, async () => {
      await using server = await faulty((_request, response) => void response.end(bytes));
      await using client = new RegistryClient();
      const stream = await client.repository({ registry: server.host, repository: 'x' }).openBlob(descriptor);
      await assert.rejects(bytesOf(stream), { code: 'E_BLOB_CORRUPT' });
    });

  test('429 with Retry-After and 503 are waited out', async () => {
    await using server = await faulty((_request, response, count) => {
      if (count === 1) response.writeHead(429, { 'retry-after': '0' }).end();
      else if (count === 2) response.writeHead(503).end();
      else response.end(content);
    });
    await using client = new RegistryClient();
    assert.deepEqual(
      await bytesOf(await client.repository({ registry: server.host, repository: 'x' }).openBlob(descriptor)),
      content,
    );
  });

  test('credentials do not follow a redirect to another host', async () => {
    await using storage = await faulty((_request, response) => void response.end(content));
    await using server = await faulty((request, response) => {
      if (request.headers.authorization === undefined)
        response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      else response.writeHead(307, { location: `http://${storage.host}/elsewhere` }).end();
    });
    const directory = mkdtempSync(join(tmpdir(), 'kiln-config-'));
    try {
      writeFileSync(
        join(directory, 'config.json'),
        JSON.stringify({ auths: { [server.host]: { username: 'u', password: 'p' } } }),
      );
      await using client = new RegistryClient({ dockerConfigDirectory: directory });
      assert.deepEqual(
        await bytesOf(
          await client.repository({ registry: server.host, repository: 'x' }).openBlob(descriptor),
        ),
        content,
      );
      assert.equal(storage.requests[0]?.headers.authorization, undefined);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test('a Bearer token is fetched once for many requests, and again when it was refused', async () => {
    let issued = 0;
    const server = await faulty((request, response) => {
      if (request.url?.startsWith('/token') === true)
        response.end(JSON.stringify({ token: `t${++issued}`, expires_in: 300 }));
      else if (request.headers.authorization !== `Bearer t${issued}` || issued === 0)
        response
          .writeHead(401, { 'www-authenticate': `Bearer realm="http://${server.host}/token",service="s"` })
          .end();
      else response.end(content);
    });
    await using _ = server;
    await using client = new RegistryClient();
    const repository = client.repository({ registry: server.host, repository: 'x' });
    await Promise.all([1, 2, 3].map(async () => bytesOf(await repository.openBlob(descriptor))));
    assert.equal(issued, 1);
    issued = 7;
    await bytesOf(await repository.openBlob(descriptor));
    assert.equal(issued, 8);
  });

  test('a registry that is not there is one clear error', async () => {
    await using client = new RegistryClient();
    await assert.rejects(
      client.repository({ registry: '127.0.0.1:1', repository: 'x' }).getManifest('latest'),
      { code: 'E_REGISTRY_UNAVAILABLE', message: /127\.0\.0\.1:1 cannot be reached/ },
    );
  });
});
