import { randomBytes } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';

/** A name that no other process picks, whatever pid namespace it runs in. */
export function randomName(prefix: string): string {
  return `${prefix}${randomBytes(9).toString('hex')}`;
}

/** A directory that is removed, with all that is in it, when disposed. */
export class TemporaryDirectory implements AsyncDisposable {
  readonly path: string;

  protected constructor(path: string) {
    this.path = path;
  }

  /** Creates a new directory under `parent`, which is created when it is missing. */
  static async create(parent: string, prefix: string): Promise<TemporaryDirectory> {
    const path = join(parent, randomName(prefix));
    await mkdir(path, { recursive: true, mode: 0o700 });
    return new TemporaryDirectory(path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.path, { recursive: true, force: true, maxRetries: 3 });
  }
}
