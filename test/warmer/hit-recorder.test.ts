import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import {
  addHits,
  type CacheKey,
  encodeHits,
  hitsTag,
  openEntryStore,
  openLayerCache,
  readInventory,
} from '../../src/layercache/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { decodeBuildReport } from '../../src/volume/index.ts';
import { storeChain } from '../support/cache-chains.ts';
import { eventually, openDaemon, type TestDaemon } from '../support/daemon.ts';
import { asked, type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { kiln } from '../support/programs.ts';

const minute = 60_000;

describe('what builds hit', () => {
  let ground: DaemonGround;
  let client: RegistryClient;
  before(async () => {
    ground = await openDaemonGround();
    client = new RegistryClient();
  });
  after(async () => {
    await client[Symbol.asyncDispose]();
    await ground[Symbol.asyncDispose]();
  });

  const report = (daemon: TestDaemon, location: string, hits: readonly string[]): void =>
    daemon.warming.report({
      ...{ build: 'x', succeeded: true, seconds: 1, bases: [], steps: { cached: 1, ran: 0 } },
      cache: { location, hits },
    });
  const configured = (): string => `recordHits: {repositories: ["${ground.registry.host}/**"]}`;
  /** Keys of a cache with a hit on record. */
  async function hitKeys(cache: string): Promise<CacheKey[]> {
    const { entries } = await readInventory(openEntryStore(cache, client));
    return entries.filter(({ usedAt }) => usedAt !== undefined).map(({ key }) => key);
  }
  async function filled(name: string): Promise<{ cache: string; keys: CacheKey[] }> {
    const cache = `${ground.registry.host}/${name}`;
    const steps = ['a', 'b', 'c'].map((run) => ({ run, hoursAgo: 900 }));
    return { cache, keys: await storeChain(openLayerCache(cache, client, 'test'), { line: name, steps }) };
  }

  test('is recorded in each of the caches that a build read', async () => {
    const [main, own] = [await filled('main'), await filled('own')];
    await using daemon = await openDaemon(ground.path('several'), configured());
    daemon.warming.report(
      decodeBuildReport({
        ...{ build: 'x', succeeded: true, seconds: 1, bases: [], steps: { cached: 2, ran: 0 } },
        cache: { location: own.cache, hits: [own.keys[0]] },
        otherCaches: [{ location: main.cache, hits: [main.keys[1]] }],
      }),
    );
    await daemon.clock.advance(16 * minute);
    await eventually(async () => ((await hitKeys(main.cache)).length > 0 ? true : undefined), 'the record');
    assert.deepEqual([await hitKeys(own.cache), await hitKeys(main.cache)], [[own.keys[0]], [main.keys[1]]]);
  });

  test('is written into the cache a quarter of an hour later, as one artifact a day, also over a restart', async () => {
    const { cache, keys } = await filled('daily');
    const volume = ground.path('volume');
    {
      await using daemon = await openDaemon(volume, configured());
      await ground.registry.clearLog();
      for (let build = 0; build < 100; build++) report(daemon, cache, [keys[0] ?? '', 'not a key']);
      assert.deepEqual(await ground.registry.accessLog(), [], 'a build costs no request');
      await daemon.clock.advance(16 * minute);
      await eventually(async () => ((await hitKeys(cache)).length > 0 ? true : undefined), 'the record');
      assert.deepEqual(await hitKeys(cache), [keys[0]]);
      assert.equal(
        asked(await ground.registry.accessLog(), 'PUT', '/manifests/').length,
        1,
        'one for all builds',
      );
      report(daemon, cache, [keys[1] ?? '']);
    }
    assert.deepEqual(
      (await hitKeys(cache)).sort(),
      [keys[0], keys[1]].sort(),
      'the rest when the daemon ends',
    );
    {
      await using daemon = await openDaemon(volume, configured());
      report(daemon, cache, [keys[2] ?? '']);
    }
    const { hitRecords } = await readInventory(openEntryStore(cache, client));
    assert.equal((await hitKeys(cache)).length, 3);
    assert.equal(hitRecords.length, 1, 'the same record was continued');
  });

  test('is written only where the configuration says, whatever a build says', async () => {
    const { cache, keys } = await filled('elsewhere');
    {
      await using daemon = await openDaemon(
        ground.path('volume'),
        'recordHits: {repositories: ["other.example/**"]}',
      );
      await ground.registry.clearLog();
      for (const location of [cache, 'oci:/tmp/x', '../..', 'https://evil.example/'])
        report(daemon, location, keys);
      await daemon.clock.advance(16 * minute);
    }
    assert.deepEqual(asked(await ground.registry.accessLog(), 'PUT', ''), []);
    assert.deepEqual(await hitKeys(cache), []);
  });

  test('is tried again when the registry was away, and said once', async () => {
    await using daemon = await openDaemon(
      ground.path('volume'),
      'recordHits: {repositories: ["127.0.0.1:1/**"]}',
    );
    report(daemon, '127.0.0.1:1/cache', ['0'.repeat(64)]);
    for (let round = 0; round < 3; round++) await daemon.clock.advance(16 * minute);
    const said = (): string[] => daemon.log.filter((line) => line.includes('hits were not recorded'));
    await eventually(() => Promise.resolve(said().length > 0 ? true : undefined), 'a warning');
    assert.equal(said().length, 1);
  });

  test('keeps entries from a prune of what is not used, and records of past days become one', async () => {
    const { cache, keys } = await filled('pruned');
    const store = openEntryStore(cache, client);
    const day = 86_400_000;
    const at = (days: number): number => Math.floor((Date.now() - days * day) / 1000);
    for (const [node, days, hits] of [
      ['node1', 3, [keys[0]]],
      ['node2', 4, [keys[1]]],
      ['node1', 50, [keys[2]]],
      ['node1', 0, [keys[0]]],
    ] as const) {
      const record = new Map<CacheKey, number>();
      addHits(record, new Map(hits.map((key) => [key as CacheKey, at(days)])));
      await store.putArtifact(encodeHits(hitsTag(new Date(Date.now() - days * day), node), record));
    }
    const args = ['remote', 'prune', '--cache-repo', cache, '--unused-for', '30d', '--force', '-o', 'json'];
    const pruned = await kiln('warmer', args);
    assert.equal(pruned.code, 0, pruned.stderr);
    const { entries, hitRecords } = await readInventory(store);
    assert.deepEqual(entries.map(({ key }) => key).sort(), [keys[0], keys[1]].sort());
    assert.deepEqual([...hitRecords].sort(), [hitsTag(new Date(), 'node1'), 'k1-hits-folded'].sort());
    assert.equal((await hitKeys(cache)).length, 2, 'nothing was lost by that');
  });

  test('that is not on record is warned of', async () => {
    const { cache } = await filled('unrecorded');
    const { stderr } = await kiln('warmer', [
      'remote',
      'prune',
      '--cache-repo',
      cache,
      '--unused-for',
      '30d',
      '--dry-run',
    ]);
    assert.match(stderr, /no hits are recorded here/);
  });
});
