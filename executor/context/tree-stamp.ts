import { createHash } from 'node:crypto';
import type { Stats } from 'node:fs';

/**
 * Tells whether a tree is still what it was, by the status of its files in the order of reading. Any change of a file moves
 * its change time, which nobody can set; inode numbers are not stable on every file system.
 */
export class TreeStamp {
  readonly #hash = createHash('sha256');

  add({ mode, size, mtimeMs, ctimeMs }: Stats): void {
    this.#hash.update(`${[mode, size, mtimeMs, ctimeMs].join(' ')}\n`);
  }

  end(): string {
    return this.#hash.digest('hex');
  }
}
