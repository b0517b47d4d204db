import { type FileHandle, mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { TemporaryDirectory, randomName } from '../support/index.ts';
import { FileLock } from './file-lock.ts';
import { Lease } from './leases.ts';
import { isMissing, unlessMissing } from './storage.ts';

/** A temporary directory that other processes can tell to be in use: its owner holds a flock on it. */
export class LockedDirectory extends TemporaryDirectory {
  readonly #handle: FileHandle;

  private constructor(path: string, handle: FileHandle) {
    super(path);
    this.#handle = handle;
  }

  /** Creates a new directory under `parent`. */
  static override async create(parent: string, prefix: string): Promise<LockedDirectory> {
    const { tryLock } = await import('../os/index.ts');
    const path = join(parent, randomName(prefix));
    await mkdir(path, { mode: 0o700 });
    const handle = await open(path, 'r');
    tryLock(handle.fd, 'exclusive');
    return new LockedDirectory(path, handle);
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    try {
      await super[Symbol.asyncDispose]();
    } finally {
      await this.#handle.close();
    }
  }
}

/** A temporary that nobody has locked is given this long, since it is locked only after it was created. */
const graceMilliseconds = 60_000;
/** A download that nobody resumed for this long is given up. */
const partialMilliseconds = 24 * 3600_000;

/**
 * Removes what killed processes left in `ingest`. Files and directories in use are locked by their owners, or changed
 * a moment ago, and stay. What a prune has moved here is in nobody's way, so it goes at once.
 */
export async function cleanIngest(directory: string, now = Date.now()): Promise<void> {
  for (const name of await readdir(directory)) {
    const path = join(directory, name);
    const found = await unlessMissing(stat(path));
    if (found === undefined) continue;
    if (now - Math.max(found.mtimeMs, found.ctimeMs) < ageLimit(name)) continue;
    // Taking a lock and giving it back removes its file.
    if (name.endsWith('.lock')) await (await FileLock.tryAcquire(path))?.[Symbol.asyncDispose]();
    else {
      await using lease = await Lease.tryAcquireExclusive(path);
      if (lease !== undefined) await removeTree(path);
    }
  }
}

/** How long something may lie in `ingest` without a lock, in milliseconds. */
function ageLimit(name: string): number {
  if (name.startsWith(trashPrefix)) return 0;
  return name.endsWith('.partial') ? partialMilliseconds : graceMilliseconds;
}

/** What the names of things to be deleted begin with. */
export const trashPrefix = 'trash-';

/** Removes a tree, also one that another process removes at the same time. */
export async function removeTree(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true, maxRetries: 3 });
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}
