import { Readable } from 'node:stream';
import { type Descriptor, digestOf } from '../../src/oci/index.ts';

/** Content with the descriptor that names it. */
export interface TestBlob {
  readonly bytes: Buffer;
  readonly descriptor: Descriptor;
  /** The content as a stream of pieces of 64 KiB. */
  readonly open: () => Promise<Readable>;
}

export function testBlob(bytes: Buffer, mediaType = 'application/octet-stream'): TestBlob {
  return {
    bytes,
    descriptor: { mediaType, digest: digestOf(bytes), size: bytes.length },
    open: () => Promise.resolve(Readable.from(piecesOf(bytes))),
  };
}

/** Bytes in pieces, as a disk or a connection gives them. */
export function* piecesOf(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
}
