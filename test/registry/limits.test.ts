import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { RegistryClient } from '../../src/registry/index.ts';
import { FairQueue } from '../../src/registry/transfer/fair-queue.ts';
import { testBlob } from '../support/blobs.ts';
import { bodyOf, serve } from '../support/http.ts';
import { startRegistry } from '../support/registry.ts';

describe('a queue of places', () => {
  test('gives out no more than there are', async () => {
    const queue = new FairQueue(2);
    const [one] = await Promise.all([queue.acquire('a'), queue.acquire('a')]);
    let third = false;
    const waiting = queue.acquire('a').then(() => (third = true));
    await turn();
    assert.equal(third, false);
    one[Symbol.dispose]();
    await waiting;
    // Given back twice, it would be there twice.
    one[Symbol.dispose]();
    let fourth = false;
    void queue.acquire('a').then(() => (fourth = true));
    await turn();
    assert.equal(fourth, false);
  });

  test('lets who has few places go before who has many', async () => {
    const queue = new FairQueue(2);
    const order: string[] = [];
    const held: Disposable[] = [];
    const take = (key: string): Promise<void> =>
      queue.acquire(key).then((place) => {
        order.push(key);
        held.push(place);
      });
    await Promise.all([take('many'), take('many')]);
    const waiting = ['many', 'many', 'few', 'other'].map(take);
    for (let freed = 0; freed < 4; freed++) {
      held.shift()?.[Symbol.dispose]();
      await turn();
    }
    await Promise.all(waiting);
    // At the second turn `many` has none either, and has waited longer than `other`.
    assert.deepEqual(order, ['many', 'many', 'few', 'many', 'other', 'many']);
  });

  test('forgets who stops waiting', async () => {
    const queue = new FairQueue(1);
    const place = await queue.acquire('a');
    const controller = new AbortController();
    const given = queue.acquire('b', controller.signal);
    const next = queue.acquire('c');
    controller.abort();
    await assert.rejects(given, { name: 'AbortError' });
    await assert.rejects(queue.acquire('d', controller.signal), { name: 'AbortError' });
    place[Symbol.dispose]();
    (await next)[Symbol.dispose]();
  });
});

describe('transfers', () => {
  const { bytes: content, descriptor } = testBlob(randomBytes(200_000));

  /** A server that answers when it is told to. */
  async function patient(): Promise<
    AsyncDisposable & { host: string; waiting: ServerResponse[]; arrived: (count: number) => Promise<void> }
  > {
    const waiting: ServerResponse[] = [];
    const server = await serve((_request, response) => {
      waiting.push(response);
    });
    return {
      host: server.host,
      waiting,
      arrived: async (count) => {
        while (waiting.length < count) await turn();
      },
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    };
  }

  test('down are no more at the same time than was said, whatever images they are of', async () => {
    await using server = await patient();
    await using client = new RegistryClient({ concurrency: 2 });
    const bodies = ['a', 'a', 'a', 'b', 'b'].map(async (repository) =>
      bodyOf(await client.repository({ registry: server.host, repository }).openBlob(descriptor)),
    );
    for (let done = 0; done < bodies.length; done++) {
      await server.arrived(Math.min(bodies.length, done + 2));
      for (let turns = 0; turns < 20; turns++) await turn();
      assert.equal(server.waiting.length, Math.min(bodies.length, done + 2));
      server.waiting[done]?.end(content);
    }
    for (const body of await Promise.all(bodies)) assert.deepEqual(body, content);
  });

  test('that nobody reads, or nobody reads any more, take no place', async () => {
    await using server = await patient();
    await using client = new RegistryClient({ concurrency: 1 });
    const repository = client.repository({ registry: server.host, repository: 'x' });
    const unread = await repository.openBlob(descriptor);
    const left = await repository.openBlob(descriptor);
    left.once('data', () => undefined);
    await server.arrived(1);
    left.destroy();
    await once(left, 'close');
    const body = bodyOf(await repository.openBlob(descriptor));
    await server.arrived(2);
    server.waiting[1]?.end(content);
    assert.deepEqual(await body, content);
    unread.destroy();
  });

  test('do not keep documents waiting', async () => {
    await using server = await serve((request, response) => {
      if (request.url?.includes('/x/') === true) response.flushHeaders();
      else response.end(content);
    });
    await using client = new RegistryClient({ concurrency: 1 });
    const stuck = await client.repository({ registry: server.host, repository: 'x' }).openBlob(descriptor);
    stuck.once('data', () => undefined);
    while (server.requests.length < 1) await turn();
    const other = client.repository({ registry: server.host, repository: 'y' });
    assert.deepEqual(Buffer.from(await other.readBlob(descriptor, 1_000_000)), content);
    stuck.destroy();
  });

  test('between repositories of one registry never wait for each other', async () => {
    await using registry = await startRegistry();
    for (const options of [{ concurrency: 1 }, {}]) {
      await using client = new RegistryClient(options);
      const from = client.repository({ registry: registry.host, repository: 'from' });
      const to = client.repository({ registry: registry.host, repository: `to${options.concurrency ?? ''}` });
      const blobs = Array.from({ length: 40 }, () => testBlob(randomBytes(100_000)));
      await Promise.all(blobs.map((blob) => from.uploadBlob(blob.descriptor, blob.open)));
      const outcomes = await Promise.all(
        blobs.map((blob) =>
          to.uploadBlob(blob.descriptor, (signal) => from.openBlob(blob.descriptor, signal)),
        ),
      );
      assert.deepEqual([...new Set(outcomes)], ['uploaded']);
    }
  });

  test('all together keep to the bandwidth that was said, in both directions', async () => {
    await using registry = await startRegistry();
    const bytesPerSecond = 2_000_000;
    await using client = new RegistryClient({ bytesPerSecond });
    const repository = client.repository({ registry: registry.host, repository: 'x' });
    const blobs = Array.from({ length: 4 }, () => testBlob(randomBytes(400_000)));
    const started = performance.now();
    await Promise.all(blobs.map((blob) => repository.uploadBlob(blob.descriptor, blob.open)));
    await Promise.all(blobs.map(async (blob) => bodyOf(await repository.openBlob(blob.descriptor))));
    const seconds = (performance.now() - started) / 1000;
    // A tenth of a second may run ahead.
    assert.ok(seconds >= 3_200_000 / bytesPerSecond - 0.1, `${seconds} s`);
  });
});
