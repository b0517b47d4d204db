import { readFile } from 'node:fs/promises';

/** Reads small files, and some of them from memory once they have been kept. */
export class TextFiles {
  readonly #kept = new Map<string, string>();

  /** @throws what Node's readFile throws. */
  async read(path: string): Promise<string> {
    return this.#kept.get(path) ?? readFile(path, 'utf8');
  }

  /** Reads a file now, and never again; one that cannot be read is not kept. */
  async keep(path: string): Promise<void> {
    const text = await readFile(path, 'utf8').catch(() => undefined);
    if (text !== undefined) this.#kept.set(path, text);
  }
}
