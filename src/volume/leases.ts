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

  /** False when something else has taken the place of what is leased, or its name is gone. */
  async isCurrent(): Promise<boolean> {
    return namesFile(this.path, this.#handle);
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

/** Asks about each path once: images share their lowest layers. What it says was so at some time since this was made. */
export function remembering(probe: LeaseProbe): LeaseProbe {
  const known = new Map<string, boolean>();
  return (path) => {
    let leased = known.get(path);
    if (leased === undefined) known.set(path, (leased = probe(path)));
    return leased;
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

/** Takes leases of all items, or of none. @returns undefined when one of them is not there. */
export async function acquireAll<Item>(
  items: readonly Item[],
  acquire: (item: Item) => Promise<AsyncDisposable | undefined>,
): Promise<LeaseSet | undefined> {
  const leases = new LeaseSet();
  const acquired = await Promise.allSettled(
    items.map(async (item) => {
      const lease = await acquire(item);
      if (lease !== undefined) leases.add(lease);
      return lease !== undefined;
    }),
  );
  if (acquired.every((result) => result.status === 'fulfilled' && result.value)) return leases;
  await leases[Symbol.asyncDispose]();
  for (const result of acquired) if (result.status === 'rejected') throw result.reason;
  return undefined;
}

/** Unpacked layers that stay on the volume until this is disposed. */
export interface LayerLease extends AsyncDisposable {
  /** Directories usable as overlayfs lower directories, in the order of the layers asked for (lowest first). */
  readonly paths: readonly string[];
  /** For each of them, the directories in it (latin1, relative) that are there only for what is in them. */
  readonly implied: readonly (readonly string[])[];
}
