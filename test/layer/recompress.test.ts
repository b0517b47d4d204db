import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gunzipSync, gzipSync, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { blobLayer, type Layer, recompressLayer } from '../../src/layer/index.ts';
import { type DiffID, digestOf, mediaTypes } from '../../src/oci/index.ts';
import { testBlob } from '../support/blobs.ts';
import { temporaryDirectory } from '../support/programs.ts';

const tar = Buffer.from('the same words over and over '.repeat(20_000));

function layerOf(bytes: Buffer, mediaType: string, diffID = digestOf(tar)): Layer {
  const { descriptor, open } = testBlob(bytes, mediaType);
  return blobLayer({ open }, descriptor, diffID as DiffID);
}

describe('a layer that is compressed anew', () => {
  let directory: AsyncDisposable & { readonly path: string };
  before(async () => {
    directory = await temporaryDirectory();
  });
  after(() => directory[Symbol.asyncDispose]());
  const file = (name: string): string => join(directory.path, name);

  for (const [name, mediaType, bytes] of [
    ['gzip', mediaTypes.ociLayerGzip, gzipSync(tar)],
    ['zstd', mediaTypes.ociLayerZstd, zstdCompressSync(tar)],
    ['none', mediaTypes.ociLayerTar, tar],
  ] as const)
    test(`from ${name} keeps its content and its DiffID`, async () => {
      const layer = layerOf(bytes, mediaType);
      const zstd = await recompressLayer(layer, { output: file(`${name}.zst`), compression: 'zstd' });
      assert.equal(zstd.diffID, layer.diffID);
      assert.equal(zstd.mediaType, mediaTypes.ociLayerZstd);
      const written = readFileSync(file(`${name}.zst`));
      assert.equal(zstd.digest, digestOf(written));
      assert.equal(zstd.size, written.length);
      assert.ok(zstdDecompressSync(written).equals(tar));

      const gzip = await recompressLayer(layer, {
        output: file(`${name}.gz`),
        compression: 'gzip',
        level: 0,
      });
      assert.equal(gzip.mediaType, mediaTypes.ociLayerGzip);
      assert.ok(gzip.size > tar.length, 'level 0 stores');
      assert.ok(gunzipSync(readFileSync(file(`${name}.gz`))).equals(tar));
    });

  test('is never taken when its content is not what its DiffID says, or cannot be read', async () => {
    const output = file('damaged');
    const other = layerOf(gzipSync(tar), mediaTypes.ociLayerGzip, digestOf('something else'));
    const cut = layerOf(gzipSync(tar).subarray(0, 100), mediaTypes.ociLayerGzip);
    for (const layer of [other, cut]) {
      await assert.rejects(recompressLayer(layer, { output, compression: 'zstd' }), {
        code: 'E_BLOB_CORRUPT',
        message: new RegExp(layer.digest),
      });
      assert.equal(existsSync(output), false);
    }
  });
});
