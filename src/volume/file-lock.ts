import { type FileHandle, open, stat, unlink } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { isMissing, unlessMissing } from './storage.ts';

/**
 * A mutex between processes, and within one: an exclusive flock on a file of its own.
 * It vanishes with its holder, also by `kill -9`. The file is removed on release, so a lock that was taken counts only
 * when the path still names the locked file.
 */
export class FileLock implements AsyncDisposable {
  readonly #handle: FileHandle;
  readonly #path: string;

  private constructor(handle: FileHandle, path: string) {
    this.#handle = handle;
    this.#path = path;
  }

  /** Takes the lock, or returns undefined when somebody holds it. */
  static async tryAcquire(path: string): Promise<FileLock | undefined> {
    const { tryLock } = await import('../os/index.ts');
    for (;;) {
      const handle = await open(path, 'a', 0o644);
      try {
        if (!tryLock(handle.fd, 'exclusive')) {
          await handle.close();
          return undefined;
        }
        if (await namesFile(path, handle)) return new FileLock(handle, path);
      } catch (error) {
        await handle.close();
        throw error;
      }
      await handle.close();
    }
  }

  /** Waits for the lock. Rejects with an AbortError when `signal` fires first. */
  static async acquire(path: string, signal?: AbortSignal): Promise<FileLock> {
    for (let pause = 2; ; pause = Math.min(pause * 1.6, 80)) {
      signal?.throwIfAborted();
      const lock = await FileLock.tryAcquire(path);
      if (lock !== undefined) return lock;
      await delay(pause, undefined, signal === undefined ? {} : { signal });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await unlink(this.#path);
    } catch (error) {
      if (!isMissing(error)) throw error;
    } finally {
      await this.#handle.close();
    }
  }
}

/** True when `path` still names the open file, and not one that took its place. */
export async function namesFile(path: string, handle: FileHandle): Promise<boolean> {
  const [named, opened] = await Promise.all([
    unlessMissing(stat(path, { bigint: true })),
    handle.stat({ bigint: true }),
  ]);
  return named !== undefined && named.ino === opened.ino && named.dev === opened.dev;
}
