import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { maximumDocumentSize } from '../../src/oci/index.ts';
import { systemErrorCode } from '../../src/support/index.ts';

/** The files that an image was saved as: of a directory, or in a tar. */
export interface SavedFiles {
  /** Bytes; undefined when there is no such file. */
  size(name: string): Promise<number | undefined>;
  /** @param name of a file that is there. */
  open(name: string): Promise<Readable>;
}

/** The files of a directory. */
export class DirectoryFiles implements SavedFiles {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  async size(name: string): Promise<number | undefined> {
    try {
      const found = await stat(join(this.#directory, name));
      return found.isFile() ? found.size : undefined;
    } catch (error) {
      if (['ENOENT', 'ENOTDIR'].includes(systemErrorCode(error) ?? '')) return undefined;
      throw error;
    }
  }

  open(name: string): Promise<Readable> {
    return Promise.resolve(createReadStream(join(this.#directory, name), { highWaterMark: 1 << 16 }));
  }
}

/** A small file whole; undefined when it is not there, or larger than documents may be. */
export async function readDocument(files: SavedFiles, name: string): Promise<Buffer | undefined> {
  const size = await files.size(name);
  if (size === undefined || size > maximumDocumentSize) return undefined;
  const chunks: Buffer[] = [];
  for await (const chunk of await files.open(name)) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
