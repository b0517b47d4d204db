import { PassThrough, type Readable, type Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import type { LayerCompression } from '../oci/index.ts';

/** The transform that undoes a layer's compression. */
export function decompressor(compression: LayerCompression): Transform {
  if (compression === 'gzip') return createGunzip({ chunkSize: 1 << 16 });
  if (compression === 'zstd') return createZstdDecompress({ chunkSize: 1 << 16 });
  return new PassThrough();
}

/** A stream with its compression undone; errors of the source reach the result. */
export function decompress(stream: Readable, compression: LayerCompression): Readable {
  return compression === 'none' ? stream : through(stream, decompressor(compression));
}

/** A stream after a transform; unlike with `pipe` alone, errors of the source reach the result, and its end the source. */
export function through(stream: Readable, transform: Transform): Readable {
  stream.once('error', (error) => transform.destroy(error));
  transform.once('close', () => stream.destroy());
  return stream.pipe(transform);
}
