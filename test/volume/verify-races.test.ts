import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFile, chmod, readdir, readFile, rename, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Digest, digestHex, parseReference } from '../../src/oci/index.ts';
import type { RegistryClient } from '../../src/registry/index.ts';
import { type VerifyResult, Volume } from '../../src/volume/index.ts';
import { FakeRegistry, amd64, temporaryDirectory, type TestImage, testImage } from './fixtures.ts';

const writable = { access: 'read-write' } as const;
const everything = { all: true, gracePeriodSeconds: 0 } as const;

interface Ground extends AsyncDisposable {
  readonly volume: Volume;
  readonly registry: FakeRegistry;
  readonly images: Readonly<Record<string, TestImage>>;
  blob(digest: Digest): string;
  /** The directory of an image's lowest layer. */
  layer(name: string): string;
}

/** A volume with images of the layers that the seeds name. */
async function filled(images: Readonly<Record<string, readonly string[]>>): Promise<Ground> {
  await using stack = new AsyncDisposableStack();
  const { path } = stack.use(await temporaryDirectory());
  const volume = stack.use(await Volume.open(path, writable));
  const registry = new FakeRegistry();
  const made: Record<string, TestImage> = {};
  for (const [name, seeds] of Object.entries(images)) {
    made[name] = await testImage(seeds, 4000);
    registry.push(named(name), made[name]);
    await volume.pull(registry.client, named(name), amd64);
  }
  const kept = stack.move();
  return {
    ...{ volume, registry, images: made },
    blob: (digest) => join(path, 'blobs/sha256', digestHex(digest)),
    layer: (name) => {
      const [diffID] = made[name]?.image.config.rootfs.diff_ids ?? [];
      assert.ok(diffID);
      return join(path, 'layers', digestHex(diffID));
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

function named(name: string): ReturnType<typeof parseReference> {
  return parseReference(`test.invalid/${name}:${name}`);
}

function firstBlob(image: TestImage | undefined): Digest {
  const [layer] = image?.image.manifest.layers ?? [];
  assert.ok(layer);
  return layer.digest;
}

function found({ damages }: VerifyResult): string[] {
  return damages.map(({ kind, problem, outcome }) => `${kind} ${problem} ${outcome}`).sort();
}

async function damage(path: string): Promise<void> {
  await chmod(path, 0o644);
  await truncate(path, 10);
}

async function damageLayer(layer: string): Promise<void> {
  const [name = ''] = await readdir(join(layer, 'fs'));
  await appendFile(join(layer, 'fs', name), 'x');
}

/** A client that does something else before it opens a blob. */
function interrupted(registry: FakeRegistry, before: () => Promise<void>): RegistryClient {
  const source = (): object => ({
    ...registry.client.source(named('a')),
    openBlob: async (...args: Parameters<ReturnType<RegistryClient['source']>['openBlob']>) => {
      await before();
      return registry.client.source(named('a')).openBlob(...args);
    },
  });
  return { source } as unknown as RegistryClient;
}

test('verify does not take for missing what is pruned while it looks', async () => {
  await using ground = await filled({ a: ['a'], b: ['b'] });
  await using other = await Volume.open(ground.volume.directory, writable);
  await using reader = await Volume.open(ground.volume.directory, { access: 'read-only' });
  const look = reader.blobs.stat.bind(reader.blobs);
  // It has read index.json by the time at which it looks whether the blobs are there.
  const pruning = (): Promise<unknown> => (pruned ??= other.prune(everything));
  let pruned: Promise<unknown> | undefined;
  reader.blobs.stat = async (digest) => {
    await pruning();
    return look(digest);
  };
  assert.deepEqual(found(await reader.verify()), []);
  assert.ok(pruned);
});

test('verify without repair leaves damaged blobs where they are, also on a volume that it could write', async () => {
  await using ground = await filled({ a: ['a'] });
  const path = ground.blob(firstBlob(ground.images.a));
  await damage(path);
  assert.deepEqual(found(await ground.volume.verify()), ['blob altered found']);
  assert.equal((await stat(path)).size, 10);
});

test('a layer is repaired after the blob that it is unpacked from', async () => {
  await using ground = await filled({ a: ['a'] });
  await rm(ground.blob(firstBlob(ground.images.a)));
  await damageLayer(ground.layer('a'));
  const result = await ground.volume.verify({ repair: ground.registry.client });
  assert.deepEqual(found(result), ['blob missing repaired', 'layer altered repaired']);
  assert.deepEqual(found(await ground.volume.verify()), []);
});

test('two repairs at once end with everything repaired', async () => {
  for (let round = 0; round < 2; round += 1) {
    await using ground = await filled({ a: ['a', 'base'], b: ['b', 'base'] });
    for (const name of ['a', 'b']) {
      await damageLayer(ground.layer(name));
      const { image } = ground.images[name] as TestImage;
      for (const { digest } of [image.descriptor, image.manifest.config]) await damage(ground.blob(digest));
      await damage(ground.blob(firstBlob(ground.images[name])));
    }
    await using other = await Volume.open(ground.volume.directory, writable);
    const repair = ground.registry.client;
    const results = await Promise.all([ground.volume, other].map((volume) => volume.verify({ repair })));
    for (const result of results)
      for (const { outcome, kind, message } of result.damages)
        assert.ok(outcome === 'repaired', `${kind} ${outcome} ${message ?? ''}`);
    assert.deepEqual(found(await ground.volume.verify()), []);
  }
});

test('a layer that somebody has replaced meanwhile is not taken away again', async () => {
  await using ground = await filled({ a: ['a'], b: ['b'] });
  const layer = ground.layer('b');
  const good = `${layer}-good`;
  execFileSync('cp', ['-a', layer, good]);
  const { ino } = await stat(good);
  await damageLayer(layer);
  await damage(ground.blob(firstBlob(ground.images.a)));
  // The blob is repaired first; while it is fetched another process is quicker with the layer.
  const client = interrupted(ground.registry, async () => {
    await rename(layer, join(ground.volume.directory, 'ingest', 'replaced-by-test'));
    await rename(good, layer);
  });
  const result = await ground.volume.verify({ repair: client });
  assert.deepEqual(found(result), ['blob altered repaired', 'layer altered repaired']);
  assert.equal((await stat(layer)).ino, ino);
});

test('what was pruned while it was to be repaired is no failure', async () => {
  await using ground = await filled({ a: ['a'] });
  await damage(ground.blob(firstBlob(ground.images.a)));
  await damageLayer(ground.layer('a'));
  await using other = await Volume.open(ground.volume.directory, writable);
  const client = interrupted(ground.registry, async () => {
    await other.prune(everything);
    throw new Error('the registry is gone too');
  });
  const result = await ground.volume.verify({ repair: client });
  assert.deepEqual(found(result), ['blob altered removed', 'layer altered removed']);
  assert.deepEqual(await readdir(join(ground.volume.directory, 'layers')), []);
});

test('a manifest that is mended counts for a prune that is under way', async () => {
  await using ground = await filled({ a: ['a'] });
  const { image } = ground.images.a as TestImage;
  await damage(ground.blob(image.descriptor.digest));
  const index = join(ground.volume.directory, 'index.json');
  const before = await readFile(index, 'utf8');
  const { ino } = await stat(index);
  const result = await ground.volume.verify({ repair: ground.registry.client });
  assert.deepEqual(found(result), ['blob altered repaired']);
  // What a prune knows holds for as long as index.json is the same file.
  assert.notEqual((await stat(index)).ino, ino);
  assert.equal(await readFile(index, 'utf8'), before);
});
