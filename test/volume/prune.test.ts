import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseReference, parseReferencePattern } from '../../src/oci/index.ts';
import { type PrunePolicy, Volume } from '../../src/volume/index.ts';
import { FakeRegistry, amd64, temporaryDirectory, testImage } from './fixtures.ts';

const writable = { access: 'read-write' } as const;

/** A volume with an image for each name, of the layers that the seeds name, pulled one after the other. */
async function filled(
  images: Readonly<Record<string, readonly string[]>>,
  layerBytes = 10_000,
): Promise<{ volume: Volume; registry: FakeRegistry } & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const directory = stack.use(await temporaryDirectory());
  const volume = stack.use(await Volume.open(directory.path, writable));
  const registry = new FakeRegistry();
  for (const [name, seeds] of Object.entries(images)) {
    const reference = named(name);
    registry.push(reference, await testImage(seeds, layerBytes));
    await volume.pull(registry.client, reference, amd64);
  }
  const kept = stack.move();
  return { volume, registry, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

function named(name: string): ReturnType<typeof parseReference> {
  return parseReference(`test.invalid/${name}:${name}`);
}

async function names(volume: Volume): Promise<string[]> {
  return (await volume.images()).map(({ reference }) => /:([^:]*)$/.exec(reference)?.[1] ?? '').sort();
}

async function countFiles(volume: Volume): Promise<{ blobs: number; layers: number; ingest: number }> {
  const count = async (path: string): Promise<number> => (await readdir(join(volume.directory, path))).length;
  return { blobs: await count('blobs/sha256'), layers: await count('layers'), ingest: await count('ingest') };
}

async function use(volume: Volume, name: string): Promise<void> {
  const image = await volume.find(named(name), amd64);
  await using lease = await volume.acquireLayers(image?.layers ?? []);
  assert.ok(lease);
}

test('an image goes with what only it needs, and what it shares with others stays', async () => {
  await using given = await filled({ one: ['a', 'b'], two: ['a', 'c'] });
  const { volume } = given;
  const before = await countFiles(volume);
  assert.deepEqual(before, { blobs: 3 + 4, layers: 3, ingest: 0 });
  const policy: PrunePolicy = { references: [parseReferencePattern('test.invalid/one')] };
  const plan = await volume.planPrune(policy);
  assert.deepEqual(await countFiles(volume), before);
  const result = await volume.prune(plan);
  assert.equal(result.reclaimedBytes, plan.reclaimableBytes);
  assert.deepEqual(await names(volume), ['two']);
  assert.deepEqual(await countFiles(volume), { blobs: 4, layers: 2, ingest: 0 });
  await use(volume, 'two');
});

test('pinned and used images stay, the least recently used goes first, until the bound is kept', async () => {
  await using given = await filled({ one: ['a'], two: ['b'], three: ['c'], four: ['d'] });
  const { volume } = given;
  await volume.setPinned(named('one'), undefined, true);
  const image = await volume.find(named('two'), amd64);
  await using _lease = await volume.acquireLayers(image?.layers ?? []);
  const { space } = await volume.planPrune({ all: true });
  const result = await volume.prune({ maxUsedSpace: { bytes: space.used - 1 } });
  assert.deepEqual(
    result.removed.map((item) => item.kind === 'image' && item.reference),
    ['test.invalid/three:three'],
  );
  assert.deepEqual(result.skipped, { in_use: 1, pinned: 1, too_young: 0 });
  assert.deepEqual(await names(volume), ['four', 'one', 'two']);
});
