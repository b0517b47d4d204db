import { type FileHandle, mkdir, open, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { EnvironmentError, KilnError, randomName, systemErrorCode } from '../support/index.ts';

/** Makes the names in a directory survive a power failure. */
export async function syncDirectory(path: string): Promise<void> {
  await using handle = await open(path, 'r');
  await handle.sync();
}

/** What is written must be on disk before anything refers to it, unless the directory is scratch space. */
export interface Durability {
  readonly durable: boolean;
}

/** Gives a finished temporary file its final name (CONVENTIONS: sync, rename, sync the directory). */
export async function publishFile(
  handle: FileHandle,
  temporary: string,
  target: string,
  { durable, mode }: Durability & { readonly mode: number },
): Promise<void> {
  await handle.chmod(mode);
  if (durable) await handle.sync();
  await rename(temporary, target);
  if (durable) await syncDirectory(dirname(target));
}

/** Replaces `target` in one step; a reader sees the old or the new content. */
export async function replaceFile(
  target: string,
  content: string | Uint8Array,
  { ingest, durable }: Durability & { readonly ingest: string },
): Promise<void> {
  const temporary = join(ingest, randomName('file-'));
  await using handle = await open(temporary, 'wx', 0o600);
  await handle.writeFile(content);
  await publishFile(handle, temporary, target, { durable, mode: 0o644 });
}

/** Turns "disk full" and "read-only" into errors that say so; everything else is returned as it is. */
export function explainStorageError(error: unknown, directory: string): unknown {
  if (error instanceof KilnError) return error;
  const code = systemErrorCode(error);
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new EnvironmentError('the volume is full', {
      code: 'E_NO_SPACE',
      where: directory,
      remedy: 'Prune the volume or give it more space.',
      cause: error,
    });
  if (code === 'EROFS' || code === 'EACCES' || code === 'EPERM')
    return new EnvironmentError('the volume cannot be written', {
      code: 'E_VOLUME_READ_ONLY',
      where: directory,
      remedy: 'Mount it writable, or open it for reading only.',
      cause: error,
    });
  return error;
}

/** Runs `work`, and explains errors of the file system below `directory`. */
export async function explained<T>(directory: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw (await missingCapability(error)) ?? explainStorageError(error, directory);
  }
}

async function missingCapability(error: unknown): Promise<EnvironmentError | undefined> {
  const code = systemErrorCode(error);
  if (code !== 'EACCES' && code !== 'EPERM') return undefined;
  const { capabilityError } = await import('../os/index.ts');
  return capabilityError(error);
}

/** True when the error says that a path is not there. */
export function isMissing(error: unknown): boolean {
  const code = systemErrorCode(error);
  return code === 'ENOENT' || code === 'ENOTDIR';
}

/** The result of `work`, or undefined when the path it looks at is not there. */
export async function unlessMissing<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/**
 * Creates a directory and those above it; one that is there is no error.
 * Not mkdir's `recursive`: Node then reports a read-only file system as ENOENT, and never returns below /proc.
 */
export async function ensureDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o755 });
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'EEXIST') return;
    if (code !== 'ENOENT' || dirname(path) === path) throw error;
    await ensureDirectory(dirname(path));
    await mkdirOnce(path);
  }
}

async function mkdirOnce(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o755 });
  } catch (error) {
    if (systemErrorCode(error) !== 'EEXIST') throw error;
  }
}
