import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { RegistryClient, type RegistryOptions } from '../../src/registry/index.ts';
import { piecesOf, testBlob } from '../support/blobs.ts';
import { type Exchange, type Fault, type FaultProxy, startFaultProxy } from '../support/faults.ts';
import { bodyOf, serve } from '../support/http.ts';
import { SeededRandom } from '../support/random.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';

const mebibyte = 1024 ** 2;
const { bytes: content, descriptor, open } = testBlob(randomBytes(5 * mebibyte + 17));

describe('an upload', () => {
  let registry: TestRegistry;
  let repositories = 0;
  before(async () => {
    registry = await startRegistry();
  });
  after(() => registry[Symbol.asyncDispose]());

  /** Uploads through a proxy to a repository of its own, and reads back what the registry has then. */
  async function upload(
    faultFor: (exchange: Exchange) => Fault | undefined,
    options: { keepsCutUploads?: boolean; client?: RegistryOptions; open?: () => Promise<Readable> } = {},
  ): Promise<{ outcome: string; stored: Buffer | undefined; exchanges: FaultProxy['exchanges'] }> {
    await using proxy = await startFaultProxy(registry.host, faultFor, options);
    await using client = new RegistryClient(options.client);
    const repository = `uploads/${++repositories}`;
    const outcome = await client
      .repository({ registry: proxy.host, repository })
      .uploadBlob(descriptor, options.open ?? open)
      .catch((error: unknown) => (error as { code: string }).code);
    const direct = client.repository({ registry: registry.host, repository });
    const there = await direct.statBlob(descriptor.digest);
    const stored = there === undefined ? undefined : await bodyOf(await direct.openBlob(descriptor));
    return { outcome, stored, exchanges: proxy.exchanges };
  }

  const ofUpload = ({ path }: Exchange): boolean => path.includes('/blobs/uploads/') && !path.endsWith('/');
  const methods = (exchanges: FaultProxy['exchanges']): string =>
    exchanges.map(({ method }) => method).join(' ');

  test('goes whole in one request', async () => {
    const { outcome, stored, exchanges } = await upload(() => undefined);
    assert.equal(outcome, 'uploaded');
    assert.deepEqual(stored, content);
    assert.equal(methods(exchanges), 'HEAD POST PUT');
  });

  test('goes in chunks of the size asked for', async () => {
    const { outcome, stored, exchanges } = await upload(() => undefined, {
      client: { chunkSize: 2 * mebibyte },
    });
    assert.equal(outcome, 'uploaded');
    assert.deepEqual(stored, content);
    const ranges = exchanges.flatMap(({ headers }) => headers['content-range'] ?? []);
    assert.deepEqual(ranges, ['0-2097151', '2097152-4194303', `4194304-${content.length - 1}`]);
    assert.equal(methods(exchanges), 'HEAD POST PATCH PATCH PATCH PUT');
  });

  test('that broke off goes on where the registry stands, if it says so', async () => {
    let cuts = 0;
    const { outcome, stored, exchanges } = await upload(
      (exchange) =>
        ofUpload(exchange) && exchange.method === 'PUT' && ++cuts === 1
          ? { kind: 'cut-request', after: 3_000_000 }
          : undefined,
      { keepsCutUploads: true },
    );
    assert.equal(outcome, 'uploaded');
    assert.deepEqual(stored, content);
    assert.equal(methods(exchanges), 'HEAD POST PUT HEAD GET PATCH PUT');
    const rest = exchanges.find(({ method }) => method === 'PATCH')?.headers;
    assert.equal(rest?.['content-range'], `3000000-${content.length - 1}`);
  });

  test('begins anew where the registry forgot it', async () => {
    let cuts = 0;
    const { outcome, stored, exchanges } = await upload((exchange) =>
      ofUpload(exchange) && exchange.method === 'PUT' && ++cuts === 1
        ? { kind: 'cut-request', after: 3_000_000 }
        : undefined,
    );
    assert.equal(outcome, 'uploaded');
    assert.deepEqual(stored, content);
    assert.equal(methods(exchanges), 'HEAD POST PUT HEAD GET POST PUT');
  });

  for (const keepsCutUploads of [true, false])
    test(`survives cuts anywhere, with a registry that ${keepsCutUploads ? 'keeps' : 'forgets'} what arrived`, async () => {
      for (let seed = 1; seed <= 6; seed++) {
        const random = new SeededRandom(seed);
        let cuts = 0;
        const { outcome, stored } = await upload(
          (exchange) =>
            ofUpload(exchange) && exchange.method !== 'GET' && cuts < 3 && random.chance(0.6) && ++cuts > 0
              ? random.pick<Fault>([
                  { kind: 'cut-request', after: 2 + random.below(content.length) },
                  { kind: 'lose-answer' },
                ])
              : undefined,
          { keepsCutUploads, client: seed % 2 === 0 ? { chunkSize: mebibyte } : {} },
        );
        assert.equal(outcome, 'uploaded', `seed ${seed}`);
        assert.deepEqual(stored, content, `seed ${seed}`);
      }
    });

  test('whose last answer was lost is not sent again', async () => {
    let puts = 0;
    const { outcome, stored, exchanges } = await upload((exchange) =>
      exchange.method === 'PUT' && ++puts === 1 ? { kind: 'lose-answer' } : undefined,
    );
    assert.equal(outcome, 'uploaded');
    assert.deepEqual(stored, content);
    assert.equal(methods(exchanges), 'HEAD POST PUT HEAD');
  });

  test('goes in smaller and smaller chunks past a proxy that limits requests', async () => {
    const limit = 1.5 * mebibyte;
    const { outcome, stored, exchanges } = await upload(
      ({ headers }) =>
        Number(headers['content-length'] ?? 0) > limit ? { kind: 'answer', status: 413 } : undefined,
      { client: { chunkSize: 4 * mebibyte } },
    );
    assert.equal(outcome, 'uploaded');
    assert.deepEqual(stored, content);
    assert.ok(exchanges.filter(({ fault }) => fault !== undefined).length <= 3);
  });

  test('that no chunk is small enough for fails and says what to do', async () => {
    await using proxy = await startFaultProxy(registry.host, ({ method }) =>
      method === 'PUT' || method === 'PATCH' ? { kind: 'answer', status: 413 } : undefined,
    );
    await using client = new RegistryClient();
    await assert.rejects(
      client.repository({ registry: proxy.host, repository: 'small' }).uploadBlob(descriptor, open),
      { code: 'E_REGISTRY_REFUSED', message: /413/, remedy: /push-chunk-size/ },
    );
  });

  test('of content that is damaged here never reaches the registry', async () => {
    for (const damaged of [
      Buffer.concat([content.subarray(0, -1), Buffer.from([(content.at(-1) ?? 0) ^ 1])]),
      content.subarray(0, 4_000_000),
      Buffer.concat([content, Buffer.from('more')]),
    ]) {
      const { outcome, stored, exchanges } = await upload(() => undefined, {
        open: () => Promise.resolve(Readable.from(piecesOf(damaged))),
      });
      assert.equal(outcome, 'E_BLOB_CORRUPT');
      assert.equal(stored, undefined);
      assert.equal(methods(exchanges), 'HEAD POST PUT DELETE');
    }
  });

  test('that was damaged on its way is sent again', async () => {
    let puts = 0;
    const { outcome, stored } = await upload((exchange) =>
      exchange.method === 'PUT' && ++puts === 1 ? { kind: 'alter-request', at: 1_000_000 } : undefined,
    );
    assert.equal(outcome, 'uploaded');
    assert.deepEqual(stored, content);
  });

  test('says what its source says when that fails', async () => {
    const { outcome } = await upload(() => undefined, {
      open: () => Promise.reject(Object.assign(new Error('gone'), { code: 'ENOENT' })),
    });
    assert.equal(outcome, 'ENOENT');
  });

  test('without end is not tried', async () => {
    let starts = 0;
    const { outcome, stored } = await upload(
      (exchange) => {
        if (exchange.method === 'POST') starts += 1;
        return exchange.method === 'PUT' ? { kind: 'cut-request', after: 1000 } : undefined;
      },
      { client: { pushRetries: 2 } },
    );
    assert.equal(outcome, 'E_REGISTRY_UNAVAILABLE');
    assert.equal(stored, undefined);
    assert.equal(starts, 3);
  });

  test('can be found out to be allowed without leaving anything', async () => {
    await using client = new RegistryClient();
    await client.repository({ registry: registry.host, repository: 'allowed' }).checkPush();
    await registry.clearLog();
    await client.repository({ registry: registry.host, repository: 'allowed' }).checkPush();
    const log = (await registry.accessLog()).map((line) => line.replace(/uploads\/[^ ?]*[^ ]*/, 'uploads/'));
    assert.deepEqual(log, ['POST /v2/allowed/blobs/uploads/ 202', 'DELETE /v2/allowed/blobs/uploads/ 204']);
  });
});

test('chunks are as large as a registry wants them at least', async () => {
  const ranges: string[] = [];
  await using server = await serve((request, response) => {
    const range = request.headers['content-range'];
    if (range !== undefined) ranges.push(range);
    request.resume().once('end', () => {
      if (request.method === 'HEAD') response.writeHead(404).end();
      else if (request.method === 'POST')
        response.writeHead(202, { location: '/session', 'oci-chunk-min-length': '3000000' }).end();
      else if (request.method === 'PATCH')
        response.writeHead(202, { location: '/session', range: `0-${range?.split('-')[1] ?? ''}` }).end();
      else response.writeHead(201).end();
    });
  });
  await using client = new RegistryClient({ chunkSize: mebibyte });
  const repository = client.repository({ registry: server.host, repository: 'x' });
  assert.equal(await repository.uploadBlob(descriptor, open), 'uploaded');
  assert.deepEqual(ranges, ['0-2999999', `3000000-${content.length - 1}`]);
});
