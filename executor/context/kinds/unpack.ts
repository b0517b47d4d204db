import { mkdir, rm } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { extractStream } from '../../../src/layer/index.ts';
import {
  BuildError,
  EnvironmentError,
  isAbortError,
  KilnError,
  systemErrorCode,
} from '../../../src/support/index.ts';
import { noSpace, SpaceGuard } from './space.ts';

/** An archive to be unpacked: its bytes, which end when the build is aborted, and how many they are when that is known. */
export interface ArchiveStream {
  readonly bytes: AsyncIterable<Buffer>;
  /** What is closed when nobody reads on. */
  readonly source: Readable;
  readonly size?: number | undefined;
}

/**
 * Unpacks a context as its bytes come; only the files in it are stored. They belong to root: the owners of files in a
 * context count for nothing.
 *
 * @param directory is made; it is removed when this fails.
 * @param name how messages call the context.
 * @throws BuildError `E_TAR_…`, `E_ARCHIVE_…`; EnvironmentError `E_NO_SPACE`; what the stream throws.
 */
export async function unpackContext(
  archive: ArchiveStream,
  directory: string,
  name: string,
  signal: AbortSignal,
): Promise<void> {
  await mkdir(directory, { mode: 0o755 });
  const guard = new SpaceGuard(directory, name);
  try {
    guard.require(archive.size ?? 0);
    await extractStream(archive.bytes, directory, '/', { owner: { uid: 0, gid: 0 }, guard, signal });
  } catch (error) {
    archive.source.destroy();
    await rm(directory, { recursive: true, force: true });
    throw explained(error, directory, name);
  }
}

function explained(error: unknown, directory: string, name: string): unknown {
  const code = systemErrorCode(error);
  if (code === 'ENOSPC' || code === 'EDQUOT') return noSpace(directory, name, error);
  if (isAbortError(error) || !(error instanceof KilnError)) return error;
  if (error instanceof EnvironmentError || error.code.startsWith('E_CONTEXT_')) return error;
  return new BuildError(`the build context ${name} cannot be unpacked: ${error.message}`, {
    code: error.code,
    cause: error.cause,
    remedy: error.remedy,
  });
}
