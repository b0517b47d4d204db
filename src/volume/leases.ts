import { closeSync, openSync } from 'node:fs';
import { type FileHandle, constants, lstat, open } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { namesFile } from './file-lock.ts';
import { isMissing, unlessMissing } from './storage.ts';

/** Milliseconds. Whoever holds something exclusively for longer than this hangs. */
const longestDeletion = 10_000;

/**
 * A lease says that something on the volume is in use: a shared flock on the directory or file itself, so it works
 * across a read-only mount and ends with the process. Whoever deletes takes an exclusive flock without waiting first.
 */
export class Lease implements AsyncDisposable {
  readonly path: string;
  readonly #handle: FileHandle;

  private constructor(path: string, handle: FileHandle) {
    this.path = path;
    this.#handle = handle;
  }

  /**
   * Leases what is at `path`; undefined when nothing is there. Whoever holds it exclusively is about to rename it away
   * or looks whether it is in use, which is over in a moment; that moment is waited for.
   */
  static async tryAcquire(path: string): Promise<Lease | undefined> {
    for (let pause = 1, waited = 0; ; pause = Math.min(pause * 2, 50)) {
      const lease = await Lease.#tryLock(path, 'shared');
      if (lease !== undefined || waited > longestDeletion || !(await isThere(path))) return lease;
      await delay(pause);
      waited += pause;
    }
  }

  /** The exclusive counterpart, for deleting; undefined while anyone has a lease. */
  static async tryAcquireExclusive(path: string): Promise<Lease | undefined> {
    return Lease.#tryLock(path, 'exclusive');
  }

  static async #tryLock(path: string, mode: 'shared' | 'exclusive'): Promise<Lease | undefined> {
    const [handle, { tryLock }] = await Promise.all([openExisting(path), import('../os/index.ts')]);
    if (handle === undefined) return undefined;
    try {
      // What was renamed away between opening and locking is about to be deleted.
      if (tryLock(handle.fd, mode) && (await namesFile(path, handle))) return new Lease(path, handle);
    } catch (error) {
      await handle.close();
      throw error;
    }
    await handle.close();
    return undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
  }
}

async function isThere(path: string): Promise<boolean> {
  return (await unlessMissing(lstat(path))) !== undefined;
}

/** Tells whether anybody has a lease on a path now. It asks by locking it for an instant. */
export type LeaseProbe = (path: string) => boolean;

/** Synchronous, since a prune asks for thousands of paths. */
export async function loadLeaseProbe(): Promise<LeaseProbe> {
  const { tryLock } = await import('../os/index.ts');
  return (path) => {
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    } catch (error) {
      if (isMissing(error)) return false;
      throw error;
    }
    try {
      return !tryLock(fd, 'exclusive');
    } finally {
      closeSync(fd);
    }
  };
}

async function openExisting(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Several leases that end together. */
export class LeaseSet implements AsyncDisposable {
  readonly #leases: AsyncDisposable[] = [];

  add<T extends AsyncDisposable>(lease: T): T {
    this.#leases.push(lease);
    return lease;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#leases.splice(0).map((lease) => lease[Symbol.asyncDispose]()));
  }
}

/** Unpacked layers that stay on the volume until this is disposed. */
export interface LayerLease extends AsyncDisposable {
  /** Directories usable as overlayfs lower directories, in the order of the layers asked for (lowest first). */
  readonly paths: readonly string[];
}
