import assert from 'node:assert/strict';
import { readFile, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type DiffID, digestHex, parseReference, parseReferencePattern } from '../../src/oci/index.ts';
import { FileLock } from '../../src/volume/file-lock.ts';
import { OciLayout, type PrunePolicy, type PruneResult, Volume } from '../../src/volume/index.ts';
import { FakeRegistry, amd64, temporaryDirectory, testImage } from './fixtures.ts';

const writable = { access: 'read-write' } as const;
const hour = 3600_000;
const isRoot = process.getuid?.() === 0;

interface Given extends AsyncDisposable {
  readonly volume: Volume;
  readonly registry: FakeRegistry;
}

/** A volume with an image for each name, of the layers that the seeds name, pulled one after the other. */
async function filled(
  images: Readonly<Record<string, readonly string[]>>,
  {
    layerBytes = 10_000,
    unpack = true,
    directory,
  }: { layerBytes?: number; unpack?: boolean; directory?: string } = {},
): Promise<Given> {
  await using stack = new AsyncDisposableStack();
  const path = directory ?? stack.use(await temporaryDirectory()).path;
  const volume = stack.use(await Volume.open(path, writable));
  const registry = new FakeRegistry();
  for (const [name, seeds] of Object.entries(images)) {
    const reference = named(name);
    registry.push(reference, await testImage(seeds, layerBytes));
    await volume.pull(registry.client, reference, amd64, { unpack });
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

async function counts(volume: Volume): Promise<{ blobs: number; layers: number; ingest: number }> {
  const count = async (path: string): Promise<number> => (await readdir(join(volume.directory, path))).length;
  return { blobs: await count('blobs/sha256'), layers: await count('layers'), ingest: await count('ingest') };
}

async function use(volume: Volume, name: string): Promise<void> {
  const image = await volume.find(named(name), amd64);
  await using lease = await volume.acquireLayers(image?.layers ?? []);
  assert.ok(lease);
}

/** Makes it look as if images had been pulled hours ago. */
async function age(volume: Volume, hours: Readonly<Record<string, number>>): Promise<void> {
  const path = join(volume.directory, 'index.json');
  const index = JSON.parse(await readFile(path, 'utf8')) as {
    manifests: { annotations: Record<string, string> }[];
  };
  for (const { annotations } of index.manifests) {
    const name = /:([^:]*)$/.exec(annotations['org.opencontainers.image.ref.name'] ?? '')?.[1] ?? '';
    const pulled = new Date(Date.now() - (hours[name] ?? 0) * hour).toISOString();
    if (name in hours) annotations['dev.kiln.pulled-at'] = pulled;
  }
  await writeFile(path, JSON.stringify(index));
}

function removed({ removed: items }: Pick<PruneResult, 'removed'>): string[] {
  return items.map((item) =>
    item.kind === 'image' ? (/:([^:]*)$/.exec(item.reference)?.[1] ?? '') : item.kind,
  );
}

test('an image goes with what only it needs, and what it shares with others stays', async () => {
  await using given = await filled({ one: ['a', 'b'], two: ['a', 'c'] });
  const { volume } = given;
  const before = await counts(volume);
  assert.deepEqual(before, { blobs: 3 + 4, layers: 3, ingest: 0 });
  const policy: PrunePolicy = { references: [parseReferencePattern('test.invalid/one')] };
  const plan = await volume.planPrune(policy);
  assert.deepEqual(await counts(volume), before, 'planning changes nothing');
  const result = await volume.prune(plan);
  assert.equal(result.reclaimedBytes, plan.reclaimableBytes);
  assert.deepEqual(removed(result), ['one']);
  assert.deepEqual(await names(volume), ['two']);
  assert.deepEqual(await counts(volume), { blobs: 4, layers: 2, ingest: 0 });
  await use(volume, 'two');
});

test('two images that share everything are freed by the second one that goes', async () => {
  await using given = await filled({ one: ['a'] });
  const { volume, registry } = given;
  registry.push(named('twin'), await testImage(['a'], 10_000));
  await volume.pull(registry.client, named('twin'), amd64);
  const plan = await volume.planPrune({ all: true });
  assert.deepEqual(
    plan.items.map(({ bytes }) => bytes > 0),
    [false, true],
  );
  await volume.prune(plan);
  assert.deepEqual(await counts(volume), { blobs: 0, layers: 0, ingest: 0 });
});

test('pinned and used images stay, the least recently used goes first, until the bound is kept', async () => {
  await using given = await filled({ one: ['a'], two: ['b'], three: ['c'], four: ['d'] });
  const { volume } = given;
  await volume.setPinned(named('one'), undefined, true);
  const image = await volume.find(named('two'), amd64);
  await using _lease = await volume.acquireLayers(image?.layers ?? []);
  const { space } = await volume.planPrune({ all: true });
  const result = await volume.prune({ maxUsedSpace: { bytes: space.used - 1 } });
  assert.deepEqual(removed(result), ['three']);
  assert.deepEqual(result.skipped, { in_use: 1, pinned: 1, too_young: 0 });
  assert.deepEqual(await names(volume), ['four', 'one', 'two']);
});

test('a use makes an image the last to go, and a blob that is leased is in use too', async () => {
  await using given = await filled({ one: ['a'], two: ['b'] });
  const { volume } = given;
  await use(volume, 'one');
  await volume[Symbol.asyncDispose]();
  await using again = await Volume.open(volume.directory, writable);
  const plan = await again.planPrune({ all: true });
  assert.deepEqual(removed({ removed: plan.items }), ['two', 'one']);
  const image = await again.find(named('two'), amd64);
  await using _blobs = await again.acquireBlobs(image?.layers.map(({ digest }) => digest) ?? []);
  const result = await again.prune(plan);
  assert.deepEqual([removed(result), result.skipped.in_use], [['one'], 1]);
  assert.deepEqual(await names(again), ['two']);
});

test('conditions are ages, last uses, patterns and filters, all of which are to be met', async () => {
  await using given = await filled({ old: ['a'], used: ['b'], young: ['c'], pinned: ['d'] });
  const { volume } = given;
  await age(volume, { old: 50, used: 50, young: 1, pinned: 50 });
  await volume.setPinned(named('pinned'), undefined, true);
  await use(volume, 'used');
  await volume.markUsed(named('used'), amd64);
  await volume[Symbol.asyncDispose]();
  await using again = await Volume.open(volume.directory, writable);
  const planned = async (policy: PrunePolicy): Promise<string[]> =>
    removed({ removed: (await again.planPrune(policy)).items }).sort();
  assert.deepEqual(await planned({ olderThanSeconds: 48 * 3600 }), ['old', 'used']);
  assert.deepEqual(await planned({ unusedForSeconds: 48 * 3600 }), ['old']);
  assert.deepEqual(await planned({ unusedForSeconds: 1800 }), ['old', 'young']);
  assert.deepEqual(await planned({ references: [parseReferencePattern('test.invalid/o*')] }), ['old']);
  assert.deepEqual(await planned({ filters: [{ key: 'repo', operator: '~=', value: '/(old|used)$' }] }), [
    'old',
    'used',
  ]);
  assert.deepEqual(await planned({ all: true, minimumAgeSeconds: 7200 }), ['old']);
  assert.deepEqual(await planned({ all: true, keep: ({ reference }) => reference.includes('old') }), [
    'used',
    'young',
  ]);
  assert.deepEqual(await planned({ filters: [{ key: 'pinned', operator: '=', value: 'true' }] }), []);
  const { skipped } = await again.planPrune({ all: true, minimumAgeSeconds: 7200 });
  assert.deepEqual(skipped, { in_use: 0, pinned: 1, too_young: 2 });
});

test('without their unpacked layers images stay, and can be used again', async () => {
  await using given = await filled({ one: ['a', 'b'], two: ['a', 'c'] });
  const { volume } = given;
  const image = await volume.find(named('two'), amd64);
  const only = image?.layers.slice(1) ?? [];
  await using _lease = await volume.acquireLayers(only);
  const result = await volume.prune({ unpackedOnly: true, all: true });
  assert.deepEqual(removed(result), ['one', 'two']);
  assert.equal(result.skipped.in_use, 1);
  assert.deepEqual(await names(volume), ['one', 'two']);
  assert.deepEqual(await counts(volume), { blobs: 7, layers: 1, ingest: 0 });
  await use(volume, 'one');
});

test('blobs of replaced images and of pulls that broke off go once the grace period is over', async () => {
  await using given = await filled({ one: ['a', 'b'] });
  const { volume, registry } = given;
  registry.push(named('one'), await testImage(['a', 'c'], 10_000));
  await volume.pull(registry.client, named('one'), amd64);
  const early = await volume.prune({ filters: [{ key: 'type', operator: '=', value: 'blob' }] });
  assert.deepEqual([removed(early), early.skipped.too_young], [[], 3]);
  const late = await volume.prune({
    filters: [{ key: 'type', operator: '=', value: 'blob' }],
    gracePeriodSeconds: 0,
  });
  assert.deepEqual(removed(late), ['blob', 'blob', 'blob']);
  assert.deepEqual(await counts(volume), { blobs: 4, layers: 3, ingest: 0 });
  const layers = await volume.prune({ filters: [{ key: 'type', operator: '=', value: 'layer' }] });
  assert.deepEqual(removed(layers), ['layer']);
  await use(volume, 'one');
});

test('unpacked layers of no image go by their last use', async () => {
  await using given = await filled({ one: ['a'] });
  const { volume } = given;
  await using elsewhere = await filled({ other: ['x', 'y'] });
  const other = await elsewhere.volume.find(named('other'), amd64);
  await using lease = await volume.acquireLayers(other?.layers ?? []);
  assert.equal(lease?.paths.length, 2);
  await lease[Symbol.asyncDispose]();
  const [x, y] =
    other?.layers.map(({ diffID }) => join(volume.directory, 'layers', digestHex(diffID), 'sealed')) ?? [];
  const past = new Date(Date.now() - 5 * hour);
  await utimes(x ?? '', past, past);
  const result = await volume.prune({ unusedForSeconds: 4 * 3600 });
  assert.deepEqual(removed(result), ['layer']);
  await assert.rejects(stat(x ?? ''), { code: 'ENOENT' });
  await stat(y ?? '');
  assert.ok(result.reclaimedBytes >= 10_000);
});

test('images and blobs that other tools put here stay', async () => {
  await using given = await filled({ one: ['a'] });
  const { volume } = given;
  const layout = await OciLayout.open(volume.directory, writable);
  const { image, blobs } = await testImage(['theirs'], 10_000);
  for (const layer of image.manifest.layers)
    await layout.blobs.put(layer.mediaType, blobs.get(layer.digest) ?? new Uint8Array());
  await layout.blobs.put(image.manifest.config.mediaType, image.configBytes);
  await layout.putManifest(image.descriptor.mediaType, image.manifestBytes, { name: 'theirs' });
  const result = await volume.prune({ all: true, gracePeriodSeconds: 0 });
  assert.deepEqual(removed(result), ['one']);
  assert.deepEqual(await counts(volume), { blobs: 3, layers: 0, ingest: 0 });
});

test('an image that was pulled again or pinned since the plan stays', async () => {
  await using given = await filled({ again: ['a'], pinned: ['b'], gone: ['c'] });
  const { volume, registry } = given;
  const plan = await volume.planPrune({ all: true });
  registry.push(named('again'), await testImage(['a', 'new'], 10_000));
  await volume.pull(registry.client, named('again'), amd64);
  await volume.setPinned(named('pinned'), amd64, true);
  const result = await volume.prune(plan);
  assert.deepEqual([removed(result), result.skipped.pinned], [['gone'], 1]);
  for (const name of ['again', 'pinned']) await use(volume, name);
});

test('a pin survives a pull, and unpinning makes the image ordinary again', async () => {
  await using given = await filled({ one: ['a'] });
  const { volume, registry } = given;
  assert.deepEqual(await volume.setPinned(named('one'), undefined, true), ['linux/amd64']);
  registry.push(named('one'), await testImage(['b'], 10_000));
  await volume.pull(registry.client, named('one'), amd64);
  assert.equal((await volume.images())[0]?.pinned, true);
  await volume.setPinned(named('one'), amd64, false);
  assert.equal((await volume.images())[0]?.pinned, false);
  const arm64 = { os: 'linux', architecture: 'arm64' };
  for (const [reference, platform] of [
    [named('two'), undefined],
    [named('one'), arm64],
  ] as const)
    await assert.rejects(volume.setPinned(reference, platform, true), { code: 'E_IMAGE_NOT_WARM' });
});

test('a damaged index.json is no reason to take everything', async () => {
  await using given = await filled({ one: ['a'] });
  const { volume } = given;
  const before = await counts(volume);
  for (const damage of [
    () => writeFile(join(volume.directory, 'index.json'), '{"schemaVersion":2,"manif'),
    () => rm(join(volume.directory, 'index.json')),
  ]) {
    await damage();
    await assert.rejects(volume.prune({ all: true, gracePeriodSeconds: 0 }), { code: 'E_INDEX_DAMAGED' });
  }
  assert.deepEqual(await counts(volume), before);
});

test('while a manifest is damaged, blobs that only seem to belong to nobody stay', async () => {
  await using given = await filled({ one: ['a'], two: ['b'] });
  const { volume } = given;
  const { descriptor } = (await volume.find(named('one'), amd64)) ?? {};
  assert.ok(descriptor);
  await rm(join(volume.directory, 'blobs/sha256', digestHex(descriptor.digest)));
  await rm(join(volume.directory, 'index.db'), { force: true });
  const policy: PrunePolicy = {
    filters: [{ key: 'type', operator: '=', value: 'blob' }],
    gracePeriodSeconds: 0,
  };
  const plan = await volume.planPrune(policy);
  assert.deepEqual([plan.items, plan.damaged], [[], 1]);
});

test('two prunes at once do not get in each other’s way', async () => {
  await using given = await filled({ one: ['a'] });
  const { volume } = given;
  await using lock = await FileLock.tryAcquire(join(volume.directory, 'ingest/prune.lock'));
  assert.ok(lock);
  await assert.rejects(volume.prune({ all: true }), { code: 'E_VOLUME_LOCKED' });
  assert.deepEqual(await names(volume), ['one']);
});

test('a volume opened for reading plans a prune and carries none out', async () => {
  await using given = await filled({ one: ['a'] });
  await using reader = await Volume.open(given.volume.directory, { access: 'read-only' });
  assert.equal((await reader.planPrune({ all: true })).items.length, 1);
  await assert.rejects(reader.prune({ all: true }), { code: 'E_VOLUME_READ_ONLY' });
});

for (const [what, unpack] of [
  ['packed', false],
  ['unpacked', true],
] as const)
  test(`a disk without a byte left can be pruned, with ${what} images`, { skip: !isRoot }, async () => {
    await using mountPoint = await temporaryDirectory();
    const { mount, unmount } = await import('../../src/os/index.ts');
    mount('tmpfs', mountPoint.path, 'tmpfs', 0, 'size=4m');
    try {
      await using given = await filled(
        { one: ['a'], two: ['b'], three: ['c'] },
        { layerBytes: 100_000, unpack, directory: mountPoint.path },
      );
      const { volume } = given;
      await fillDisk(mountPoint.path);
      await assert.rejects(writeFile(join(mountPoint.path, 'more'), 'x'.repeat(5000)), { code: 'ENOSPC' });
      const result = await volume.prune({
        references: ['one', 'two'].map((name) => parseReferencePattern(`test.invalid/${name}`)),
      });
      assert.deepEqual(removed(result).sort(), ['one', 'two']);
      assert.ok(result.reclaimedBytes >= 200_000);
      assert.deepEqual(await names(volume), ['three']);
      assert.ok(await volume.find(named('three'), amd64));
    } finally {
      unmount(mountPoint.path, { detach: true });
    }
  });

/** Leaves not a byte free on a file system. */
async function fillDisk(directory: string): Promise<void> {
  for (let size = 1 << 20; size >= 4096; size >>= 1)
    for (let number = 0; ; number += 1)
      try {
        await writeFile(join(directory, `filler-${size}-${number}`), Buffer.alloc(size), { flag: 'wx' });
      } catch (error) {
        assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
        await rm(join(directory, `filler-${size}-${number}`), { force: true });
        break;
      }
}

test('the layer of an image is known by its DiffID to lists that have no index database', async () => {
  await using given = await filled({ one: ['a', 'b'] });
  const { volume } = given;
  await volume[Symbol.asyncDispose]();
  const list = async (): Promise<unknown> => {
    await using reader = await Volume.open(volume.directory, { access: 'read-only' });
    const [details] = await reader.inspect(named('one'));
    return [await reader.images(), details?.layers.map(({ diffID }: { diffID: DiffID }) => diffID)];
  };
  const withIndex = await list();
  await rm(join(volume.directory, 'index.db'));
  assert.deepEqual(await list(), withIndex);
});
