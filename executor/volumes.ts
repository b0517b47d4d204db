import { access, constants, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import {
  EnvironmentError,
  type Progress,
  systemErrorCode,
  TemporaryDirectory,
} from '../src/support/index.ts';
import { Volume } from '../src/volume/index.ts';
import { homeWork, runsFromHome } from './home.ts';
import type { BuildOptions } from './options.ts';

/** The volumes of a build: the shared one, and where it cannot be written, one of the build's own. */
export interface BuildVolumes extends AsyncDisposable {
  /** In the order of looking; the last one is writable. */
  readonly all: readonly Volume[];
  /** The one that the build can only read; undefined when it can write it, or it is not there. */
  readonly shared: Volume | undefined;
  /** Makes a directory for the build's own files: on the writable volume unless another place was asked for. */
  scratch(): Promise<TemporaryDirectory>;
}

/**
 * Opens the cache volume with what rights there are.
 *
 * @throws EnvironmentError when neither the volume nor a scratch space can be used.
 */
export async function openVolumes(options: BuildOptions, progress: Progress): Promise<BuildVolumes> {
  const { cacheDirectory } = options;
  if (await isWritable(cacheDirectory)) {
    const volume = await Volume.open(cacheDirectory, { access: 'read-write', progress });
    const { scratchDirectory } = options;
    const scratch = (): Promise<TemporaryDirectory> =>
      scratchDirectory === undefined
        ? volume.scratch('build-')
        : TemporaryDirectory.create(scratchDirectory, 'kiln-build-');
    return {
      all: [volume],
      shared: undefined,
      scratch,
      [Symbol.asyncDispose]: () => volume[Symbol.asyncDispose](),
    };
  }
  const shared = await openShared(cacheDirectory, progress);
  const directory = await TemporaryDirectory.create(
    options.scratchDirectory ?? ownScratchParent(),
    'kiln-volume-',
  );
  const own = await Volume.open(directory.path, { access: 'read-write', durable: false, progress });
  return {
    all: shared === undefined ? [own] : [shared, own],
    shared,
    scratch: () => own.scratch('build-'),
    [Symbol.asyncDispose]: async () => {
      await shared?.[Symbol.asyncDispose]();
      await own[Symbol.asyncDispose]();
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** Where a build keeps its own files when the volume can only be read and nothing else is said. */
export function ownScratchParent(): string {
  return runsFromHome() ? homeWork : tmpdir();
}

async function isWritable(directory: string): Promise<boolean> {
  try {
    await mkdir(directory, { recursive: true });
    await access(directory, constants.W_OK);
    return true;
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'EROFS' || code === 'EACCES' || code === 'EPERM' || code === 'ENOENT') return false;
    throw new EnvironmentError(`the cache directory ${directory} cannot be used`, {
      code: 'E_VOLUME_UNUSABLE',
      cause: error,
      remedy: 'Give another one with --cache-dir.',
    });
  }
}

async function openShared(directory: string, progress: Progress): Promise<Volume | undefined> {
  try {
    return await Volume.open(directory, { access: 'read-only', progress });
  } catch (error) {
    if (error instanceof EnvironmentError && error.code === 'E_VOLUME_NOT_FOUND') return undefined;
    throw error;
  }
}
