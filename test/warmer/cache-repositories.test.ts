import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { gunzipSync } from 'node:zlib';
import { after, before, describe, test } from 'node:test';
import { fileLayer, type Layer } from '../../src/layer/index.ts';
import {
  type CacheKey,
  describeKey,
  type KeyDefinition,
  keyTag,
  openLayerCache,
  stepKey,
} from '../../src/layercache/index.ts';
import { type DiffID, digestOf, mediaTypes } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { openDaemon, type TestDaemon } from '../support/daemon.ts';
import { asked, type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { randomLayer } from '../support/images.ts';

const minute = 60_000;

describe('a cache repository', () => {
  let ground: DaemonGround;
  before(async () => {
    ground = await openDaemonGround();
  });
  after(() => ground[Symbol.asyncDispose]());

  async function layer(): Promise<Layer> {
    const file = await randomLayer(ground.directory, 'step', 2000);
    const bytes = await readFile(file);
    const tar = gunzipSync(bytes);
    return fileLayer(file, {
      digest: digestOf(bytes),
      diffID: digestOf(tar) as DiffID,
      size: bytes.length,
      uncompressedSize: tar.length,
      mediaType: mediaTypes.ociLayerGzip,
    });
  }

  /** Stores an entry as a build would, made so many minutes ago; without a layer it changed nothing. */
  async function store(
    repository: string,
    name: string,
    minutesAgo: number,
    options: { readonly empty?: boolean } = {},
  ): Promise<CacheKey> {
    const definition: KeyDefinition = {
      kind: 'run',
      parent: stepKey({ kind: 'base', chainID: null, platform: { os: 'linux', architecture: 'amd64' } }),
      argv: [name],
      env: {},
      user: '',
      workingDirectory: '/',
    };
    const key = stepKey(definition);
    await using client = new RegistryClient();
    const cache = openLayerCache(`${ground.registry.host}/${repository}`, client, 'test');
    const created = new Date(Date.now() - minutesAgo * minute);
    await cache.store(
      { key, parentChainID: null, created, createdBy: `RUN ${name}`, description: describeKey(definition) },
      options.empty === true ? undefined : await layer(),
    );
    return key;
  }

  async function warm(daemon: TestDaemon): Promise<string[]> {
    const { images } = await daemon.status();
    return images
      .filter(({ source, phase }) => source === 'cache-repository' && phase === 'warm')
      .map(({ reference }) => reference.replace(/^.*:/, ''))
      .sort();
  }

  const tags = (...keys: readonly CacheKey[]): string[] => keys.map(keyTag).sort();
  const until = (daemon: TestDaemon, wanted: readonly string[], what: string): Promise<unknown> =>
    daemon.until(
      ({ images }) =>
        images.filter(({ source, phase }) => source === 'cache-repository' && phase === 'warm').length ===
        wanted.length,
      what,
    );

  test('has its newest entries kept warm, and each manifest is read once', async () => {
    const [oldest, middle, newest] = [
      await store('app/cache', 'a', 30),
      await store('app/cache', 'b', 20),
      await store('app/cache', 'c', 10),
    ];
    await store('app/cache', 'nothing', 1, { empty: true });
    await ground.push('app/cache:not-an-entry');
    const yaml = `cacheRepositories: [{repository: "${ground.registry.host}/app/cache", newest: 2, refresh: 10m}]`;
    const volume = ground.path('volume');
    {
      await using daemon = await openDaemon(volume, yaml);
      await until(daemon, tags(middle, newest), 'the newest two');
      assert.deepEqual(await warm(daemon), tags(middle, newest));
      assert.equal((await daemon.status()).ready, true, 'readiness does not wait for the cache');
      await ground.registry.clearLog();
      const latest = await store('app/cache', 'd', 0);
      await daemon.clock.advance(12 * minute);
      await daemon.until(
        ({ images }) => images.some(({ reference, phase }) => reference.endsWith(latest) && phase === 'warm'),
        'the new entry',
      );
      assert.deepEqual(await warm(daemon), tags(newest, latest));
      const log = await ground.registry.accessLog();
      const read = asked(log, 'GET', '/app/cache/manifests/');
      assert.ok(
        read.every((line) => line.includes(latest) || line.includes('sha256:')),
        read.join('\n'),
      );
      assert.equal(read.filter((line) => line.includes(keyTag(latest))).length, 1);
      daemon.warming.report({
        build: 'x',
        succeeded: true,
        seconds: 1,
        bases: [],
        steps: { cached: 1, ran: 0 },
        cache: { location: `${ground.registry.host}/app/cache`, hits: [oldest] },
      });
      await daemon.clock.advance(12 * minute);
      await daemon.until(
        ({ images }) => images.some(({ reference, phase }) => reference.endsWith(oldest) && phase === 'warm'),
        'the entry in use',
      );
    }
    await ground.registry.clearLog();
    await using daemon = await openDaemon(volume, yaml);
    await daemon.event('pull');
    const log = await ground.registry.accessLog();
    assert.deepEqual(asked(log, 'GET', '/manifests/k1-'), [], 'a restart knows them');
  });

  test('that is missing or down stops nothing else', async () => {
    const name = await ground.push('image:1');
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: ["${name}"]\ncacheRepositories: [{repository: "${ground.registry.host}/none"}, {repository: "127.0.0.1:1/none"}]`,
    );
    await daemon.until(({ ready }) => ready, 'readiness');
    assert.ok(daemon.log.some((line) => line.includes('127.0.0.1:1/none')));
  });

  test('of which an entry disappears goes on with the others', async () => {
    const [gone, stays] = [await store('pruned', 'e', 1), await store('pruned', 'f', 2)];
    const yaml = `cacheRepositories: [{repository: "${ground.registry.host}/pruned", refresh: 10m}]`;
    await using daemon = await openDaemon(ground.path('volume'), yaml);
    await until(daemon, tags(gone, stays), 'both');
    await using client = new RegistryClient();
    const repository = client.repository({ registry: ground.registry.host, repository: 'pruned' });
    const head = await repository.headManifest(keyTag(gone));
    await repository.deleteManifest(head?.digest ?? '');
    await daemon.clock.advance(12 * minute);
    await until(daemon, tags(stays), 'one');
    assert.deepEqual(await warm(daemon), tags(stays));
  });
});
