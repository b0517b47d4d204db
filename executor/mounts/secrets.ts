import { open } from 'node:fs/promises';
import { BuildError, UsageError } from '../../src/support/index.ts';
import type { MountSources, SecretSource } from './sources.ts';

/** BuildKit's limit. */
const largestSecret = 500 * 1024;

/** The secrets of a build. They are read before the first step and kept in memory: in place, their files may not be there later. */
export class Secrets {
  readonly #contents = new Map<string, Uint8Array>();

  /**
   * Reads those of these ids that were given.
   *
   * @throws UsageError `E_SECRET_NOT_FOUND` for a file or variable that is not there, `E_SECRET_TOO_LARGE`.
   */
  static async read(sources: MountSources['secrets'], ids: ReadonlySet<string>): Promise<Secrets> {
    const secrets = new Secrets();
    for (const [id, source] of sources)
      if (ids.has(id)) secrets.#contents.set(id, await readSecret(id, source));
    return secrets;
  }

  /**
   * Undefined for one that was not given and need not be.
   *
   * @throws BuildError `E_SECRET_MISSING`.
   */
  get(id: string, required: boolean, where: string): Uint8Array | undefined {
    const content = this.#contents.get(id);
    if (content !== undefined || !required) return content;
    throw new BuildError(`the secret ${id} is required, and was not given`, {
      code: 'E_SECRET_MISSING',
      where,
      subject: id,
      remedy: `Give it to the build: --secret id=${id},src=FILE, or id=${id},env=VARIABLE.`,
    });
  }
}

async function readSecret(id: string, source: SecretSource): Promise<Uint8Array> {
  const content = source.kind === 'file' ? await readLimited(id, source.path) : readVariable(id, source.name);
  if (content.length <= largestSecret) return content;
  throw new UsageError(`the secret ${id} is larger than 500 KiB`, {
    code: 'E_SECRET_TOO_LARGE',
    remedy: 'Secrets are keys and tokens; take other files from the context.',
  });
}

function readVariable(id: string, name: string): Uint8Array {
  const value = process.env[name];
  if (value !== undefined) return Buffer.from(value);
  throw new UsageError(`the secret ${id} is to be read from the variable ${name}, which is not set`, {
    code: 'E_SECRET_NOT_FOUND',
    remedy: 'Set it for the executor, or give a file: src=FILE.',
  });
}

async function readLimited(id: string, path: string): Promise<Uint8Array> {
  try {
    await using file = await open(path, 'r');
    const buffer = Buffer.alloc(largestSecret + 1);
    let length = 0;
    for (let read = -1; read !== 0 && length < buffer.length; length += read)
      read = (await file.read(buffer, length, buffer.length - length)).bytesRead;
    return buffer.subarray(0, length);
  } catch (cause) {
    throw new UsageError(`the secret ${id} cannot be read from ${path}`, {
      code: 'E_SECRET_NOT_FOUND',
      cause,
      remedy: 'Check the path of --secret.',
    });
  }
}
