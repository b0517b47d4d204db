import { randomBytes } from 'node:crypto';
import { rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemErrorCode } from '../support/index.ts';
import { unlessMissing } from './storage.ts';

const smallest = 64 * 1024;

/**
 * Space that is kept back, so that on a full disk `index.json` can still be written anew without what is to be deleted:
 * references go before files do.
 */
export class Reserve {
  readonly #path: string;
  readonly #index: string;

  constructor(directory: string) {
    this.#path = join(directory, 'index.reserve');
    this.#index = join(directory, 'index.json');
  }

  /** Keeps back twice what `index.json` takes now. A disk that is full already is no error. */
  async keep(): Promise<void> {
    const [index, reserve] = await Promise.all([
      unlessMissing(stat(this.#index)),
      unlessMissing(stat(this.#path)),
    ]);
    const wanted = Math.max(smallest, 2 * (index?.size ?? 0));
    // Growing with every image would be a write each time.
    if (reserve !== undefined && reserve.size >= wanted / 1.5) return;
    try {
      // Random, so that a file system that compresses keeps the space all the same.
      await writeFile(this.#path, randomBytes(wanted), { mode: 0o600 });
    } catch (error) {
      if (!['ENOSPC', 'EDQUOT'].includes(systemErrorCode(error) ?? '')) throw error;
      await this.release();
    }
  }

  async release(): Promise<void> {
    await rm(this.#path, { force: true });
  }
}
