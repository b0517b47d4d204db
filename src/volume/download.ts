import { createHash } from 'node:crypto';
import { type FileHandle, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Descriptor, digestHex } from '../oci/index.ts';
import { systemErrorCode } from '../support/index.ts';
import { type BlobDirectory, appendStream, corrupt } from './blobs.ts';
import { FileLock } from './file-lock.ts';

/** Where a blob comes from: opens its content from byte `offset` on. */
export type BlobSource = (
  offset: number,
  signal: AbortSignal | undefined,
) => Promise<AsyncIterable<Uint8Array>>;

/**
 * Fetches a blob into the directory. Other processes that want the same blob wait for this one. What arrived before an
 * interruption stays in `ingest/<digest>.partial` and is not fetched again.
 *
 * @returns bytes that came from the source; 0 when somebody else had fetched it meanwhile.
 * @throws KilnError `E_BLOB_CORRUPT` when the source sends something else, twice.
 */
export async function downloadBlob(
  blobs: BlobDirectory,
  descriptor: Descriptor,
  source: BlobSource,
  signal: AbortSignal | undefined,
): Promise<number> {
  await using _lock = await FileLock.acquire(blobs.lockPath(descriptor.digest), signal);
  if (await blobs.has(descriptor)) return 0;
  const partial = join(blobs.ingestDirectory, `${digestHex(descriptor.digest)}.partial`);
  let fetched = 0;
  for (let begun = 0; begun < maximumAttempts;) {
    const attempt = await fillPartial(blobs, descriptor, partial, source, signal);
    fetched += attempt.fetched;
    if (attempt.complete) return fetched;
    await rm(partial, { force: true });
    // What an earlier process left may be damaged, for instance by a power failure: no fault of the source.
    if (!attempt.resumed) begun += 1;
  }
  throw corrupt(descriptor.digest, 'download');
}

/** How often a blob is fetched from its start: of several places a source asks others than that which sent it wrong. */
const maximumAttempts = 2;

interface Attempt {
  /** The content was right and the blob is published. */
  readonly complete: boolean;
  readonly resumed: boolean;
  readonly fetched: number;
}

async function fillPartial(
  blobs: BlobDirectory,
  descriptor: Descriptor,
  partial: string,
  source: BlobSource,
  signal: AbortSignal | undefined,
): Promise<Attempt> {
  await using handle = await open(partial, 'a+', 0o600);
  const hash = createHash('sha256');
  const offset = await hashPrefix(handle, hash, descriptor.size, signal);
  let fetched = 0;
  try {
    if (offset < descriptor.size) {
      const content = await source(offset, signal);
      fetched = await appendStream(handle, content, hash, descriptor.size - offset, signal);
    }
    const complete =
      offset + fetched === descriptor.size && hash.digest('hex') === digestHex(descriptor.digest);
    if (complete) await blobs.publish(handle, partial, descriptor.digest);
    return { complete, resumed: offset > 0, fetched };
  } catch (error) {
    // The source found at the end that what it sent was wrong: nothing of it may be resumed.
    if (systemErrorCode(error) !== 'E_BLOB_CORRUPT') throw error;
    return { complete: false, resumed: offset > 0, fetched };
  }
}

/** Hashes what is there already; a file longer than the blob is emptied. @returns the length kept. */
async function hashPrefix(
  handle: FileHandle,
  hash: { update(data: Uint8Array): unknown },
  limit: number,
  signal: AbortSignal | undefined,
): Promise<number> {
  const { size } = await handle.stat();
  if (size > limit) await handle.truncate(0);
  if (size > limit || size === 0) return 0;
  const buffer = Buffer.allocUnsafe(1024 * 1024);
  let position = 0;
  for (;;) {
    signal?.throwIfAborted();
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, position);
    if (bytesRead === 0) return position;
    hash.update(buffer.subarray(0, bytesRead));
    position += bytesRead;
  }
}
