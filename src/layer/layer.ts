import type { Readable } from 'node:stream';
import type { DiffID, Digest } from '../oci/index.ts';

/**
 * One layer of an image, wherever it is: in a registry, on the volume, or just snapshotted.
 * Nothing is fetched before one of the streams is asked for.
 */
export interface Layer {
  /** Digest of the compressed stream: the blob's name. */
  readonly digest: Digest;
  /** Digest of the uncompressed tar. */
  readonly diffID: DiffID;
  /** Bytes of the compressed stream. */
  readonly size: number;
  readonly mediaType: string;
  /** The blob as a registry keeps it. */
  compressed(signal?: AbortSignal): Promise<Readable>;
  /** The tar stream. */
  uncompressed(signal?: AbortSignal): Promise<Readable>;
}
