import assert from 'node:assert/strict';
import { chmod, cp, mkdir, readFile, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { blobLayer } from '../../src/layer/index.ts';
import { type Digest, digestHex, digestOf, parseReference } from '../../src/oci/index.ts';
import { Lease, Volume } from '../../src/volume/index.ts';
import { FakeRegistry, amd64, debian, temporaryDirectory, testImage } from './fixtures.ts';

const writable = { access: 'read-write' } as const;
const arm64 = { os: 'linux', architecture: 'arm64' };

function blobPath(directory: string, digest: Digest): string {
  return join(directory, 'blobs', 'sha256', digestHex(digest));
}

/** Overwrites the middle of a file, keeping its length. */
async function alter(path: string): Promise<void> {
  const bytes = await readFile(path);
  bytes.fill(0x55, bytes.length >> 1, (bytes.length >> 1) + 16);
  await chmod(path, 0o644);
  await writeFile(path, bytes);
}

test('a pulled image is found with its layers unpacked, and pulling again moves nothing', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  const source = await testImage(['a', 'b']);
  registry.push(debian, source);

  const first = await volume.pull(registry.client, debian, amd64);
  assert.equal(first.outcome, 'pulled');
  assert.equal(
    first.bytes,
    source.image.manifest.layers.reduce((sum, { size }) => sum + size, 0),
  );
  const found = await volume.find(debian, amd64);
  assert.deepEqual(found?.manifestBytes, Buffer.from(source.image.manifestBytes));
  await using lease = await volume.acquireLayers(found?.layers ?? []);
  assert.equal(lease?.paths.length, 2);
  assert.equal((await readFile(join(lease?.paths[0] ?? '', 'layer-a'))).length, 1000);

  const second = await volume.pull(registry.client, debian, amd64);
  assert.deepEqual([second.outcome, second.bytes, registry.opened.length], ['fresh', 0, 2]);
  assert.ok(second.image.checkedAt >= first.image.checkedAt);
  assert.equal(second.image.pulledAt.getTime(), first.image.pulledAt.getTime());
  assert.equal(await volume.find(debian, arm64), undefined);
  assert.deepEqual(
    (await readdir(join(directory.path, 'ingest'))).filter((name) => !name.endsWith('.lock')),
    [],
  );
});

test('a tag that moved is pulled anew and shares layers; refresh: false is content with what is there', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  registry.push(debian, await testImage(['a', 'b']));
  await volume.pull(registry.client, debian, amd64);
  const moved = await testImage(['a', 'c']);
  registry.push(debian, moved);

  assert.equal((await volume.pull(registry.client, debian, amd64, { refresh: false })).outcome, 'fresh');
  const result = await volume.pull(registry.client, debian, amd64);
  assert.equal(result.image.descriptor.digest, moved.image.descriptor.digest);
  assert.equal(registry.opened.length, 3);
  assert.equal((await volume.images()).length, 1);
});

test('a digest asks no registry once it is there, be it of the manifest or of the multi-platform index', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  const image = await testImage(['a']);
  const other = await testImage(['a', 'x'], 1000, arm64);
  const digest = registry.pushIndex(debian, [
    { platform: amd64, image },
    { platform: arm64, image: other },
  ]);
  await volume.pull(registry.client, debian, amd64);
  const asked = [registry.heads, registry.manifests];
  const byIndex = { ...parseReference('test.invalid/debian'), digest };
  const byManifest = { ...byIndex, digest: image.image.descriptor.digest };
  for (const reference of [byIndex, byManifest])
    assert.equal((await volume.pull(registry.client, reference, amd64)).outcome, 'fresh');
  assert.deepEqual([registry.heads, registry.manifests], asked);

  const result = await volume.pull(registry.client, byIndex, arm64);
  assert.equal(result.image.descriptor.digest, other.image.descriptor.digest);
  assert.equal((await volume.pull(registry.client, debian, amd64)).outcome, 'fresh');
  // Each reference that was pulled has an entry: it does not depend on the tag under which it came.
  assert.equal((await volume.images()).length, 4);
  registry.push(debian, await testImage(['b']));
  await volume.pull(registry.client, debian, amd64);
  assert.equal((await volume.find(byIndex, amd64))?.descriptor.digest, image.image.descriptor.digest);
});

test('a truncated blob is missed at once and healed by the next pull', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  const { image } = await testImage(['a', 'b']);
  registry.push(debian, await testImage(['a', 'b']));
  await volume.pull(registry.client, debian, amd64);
  const path = blobPath(directory.path, image.manifest.layers[1]?.digest as Digest);
  await chmod(path, 0o644);
  await truncate(path, 100);

  assert.equal(await volume.find(debian, amd64), undefined);
  assert.equal((await volume.pull(registry.client, debian, amd64)).outcome, 'pulled');
  assert.equal(registry.opened.length, 3);
  assert.ok(await volume.find(debian, amd64));
});

test('an altered blob ends its stream with an error, is dropped, and comes back by the next pull', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  const { image } = await testImage(['a']);
  registry.push(debian, await testImage(['a']));
  await volume.pull(registry.client, debian, amd64);
  const digest = image.manifest.layers[0]?.digest as Digest;
  await alter(blobPath(directory.path, digest));

  await assert.rejects(buffer(await volume.blobs.open(digest)), { code: 'E_BLOB_CORRUPT' });
  assert.equal(await volume.blobs.stat(digest), undefined);
  await volume.pull(registry.client, debian, amd64);
  assert.equal(digestOf(await buffer(await volume.blobs.open(digest))), digest);
});

test('an altered blob that has to be unpacked is fetched again by a pull, and never unpacked', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  const source = await testImage(['a', 'b'], 20_000);
  registry.push(debian, source);
  await volume.pull(registry.client, debian, amd64, { unpack: false });
  for (const { digest } of source.image.manifest.layers) await alter(blobPath(directory.path, digest));
  const stored = await volume.find(debian, amd64);
  await assert.rejects(volume.acquireLayers(stored?.layers.slice(0, 1) ?? []), { code: 'E_BLOB_CORRUPT' });

  await volume.pull(registry.client, debian, amd64);
  assert.equal(registry.opened.length, 4);
  for (const diffID of source.image.config.rootfs.diff_ids) assert.ok(await volume.hasLayer(diffID));
});

test('an altered manifest is no image, and is pulled again', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  const source = await testImage(['a']);
  registry.push(debian, source);
  await volume.pull(registry.client, debian, amd64);
  await alter(blobPath(directory.path, source.image.descriptor.digest));
  assert.equal(await volume.find(debian, amd64), undefined);
  await volume.pull(registry.client, debian, amd64);
  assert.ok(await volume.find(debian, amd64));
});

test('concurrent pulls of images that share layers fetch each layer once', async () => {
  await using directory = await temporaryDirectory();
  await using one = await Volume.open(directory.path, writable);
  await using two = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  registry.pause = 5;
  const references = ['a', 'b', 'c'].map((name) => parseReference(`test.invalid/debian:${name}`));
  for (const reference of references)
    registry.push(reference, await testImage(['base', 'common', reference.tag ?? ''], 200_000));
  await Promise.all(
    [one, two].flatMap((volume) =>
      references.map((reference) => volume.pull(registry.client, reference, amd64)),
    ),
  );
  assert.equal(registry.opened.length, 5);
  assert.equal((await one.images()).filter(({ unpacked, complete }) => unpacked && complete).length, 3);
});

test('an interrupted download goes on where it stopped', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  registry.push(debian, await testImage(['a'], 1_000_000));
  registry.pause = 10;
  const controller = new AbortController();
  const onProgress = (bytes: number): void => {
    if (bytes >= 3 * registry.chunk) controller.abort();
  };
  const { signal } = controller;
  await assert.rejects(volume.pull(registry.client, debian, amd64, { signal, onProgress }), {
    name: 'AbortError',
  });
  assert.equal(await volume.find(debian, amd64), undefined);
  registry.pause = 0;
  await volume.pull(registry.client, debian, amd64);
  assert.ok((registry.opened[1]?.offset ?? 0) > 0);
  assert.ok(await volume.find(debian, amd64));
});

test('a damaged partial download is started over', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  const { image } = await testImage(['a'], 100_000);
  registry.push(debian, await testImage(['a'], 100_000));
  const hex = digestHex(image.manifest.layers[0]?.digest as Digest);
  for (const length of [5000, 1_000_000]) {
    await writeFile(join(directory.path, 'ingest', `${hex}.partial`), Buffer.alloc(length));
    await volume.pull(registry.client, debian, amd64);
    await volume.blobs.delete(image.manifest.layers[0]?.digest as Digest);
  }
  assert.deepEqual(
    registry.opened.map(({ offset }) => offset),
    [5000, 0, 0],
  );
});

test('a registry that sends other content than the digest says stores nothing', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  const { image, blobs } = await testImage(['a']);
  registry.push(debian, { image, blobs });
  const digest = image.manifest.layers[0]?.digest as Digest;
  for (const wrong of [Buffer.alloc(blobs.get(digest)?.length ?? 0), Buffer.alloc(1e6), Buffer.alloc(3)]) {
    registry.blobs.set(digest, wrong);
    await assert.rejects(volume.pull(registry.client, debian, amd64), { code: 'E_BLOB_CORRUPT' });
  }
  assert.equal(await volume.find(debian, amd64), undefined);
  assert.deepEqual(await volume.images(), []);
});

test('a reference that does not exist is said so', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  await assert.rejects(volume.pull(new FakeRegistry().client, debian, amd64), {
    code: 'E_MANIFEST_NOT_FOUND',
  });
});

test('a lease keeps an exclusive lock away until it is disposed', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  registry.push(debian, await testImage(['a']));
  const { image } = await volume.pull(registry.client, debian, amd64);
  const layer = join(directory.path, 'layers', digestHex(image.config.rootfs.diff_ids[0] as Digest));
  {
    await using _one = await volume.acquireLayers(image.layers);
    await using _two = await volume.acquireLayers(image.layers);
    assert.equal(await Lease.tryAcquireExclusive(layer), undefined);
  }
  await using exclusive = await Lease.tryAcquireExclusive(layer);
  assert.ok(exclusive);
});

test('a layer of which it is not known what it says of directories is unpacked once more', async () => {
  await using directory = await temporaryDirectory();
  const registry = new FakeRegistry();
  registry.push(debian, await testImage(['a']));
  const { image } = await (async () => {
    await using volume = await Volume.open(directory.path, writable);
    return await volume.pull(registry.client, debian, amd64);
  })();
  const diffID = digestHex(image.config.rootfs.diff_ids[0] as Digest);
  const seal = join(directory.path, 'layers', diffID, 'sealed');
  const { implied, ...older } = JSON.parse(await readFile(seal, 'utf8')) as Record<string, unknown>;
  assert.deepEqual(implied, ['']);
  await rm(seal);
  await writeFile(seal, JSON.stringify(older));
  const readOnly = { ...writable, access: 'read-only' } as const;
  {
    await using volume = await Volume.open(directory.path, readOnly);
    assert.equal(await volume.acquireLayers(image.layers), undefined);
  }
  await using volume = await Volume.open(directory.path, writable);
  await using lease = await volume.acquireLayers(image.layers);
  assert.deepEqual(lease?.implied, [['']]);
});

test('an unsealed layer directory counts as nothing and is replaced', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  const { image } = await testImage(['a']);
  registry.push(debian, await testImage(['a']));
  const diffID = image.config.rootfs.diff_ids[0] as Digest;
  const layer = join(directory.path, 'layers', digestHex(diffID));
  await mkdir(join(layer, 'fs'), { recursive: true });
  await writeFile(join(layer, 'fs', 'half'), '');
  assert.equal(await volume.hasLayer(image.config.rootfs.diff_ids[0] ?? (diffID as never)), false);
  await volume.pull(registry.client, debian, amd64);
  assert.deepEqual(await readdir(join(layer, 'fs')), ['layer-a']);
});

test('layers from elsewhere are unpacked, each once although it occurs twice, and only when writable', async () => {
  await using elsewhere = await temporaryDirectory();
  await using directory = await temporaryDirectory();
  await using source = await Volume.open(elsewhere.path, writable);
  await using volume = await Volume.open(directory.path, { ...writable, durable: false });
  const registry = new FakeRegistry();
  registry.push(debian, await testImage(['a', 'b']));
  const { image } = await source.pull(registry.client, debian, amd64, { unpack: false });
  const [a, b] = image.layers;
  assert.ok(a && b);
  await using lease = await volume.acquireLayers([a, b, a]);
  assert.deepEqual(
    lease?.paths.map((path) => path.split('/').at(-2)),
    [digestHex(b.diffID), digestHex(a.diffID)],
  );
  assert.equal(await volume.blobs.stat(a.digest), undefined);
  await using reader = await Volume.open(elsewhere.path, { access: 'read-only' });
  assert.equal(await reader.acquireLayers(image.layers), undefined);
  const { digest, size, mediaType } = a;
  const lying = blobLayer(source.blobs, { digest, size: size + 1, mediaType }, b.diffID);
  await using empty = await temporaryDirectory();
  await using third = await Volume.open(empty.path, writable);
  await assert.rejects(third.acquireLayers([lying]), { code: 'E_BLOB_CORRUPT' });
});

test('the list, usage and details count shared blobs once', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const registry = new FakeRegistry();
  const twin = parseReference('test.invalid/debian:twin');
  const source = await testImage(['a', 'b']);
  registry.push(debian, source);
  registry.push(twin, source);
  await volume.pull(registry.client, debian, amd64);
  await volume.pull(registry.client, twin, amd64);
  const [one, two] = await volume.images();
  assert.equal(one?.digest, two?.digest);
  const usage = await volume.usage();
  assert.deepEqual([usage.images, usage.blobs.count, usage.layers.count, usage.ingest.count], [2, 4, 2, 0]);
  assert.equal(usage.unshared, usage.blobs.bytes * 2);
  const [details] = await volume.inspect(debian);
  assert.deepEqual(details?.layers[0]?.sharedWith, ['test.invalid/debian:twin']);
  assert.ok(details?.unpacked === true && details.unpackedSize > 0);
});

test('a use is counted, and a copy of the volume is as good as the original', async () => {
  await using directory = await temporaryDirectory();
  await using parent = await temporaryDirectory();
  const registry = new FakeRegistry();
  registry.push(debian, await testImage(['a']));
  {
    await using volume = await Volume.open(directory.path, writable);
    const { image } = await volume.pull(registry.client, debian, amd64);
    await using _lease = await volume.acquireLayers(image.layers);
  }
  const copy = join(parent.path, 'copy');
  await cp(directory.path, copy, { recursive: true });
  await using reader = await Volume.open(copy, { access: 'read-only' });
  const [summary] = await reader.images();
  assert.equal(summary?.uses, 1);
  assert.ok(summary.lastUsedAt);
  const image = await reader.find(debian, amd64);
  await using lease = await reader.acquireLayers(image?.layers ?? []);
  assert.ok((await stat(lease?.paths[0] ?? '')).isDirectory());
});
