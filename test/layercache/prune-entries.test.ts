import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { join } from 'node:path';
import {
  type CacheInventory,
  type CacheKey,
  defaultGraceSeconds,
  describeKey,
  type EntryPolicy,
  openEntryStore,
  openLayerCache,
  planEntryPrune,
  readInventory,
  stepKey,
} from '../../src/layercache/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { fakeLayer, storeChain, type TestChain } from '../support/cache-chains.ts';
import { temporaryDirectory } from '../support/programs.ts';

/** The inventory of a layout with these chains, and their keys. */
async function cacheOf(
  chains: Readonly<Record<string, TestChain>>,
): Promise<{ inventory: CacheInventory; keys: Record<string, CacheKey[]> }> {
  await using scratch = await temporaryDirectory();
  await using client = new RegistryClient();
  const location = `oci:${join(scratch.path, 'cache')}`;
  const cache = openLayerCache(location, client, 'test');
  const keys: Record<string, CacheKey[]> = {};
  for (const [name, chain] of Object.entries(chains)) keys[name] = await storeChain(cache, chain);
  const inventory = await readInventory(openEntryStore(location, client));
  // The files of a layout are as new as the test, which is not what is tested here.
  return {
    inventory: { ...inventory, entries: inventory.entries.map((entry) => ({ ...entry, usedAt: undefined })) },
    keys,
  };
}

const hour = 3600;
const policy = (more: Partial<EntryPolicy>): EntryPolicy => ({ graceSeconds: defaultGraceSeconds, ...more });
const goes = (inventory: CacheInventory, more: Partial<EntryPolicy>): CacheKey[] =>
  planEntryPrune(inventory, policy(more))
    .remove.map(({ key }) => key)
    .sort();

describe('what a prune of a cache takes', () => {
  let inventory: CacheInventory;
  let keys: Record<string, CacheKey[]>;
  before(async () => {
    ({ inventory, keys } = await cacheOf({
      old: {
        line: 'app Dockerfile build',
        steps: [
          { run: 'apt', hoursAgo: 100 },
          { run: 'v1', hoursAgo: 90 },
        ],
      },
      middle: {
        line: 'app Dockerfile build',
        steps: [
          { run: 'apt', hoursAgo: 100 },
          { run: 'v2', hoursAgo: 50 },
        ],
      },
      young: {
        line: 'app Dockerfile build',
        steps: [
          { run: 'apt', hoursAgo: 100 },
          { run: 'v3', hoursAgo: 0.1 },
        ],
      },
      other: {
        line: 'other Dockerfile',
        steps: [
          { run: 'make', hoursAgo: 80 },
          { run: 'install', hoursAgo: 80 },
        ],
      },
    }));
  });
  const of = (name: string): CacheKey[] => keys[name] ?? [];
  const last = (name: string): CacheKey => of(name).at(-1) as CacheKey;

  test('is never an entry on which something stands that stays', () => {
    assert.deepEqual(goes(inventory, { olderThanSeconds: 70 * hour }), [last('old'), ...of('other')].sort());
  });

  test('is nothing made within the grace period, whatever is said, nor what that stands on', () => {
    assert.deepEqual(goes(inventory, { all: true }), [last('old'), last('middle'), ...of('other')].sort());
    assert.deepEqual(planEntryPrune(inventory, policy({ all: true })).skipped, {
      too_young: 2,
      kept_chain: 0,
    });
  });

  test('leaves the newest chains of each line', () => {
    assert.deepEqual(goes(inventory, { keepLast: 1 }), [last('old'), last('middle')].sort());
    assert.deepEqual(goes(inventory, { keepLast: 2 }), [last('old')]);
  });

  test('leaves what is named, with all below it', () => {
    assert.deepEqual(
      goes(inventory, { keepKeys: new Set([last('old')]) }),
      [last('middle'), ...of('other')].sort(),
    );
  });

  test('is the least recently used until a bound is kept', () => {
    assert.equal(inventory.entries.length, 6);
    assert.deepEqual(goes(inventory, { maxEntries: 5 }), [last('old')]);
    assert.deepEqual(goes(inventory, { maxEntries: 4 }), [last('old'), last('other')].sort());
    const { missing } = planEntryPrune(inventory, policy({ maxEntries: 1 }));
    assert.deepEqual(missing, { entries: 1, bytes: 0 }, 'what is young stays, and that is said');
  });

  test('counts a hit as a use, also of what is below', () => {
    const used = new Date(Date.now() - 2 * hour * 1000);
    const hit = inventory.entries.map((entry) =>
      entry.key === last('other') ? { ...entry, usedAt: used } : entry,
    );
    assert.deepEqual(
      goes({ ...inventory, entries: hit }, { unusedForSeconds: 24 * hour }),
      [last('old'), last('middle')].sort(),
    );
  });

  test('is refused when nothing is said', () => {
    assert.throws(() => planEntryPrune(inventory, policy({})), { code: 'E_POLICY_EMPTY' });
  });

  test('is removed from the tips down', () => {
    const order = planEntryPrune(inventory, policy({ olderThanSeconds: 70 * hour })).remove.map(
      ({ key }) => key,
    );
    assert.ok(order.indexOf(last('other')) < order.indexOf(of('other')[0] as CacheKey));
  });
});

describe('a cache with stages', () => {
  test('keeps a stage as long as a copy from it is kept, and a copy with its content key', async () => {
    await using scratch = await temporaryDirectory();
    await using client = new RegistryClient();
    const location = `oci:${join(scratch.path, 'cache')}`;
    const cache = openLayerCache(location, client, 'test');
    const [stage] = await storeChain(cache, { line: 'app build', steps: [{ run: 'make', hoursAgo: 50 }] });
    assert.ok(stage !== undefined);
    const [first, copy] = await storeChain(cache, {
      line: 'app final',
      steps: [
        { run: 'apt', hoursAgo: 50 },
        { run: '/app', from: stage, result: 'binary', hoursAgo: 3 },
      ],
    });
    assert.ok(first !== undefined && copy !== undefined);
    const byContent = {
      kind: 'copy',
      parent: first,
      destination: '/app',
      chown: null,
      chmod: null,
      content: fakeLayer('x').digest,
      files: [],
      unpackArchives: false,
      keepOwners: true,
    } as const;
    await cache.store(
      {
        key: stepKey(byContent),
        parentChainID: fakeLayer('apt').diffID as never,
        created: new Date(Date.now() - 50 * hour * 1000),
        createdBy: 'COPY',
        description: describeKey(byContent),
      },
      fakeLayer('binary'),
    );
    const read = await readInventory(openEntryStore(location, client));
    const inventory = { ...read, entries: read.entries.map((entry) => ({ ...entry, usedAt: undefined })) };
    assert.deepEqual(goes(inventory, { olderThanSeconds: 24 * hour }), [], 'the copy is younger');
    assert.equal(goes(inventory, { olderThanSeconds: 2 * hour }).length, 4);
  });

  test('has unreachable entries above a gap, and above a step that was made anew with another result', async () => {
    const { inventory, keys } = await cacheOf({
      sound: {
        line: 'a',
        steps: [
          { run: 'one', hoursAgo: 5 },
          { run: 'two', hoursAgo: 5 },
        ],
      },
      before: {
        line: 'b',
        steps: [
          { run: 'date', result: 'monday', hoursAgo: 5 },
          { run: 'use', hoursAgo: 5 },
        ],
      },
      again: { line: 'b', steps: [{ run: 'date', result: 'tuesday', hoursAgo: 4 }] },
    });
    const use = keys.before?.[1];
    assert.deepEqual(goes(inventory, { unreachable: true }), [use]);
    const holed = inventory.entries.filter(({ key }) => key !== keys.sound?.[0]);
    assert.deepEqual(
      goes({ ...inventory, entries: holed }, { unreachable: true }),
      [use, keys.sound?.[1]].sort(),
    );
  });
});
