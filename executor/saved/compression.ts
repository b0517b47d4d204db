import type { Readable } from 'node:stream';
import type { LayerCompression } from '../../src/oci/index.ts';

const magics: readonly (readonly [LayerCompression, Buffer])[] = [
  ['gzip', Buffer.from([0x1f, 0x8b])],
  ['zstd', Buffer.from([0x28, 0xb5, 0x2f, 0xfd])],
];

/** How a stream is compressed, by its first bytes. The stream is not read further. */
export async function compressionOf(stream: Readable): Promise<LayerCompression> {
  let start = Buffer.alloc(0);
  for await (const chunk of stream) {
    start = Buffer.concat([start, chunk as Buffer]);
    if (start.length >= 4) break;
  }
  return magics.find(([, magic]) => start.subarray(0, magic.length).equals(magic))?.[0] ?? 'none';
}
