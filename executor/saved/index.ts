import { createReadStream, createWriteStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { decompress } from '../../src/layer/index.ts';
import { systemErrorCode, TemporaryDirectory, UsageError } from '../../src/support/index.ts';
import type { Pushable } from '../export/pushable.ts';
import { compressionOf } from './compression.ts';
import { dockerArchiveImage } from './docker-archive.ts';
import { layoutImage } from './layout-image.ts';
import { DirectoryFiles, type SavedFiles } from './saved-files.ts';
import { TarFiles, unreadable } from './tar-files.ts';

/** An image that was saved, until it is disposed. */
export interface SavedImage extends AsyncDisposable {
  readonly pushable: Pushable;
}

/**
 * Opens an image that was saved: an OCI layout, as a directory or in a tar, or an archive of `docker save`; a tar may be compressed
 * with gzip or zstd.
 *
 * @param source a path, with `:NAME` behind it where there are several images, and `oci:` before it or not.
 * @throws UsageError `E_IMAGE_NOT_FOUND`, `E_IMAGE_UNREADABLE`.
 */
export async function openSavedImage(source: string, signal?: AbortSignal): Promise<SavedImage> {
  const { path, name, isDirectory } = await locate(source.replace(/^oci:/, ''));
  await using resources = new AsyncDisposableStack();
  const scratch = resources.use(await TemporaryDirectory.create(tmpdir(), 'kiln-push-'));
  const files: SavedFiles = isDirectory
    ? new DirectoryFiles(path)
    : await TarFiles.open(await plainTar(path, scratch.path, signal));
  const isLayout = (await files.size('index.json')) !== undefined;
  const pushable = isLayout
    ? await layoutImage(files, path, name)
    : await dockerArchiveImage({ files, path, name, scratch: scratch.path, signal });
  const kept = resources.move();
  return { pushable, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

interface Location {
  readonly path: string;
  readonly name: string | undefined;
  readonly isDirectory: boolean;
}

async function locate(source: string): Promise<Location> {
  const whole = await kindOf(source);
  if (whole !== undefined) return { path: source, name: undefined, ...whole };
  for (let colon = source.indexOf(':'); colon > 0; colon = source.indexOf(':', colon + 1)) {
    const path = source.slice(0, colon);
    const found = await kindOf(path);
    if (found !== undefined) return { path, name: source.slice(colon + 1), ...found };
  }
  throw new UsageError(`there is no image at ${source}`, {
    code: 'E_IMAGE_NOT_FOUND',
    remedy: 'Give a tar file or an OCI layout, as --tar-path and --oci-layout-path write them.',
  });
}

async function kindOf(path: string): Promise<{ readonly isDirectory: boolean } | undefined> {
  try {
    return { isDirectory: (await stat(path)).isDirectory() };
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(systemErrorCode(error) ?? '')) return undefined;
    throw error;
  }
}

/** A tar as it is, or what is in a compressed one. */
async function plainTar(path: string, scratch: string, signal?: AbortSignal): Promise<string> {
  const compression = await compressionOf(createReadStream(path));
  if (compression === 'none') return path;
  const plain = join(scratch, 'archive.tar');
  try {
    const source = decompress(createReadStream(path), compression);
    await pipeline(source, createWriteStream(plain, { mode: 0o600 }), signal === undefined ? {} : { signal });
  } catch (error) {
    signal?.throwIfAborted();
    if (/^(?:Z_|ERR_ZLIB|ZSTD_)/.test(systemErrorCode(error) ?? ''))
      throw unreadable(path, 'it is damaged', error);
    throw error;
  }
  return plain;
}
