import { createHash } from 'node:crypto';
import { type FileHandle, open, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type Readable, Transform, addAbortSignal, pipeline } from 'node:stream';
import { finished } from 'node:stream/promises';
import { type BlobStore, type Descriptor, type Digest, digestHex, digestOf } from '../oci/index.ts';
import { EnvironmentError, KilnError, isAbortError, randomName, systemErrorCode } from '../support/index.ts';
import { FileLock } from './file-lock.ts';
import { Lease } from './leases.ts';
import { explained, isMissing, publishFile, unlessMissing } from './storage.ts';

export interface BlobDirectoryOptions {
  /** The OCI image layout; blobs lie in `blobs/sha256`, unfinished ones in `ingest`. */
  readonly directory: string;
  readonly writable: boolean;
  /** False for scratch space that need not survive a power failure. */
  readonly durable: boolean;
}

/** The blobs of an OCI image layout. Content is hashed whenever it is read, so altered content is never served as good. */
export class BlobDirectory implements BlobStore {
  readonly #options: BlobDirectoryOptions;

  constructor(options: BlobDirectoryOptions) {
    this.#options = options;
  }

  /** Where unfinished files lie. */
  get ingestDirectory(): string {
    return join(this.#options.directory, 'ingest');
  }

  get durable(): boolean {
    return this.#options.durable;
  }

  /** Where a blob is, or would be. */
  path(digest: Digest): string {
    return join(this.#options.directory, 'blobs', 'sha256', digestHex(digest));
  }

  async stat(digest: Digest, signal?: AbortSignal): Promise<{ readonly size: number } | undefined> {
    signal?.throwIfAborted();
    const found = await unlessMissing(stat(this.path(digest)));
    return found?.isFile() === true ? { size: found.size } : undefined;
  }

  /** True when the blob is there with the size that its descriptor states. */
  async has(descriptor: Descriptor): Promise<boolean> {
    return (await this.stat(descriptor.digest))?.size === descriptor.size;
  }

  /**
   * Opens a blob. The stream ends with `E_BLOB_CORRUPT` when the content is not what the digest says, and a writable
   * directory then drops the blob, so that it is fetched again.
   */
  async open(digest: Digest, signal?: AbortSignal): Promise<Readable> {
    signal?.throwIfAborted();
    const handle = await this.#openFile(digest);
    const { ino } = await handle.stat({ bigint: true });
    const source = handle.createReadStream({ highWaterMark: 64 * 1024 });
    const verified = verifier(digest, () => this.#discardCorrupt(digest, ino));
    pipeline(source, verified, () => undefined);
    return signal === undefined ? verified : addAbortSignal(signal, verified);
  }

  /** A small blob as a whole, verified. @throws KilnError `E_BLOB_NOT_FOUND`, `E_BLOB_CORRUPT`. */
  async read(digest: Digest, limit: number): Promise<Uint8Array> {
    await using handle = await this.#openFile(digest);
    const { ino, size } = await handle.stat({ bigint: true });
    const bytes = size > BigInt(limit) ? undefined : await readFile(handle);
    if (bytes !== undefined && digestOf(bytes) === digest) return bytes;
    await this.#discardCorrupt(digest, ino);
    throw corrupt(digest, this.path(digest));
  }

  /** Reads a blob to its end. @returns false when it is missing or corrupt; a corrupt one is dropped as by `open`. */
  async verify(digest: Digest, signal?: AbortSignal): Promise<boolean> {
    try {
      await finished((await this.open(digest, signal)).resume(), signal === undefined ? {} : { signal });
      return true;
    } catch (error) {
      if (['E_BLOB_NOT_FOUND', 'E_BLOB_CORRUPT'].includes(systemErrorCode(error) ?? '')) return false;
      throw error;
    }
  }

  async ingest(
    descriptor: Descriptor,
    content: AsyncIterable<Uint8Array>,
    signal?: AbortSignal,
  ): Promise<void> {
    this.requireWritable();
    signal?.throwIfAborted();
    if (await this.has(descriptor)) return abandon(content);
    const temporary = join(this.ingestDirectory, randomName('blob-'));
    await explained(this.#options.directory, async () => {
      await using handle = await open(temporary, 'wx', 0o600);
      try {
        // Tells whoever cleans up that this file is in use.
        (await import('../os/index.ts')).tryLock(handle.fd, 'exclusive');
        const hash = createHash('sha256');
        const size = await appendStream(handle, content, hash, descriptor.size, signal);
        this.#requireContent(descriptor, size, hash.digest('hex'));
        await this.publish(handle, temporary, descriptor.digest);
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
    });
  }

  /** Stores bytes held in memory under their own digest. */
  async put(mediaType: string, bytes: Uint8Array): Promise<Descriptor> {
    const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.byteLength };
    await this.ingest(descriptor, single(bytes));
    return descriptor;
  }

  /** As {@link put}, and the blob stays until the result is disposed. */
  async putLeased(
    mediaType: string,
    bytes: Uint8Array,
  ): Promise<{ readonly descriptor: Descriptor } & AsyncDisposable> {
    for (;;) {
      const descriptor = await this.put(mediaType, bytes);
      const lease = await Lease.tryAcquire(this.path(descriptor.digest));
      // Undefined: it lay there unused, and a prune took it in this moment.
      if (lease !== undefined)
        return { descriptor, [Symbol.asyncDispose]: () => lease[Symbol.asyncDispose]() };
    }
  }

  async delete(digest: Digest, signal?: AbortSignal): Promise<void> {
    this.requireWritable();
    signal?.throwIfAborted();
    await explained(this.#options.directory, async () => {
      await using _lock = await FileLock.acquire(this.lockPath(digest), signal);
      await using lease = await Lease.tryAcquire(this.path(digest));
      if (lease !== undefined) await rm(this.path(digest), { force: true });
    });
  }

  /** Gives a verified file its name. The last step of storing a blob. */
  publish(handle: FileHandle, temporary: string, digest: Digest): Promise<void> {
    return publishFile(handle, temporary, this.path(digest), { durable: this.durable, mode: 0o444 });
  }

  /** The lock that whoever fetches or drops this blob holds. */
  lockPath(digest: Digest): string {
    return join(this.ingestDirectory, `${digestHex(digest)}.lock`);
  }

  async #openFile(digest: Digest): Promise<FileHandle> {
    try {
      return await open(this.path(digest), 'r');
    } catch (cause) {
      if (!isMissing(cause)) throw cause;
      throw new KilnError(`blob ${digest} is not there`, {
        code: 'E_BLOB_NOT_FOUND',
        category: 'environment',
        where: this.#options.directory,
        cause,
      });
    }
  }

  /**
   * Drops what was read, unless it has been replaced meanwhile or somebody is just replacing it. The lease keeps a prune
   * away, which must find under a name what it has locked.
   */
  async #discardCorrupt(digest: Digest, inode: bigint): Promise<void> {
    if (!this.#options.writable) return;
    await using lock = await FileLock.tryAcquire(this.lockPath(digest));
    await using lease = await Lease.tryAcquire(this.path(digest));
    if (lock === undefined || lease === undefined) return;
    const now = await unlessMissing(stat(this.path(digest), { bigint: true }));
    if (now?.ino === inode) await rm(this.path(digest), { force: true });
  }

  /** @throws EnvironmentError `E_VOLUME_READ_ONLY` when this was opened for reading only. */
  requireWritable(): void {
    if (this.#options.writable) return;
    throw new EnvironmentError('this volume was opened for reading only', {
      code: 'E_VOLUME_READ_ONLY',
      where: this.#options.directory,
    });
  }

  #requireContent(descriptor: Descriptor, size: number, hex: string): void {
    if (size === descriptor.size && hex === digestHex(descriptor.digest)) return;
    throw corrupt(descriptor.digest, this.#options.directory);
  }
}

/** The error for content that its digest or size does not describe. */
export function corrupt(digest: Digest, where: string): KilnError {
  return new KilnError(`the content of ${digest} is not what its digest and size say`, {
    code: 'E_BLOB_CORRUPT',
    category: 'environment',
    where,
    remedy: 'Pull the image again.',
  });
}

/** Appends a stream to a file, hashing it; stops as soon as there is more than `limit` bytes. @returns bytes appended. */
export async function appendStream(
  handle: FileHandle,
  content: AsyncIterable<Uint8Array>,
  hash: { update(data: Uint8Array): unknown },
  limit: number,
  signal?: AbortSignal,
): Promise<number> {
  let total = 0;
  for await (const chunk of content) {
    signal?.throwIfAborted();
    total += chunk.byteLength;
    if (total > limit) break;
    // It is hashed while it is written; the next one is not asked for before, since who makes them may use them again.
    const writing = writeFully(handle, chunk);
    hash.update(chunk);
    await writing;
  }
  signal?.throwIfAborted();
  return total;
}

async function writeFully(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let offset = 0; offset < chunk.byteLength;) {
    const { bytesWritten } = await handle.write(chunk, offset);
    offset += bytesWritten;
  }
}

function verifier(digest: Digest, discard: () => Promise<void>): Transform {
  const hash = createHash('sha256');
  return new Transform({
    highWaterMark: 64 * 1024,
    transform(chunk: Uint8Array, _encoding, done) {
      hash.update(chunk);
      done(null, chunk);
    },
    flush(done) {
      if (hash.digest('hex') === digestHex(digest)) return done();
      const fail = (): void => done(corrupt(digest, digest));
      discard().then(fail, fail);
    },
  });
}

/** Ends a stream that nobody reads, so that its connection is given back. */
async function abandon(content: AsyncIterable<Uint8Array>): Promise<void> {
  if ('destroy' in content && typeof content.destroy === 'function') (content as Readable).destroy();
  else
    await content[Symbol.asyncIterator]()
      .return?.()
      .catch((error: unknown) => {
        if (!isAbortError(error)) throw error;
      });
}

async function* single(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield await Promise.resolve(bytes);
}
