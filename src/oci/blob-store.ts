import type { Readable } from 'node:stream';
import type { Descriptor, Digest } from './index.ts';

/** A place that keeps content by its digest. What `open` yields has been verified or is verified while read. */
export interface BlobStore {
  /** The size in bytes, or undefined when the blob is not there. */
  stat(digest: Digest, signal?: AbortSignal): Promise<{ readonly size: number } | undefined>;
  /** Opens a blob for reading. @throws KilnError `E_BLOB_NOT_FOUND`. */
  open(digest: Digest, signal?: AbortSignal): Promise<Readable>;
  /**
   * Stores a stream under `descriptor.digest` after checking size and digest; a blob already there is left as it is.
   *
   * @throws KilnError `E_BLOB_CORRUPT` when content and descriptor differ; nothing is stored then.
   */
  ingest(descriptor: Descriptor, content: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<void>;
  /** Removes a blob; one that is not there is no error. */
  delete(digest: Digest, signal?: AbortSignal): Promise<void>;
}
