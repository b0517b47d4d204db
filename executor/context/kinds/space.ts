import { statfsSync } from 'node:fs';
import { EnvironmentError } from '../../../src/support/index.ts';
import type { ExtractOptions } from '../../../src/layer/index.ts';

/** What was free at first is not taken to the last byte: others write to the same disk. */
const reservedShare = 0.1;
/** The disk is looked at again after so many bytes or entries. */
const bytesBetweenLooks = 32 << 20;
const entriesBetweenLooks = 1024;

/** Refuses what would fill the disk that a directory lies on, before it is full. */
export class SpaceGuard implements NonNullable<ExtractOptions['guard']> {
  readonly #directory: string;
  readonly #name: string;
  readonly #reserved: { readonly bytes: number; readonly files: number };
  readonly #limit: number;
  #bytes = 0;
  #holes = 0;
  #entries = 0;

  /** @param name how messages call what is written. */
  constructor(directory: string, name: string) {
    this.#directory = directory;
    this.#name = name;
    const free = freeOf(directory);
    this.#limit = free.bytes * (1 - reservedShare);
    this.#reserved = { bytes: free.bytes * reservedShare, files: free.files * reservedShare };
  }

  /** @throws EnvironmentError `E_NO_SPACE` when so many bytes, not yet unpacked, have no place. */
  require(bytes: number): void {
    if (bytes > this.#limit) throw this.#full();
  }

  entry(): void {
    if (++this.#entries % entriesBetweenLooks === 0) this.#look();
  }

  data(chunk: Buffer): void {
    this.#bytes += chunk.length;
    if (this.#bytes < bytesBetweenLooks && this.#bytes < this.#limit) return;
    this.#bytes = 0;
    this.#look();
  }

  /** A hole takes no space, but whatever reads the file has to read it. */
  hole(length: number): void {
    this.#holes += length;
    if (this.#holes > this.#limit) throw this.#full();
  }

  #look(): void {
    const free = freeOf(this.#directory);
    if (free.bytes <= this.#reserved.bytes || free.files < this.#reserved.files) throw this.#full();
  }

  #full(): EnvironmentError {
    return noSpace(this.#directory, this.#name);
  }
}

export function noSpace(directory: string, name: string, cause?: unknown): EnvironmentError {
  return new EnvironmentError(`there is no space for the build context ${name} in ${directory}`, {
    code: 'E_NO_SPACE',
    cause,
    remedy: 'Free some space there, or name a place that has more: --scratch-dir DIRECTORY.',
  });
}

/** Some file systems have no fixed number of files, and say 0. */
function freeOf(directory: string): { readonly bytes: number; readonly files: number } {
  const { bavail, bsize, ffree, files } = statfsSync(directory);
  return { bytes: bavail * bsize, files: files === 0 ? Infinity : ffree };
}
