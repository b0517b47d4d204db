import { closeSync, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { tryLock } from '../../../src/os/index.ts';

/** One build at a time has the root of a container: a flock, which vanishes with its holder. */
export class RootLock implements Disposable {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Waits for the lock. @param onWait told once, when another build has it. */
  static async acquire(path: string, onWait: () => void, signal?: AbortSignal): Promise<RootLock> {
    const fd = openSync(path, 'a', 0o600);
    try {
      for (let waited = false; !tryLock(fd, 'exclusive'); waited = true) {
        if (!waited) onWait();
        await sleep(100, undefined, signal === undefined ? {} : { signal });
      }
      return new RootLock(fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}
