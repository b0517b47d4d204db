import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { digestHex, hostPlatform, parseReference } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { Volume } from '../../src/volume/index.ts';
import { type Fault, startFaultProxy } from '../support/faults.ts';
import { pushTestImage, randomLayer } from '../support/images.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';
import { FakeRegistry, amd64, debian, temporaryDirectory, testImage } from './fixtures.ts';

const writable = { access: 'read-write' } as const;

/** A volume, and a registry that has one image of one layer. */
async function openGround(): Promise<AsyncDisposable & { volume: Volume; registry: FakeRegistry }> {
  await using cleanup = new AsyncDisposableStack();
  const directory = cleanup.use(await temporaryDirectory());
  const volume = cleanup.use(await Volume.open(directory.path, writable));
  const registry = new FakeRegistry();
  registry.push(debian, await testImage(['a'], 300_000));
  const open = cleanup.move();
  return { volume, registry, [Symbol.asyncDispose]: () => open.disposeAsync() };
}

function altered(bytes: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(bytes);
  copy[1000] = (copy[1000] ?? 0) ^ 1;
  return copy;
}

const wrongs: Readonly<Record<string, (bytes: Uint8Array) => Uint8Array>> = {
  'with a byte altered': altered,
  'cut short': (bytes) => bytes.subarray(0, 100_000),
  'longer than it is': (bytes) => Buffer.concat([bytes, bytes]),
  'that is no gzip': (bytes) => new Uint8Array(bytes.length),
};

describe('a blob that arrives wrong', () => {
  for (const [what, wrong] of Object.entries(wrongs)) {
    test(`(${what}) is fetched once more, and the pull succeeds`, async () => {
      await using ground = await openGround();
      const { volume, registry } = ground;
      registry.send = (bytes, opened) => (opened === 1 ? wrong(bytes) : bytes);
      assert.equal((await volume.pull(registry.client, debian, amd64)).outcome, 'pulled');
      assert.deepEqual(
        registry.opened.map(({ offset }) => offset),
        [0, 0],
      );
      await requireSound(volume);
    });

    test(`(${what}) every time is not fetched for ever, and leaves nothing`, async () => {
      await using ground = await openGround();
      const { volume, registry } = ground;
      registry.send = wrong;
      await assert.rejects(volume.pull(registry.client, debian, amd64), { code: 'E_BLOB_CORRUPT' });
      assert.equal(registry.opened.length, 2);
      for (const place of ['blobs/sha256', 'layers', 'ingest'])
        assert.deepEqual(await readdir(join(volume.directory, place)), [], place);
    });
  }

  test('on the disk, although it was sent right, is fetched once more', async () => {
    await using ground = await openGround();
    const { volume, registry } = ground;
    const { image } = await testImage(['a'], 300_000);
    const [layer] = image.manifest.layers;
    assert.ok(layer);
    const path = join(volume.directory, 'blobs/sha256', digestHex(layer.digest));
    let damaged = false;
    await volume.pull(registry.client, debian, amd64, {
      onProgress: (bytes, total) => {
        if (bytes < total || damaged) return;
        // It has its name already, and is about to be unpacked.
        try {
          chmodSync(path, 0o644);
        } catch {
          return;
        }
        writeFileSync(path, altered(registry.blobs.get(layer.digest) ?? new Uint8Array()));
        damaged = true;
      },
    });
    assert.ok(damaged);
    assert.equal(registry.opened.length, 2);
    await requireSound(volume);
  });

  test('as a stream for a volume that keeps no blobs is asked for once more', async () => {
    await using ground = await openGround();
    const { volume, registry } = ground;
    registry.send = (bytes, opened) => (opened === 1 ? altered(bytes) : bytes);
    const { image } = await testImage(['a'], 300_000);
    const [descriptor] = image.manifest.layers;
    const [diffID] = image.config.rootfs.diff_ids;
    assert.ok(descriptor && diffID);
    const source = registry.client.source(debian);
    const { mediaType, digest, size } = descriptor;
    await using lease = await volume.acquireLayers([
      {
        ...{ mediaType, digest, size, diffID },
        compressed: (signal) => source.openBlob(descriptor, signal),
        uncompressed: () => Promise.reject(new Error('not asked for')),
      },
    ]);
    assert.equal(lease?.paths.length, 1);
    assert.equal(registry.opened.length, 2);
  });
});

describe('a blob that a mirror sends wrong', () => {
  let mirrored: TestRegistry;
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  before(async () => {
    scratch = await temporaryDirectory();
    mirrored = await startRegistry();
    const layers = [await randomLayer(scratch.path, 'random')];
    await pushTestImage(scratch.path, `${mirrored.host}/app:1`, { layers });
  });
  after(async () => {
    await mirrored[Symbol.asyncDispose]();
    await scratch[Symbol.asyncDispose]();
  });

  for (const fault of [
    { kind: 'alter-answer', at: 1000 },
    { kind: 'truncate-answer', after: 1000 },
    { kind: 'repeat-answer' },
  ] satisfies Fault[])
    test(`(${fault.kind}) is had from the next one`, async () => {
      await using mirror = await startFaultProxy(mirrored.host, ({ method, path }) =>
        method === 'GET' && path.includes('/blobs/') ? fault : undefined,
      );
      await using client = new RegistryClient({
        pullRetries: 1,
        registries: new Map([
          ['registry.invalid', { mirrors: [mirror.host, mirrored.host], fallback: false }],
        ]),
      });
      await using directory = await temporaryDirectory();
      await using volume = await Volume.open(directory.path, writable);
      const reference = parseReference('registry.invalid/app:1');
      const { outcome } = await volume.pull(client, reference, hostPlatform());
      assert.equal(outcome, 'pulled');
      await requireSound(volume);
    });
});

async function requireSound(volume: Volume): Promise<void> {
  await using reader = await Volume.open(volume.directory, { access: 'read-only' });
  const { images, damages } = await reader.verify();
  assert.deepEqual([images, damages], [1, []]);
}
