import { closeSync, createReadStream, openSync, readSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import type { PathBytes } from '../os/index.ts';
import { BuildError, KilnError, systemErrorCode } from '../support/index.ts';
import { compressionOf, decompressorOf, isTarHeader } from './archive-compression.ts';
import { type TarHandler, TarReader } from './tar-reader.ts';
import type { Territory } from './territory.ts';
import { TreeWriter } from './tree-writer.ts';

function readStart(file: PathBytes, length: number): Buffer {
  const fd = openSync(file, 'r');
  try {
    const bytes = Buffer.alloc(length);
    return bytes.subarray(0, readSync(fd, bytes, 0, length, 0));
  } finally {
    closeSync(fd);
  }
}

/** True when a file is a tar archive that ADD unpacks: plain, or compressed by gzip, bzip2, xz or zstd. */
export async function isTarArchive(file: PathBytes): Promise<boolean> {
  const start = readStart(file, 512);
  const compression = compressionOf(start);
  if (compression === 'none') return isTarHeader(start);
  const stream = decompressorOf(compression);
  let first = Buffer.alloc(0);
  try {
    await pipeline(createReadStream(file), stream, async (chunks: AsyncIterable<Buffer>) => {
      for await (const chunk of chunks) {
        first = Buffer.concat([first, chunk]);
        if (first.length >= 512) return;
      }
    });
  } catch (error) {
    if (error instanceof BuildError && error.code === 'E_ARCHIVE_DECODER') throw error;
    // What looks compressed but is not, or is cut short after its first block, is judged by what could be read.
    if (first.length < 512 && systemErrorCode(error) === 'ENOENT') throw error;
  }
  return isTarHeader(first);
}

/** Whom what is unpacked belongs to, and how far it may go. */
export interface ExtractOptions {
  /** Who everything in the archive is to belong to; default its own owners. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined;
  /** Where the tree's files are, when not all of them are below the root. */
  readonly territory?: Territory;
  /** Sees everything before it is written, and may refuse it by throwing. */
  readonly guard?: Pick<TarHandler, 'entry' | 'data' | 'hole'>;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Unpacks an archive of any kind that {@link isTarArchive} knows below `destination` in the tree `root`, on the calling
 * thread. The destination keeps its own mode and owner.
 *
 * @throws BuildError `E_TAR_UNSAFE`, `E_TAR_MALFORMED`, `E_ARCHIVE_DAMAGED`; `E_ARCHIVE_DECODER` when a program is missing.
 */
export async function extractTar(
  file: PathBytes,
  root: string,
  destination: string,
  options: ExtractOptions = {},
): Promise<void> {
  await extractStream(createReadStream(file, { highWaterMark: 1 << 16 }), root, destination, options);
}

/**
 * {@link extractTar} of an archive that comes as a stream, of which nothing but the files in it is stored.
 *
 * @throws as extractTar; BuildError `E_ARCHIVE_UNKNOWN` for what is no archive; what the stream and the guard throw.
 */
export async function extractStream(
  stream: AsyncIterable<Buffer>,
  root: string,
  destination: string,
  options: ExtractOptions = {},
): Promise<void> {
  const { owner, territory, guard, signal } = options;
  const writer = new TreeWriter({ root, destination, whiteouts: 'none', owner }, territory);
  const reader = new TarReader(guard === undefined ? writer : guarded(writer, guard), { sparse: true });
  try {
    const [start, bytes] = await peek(stream, 16);
    await pipeline(
      bytes,
      decompressorOf(compressionOf(start)),
      async (chunks: AsyncIterable<Buffer>) => {
        const [header, rest] = await peek(chunks, 512);
        if (!isTarHeader(header) && !isEmptyArchive(header)) throw unknownArchive();
        for await (const chunk of rest) reader.write(chunk);
      },
      signal === undefined ? {} : { signal },
    );
    reader.finish();
    writer.finish();
  } catch (error) {
    writer.abort();
    throw archiveError(error);
  }
}

/** The first bytes of a stream, fewer only if it has no more, and the whole stream. */
async function peek(
  stream: AsyncIterable<Buffer>,
  length: number,
): Promise<readonly [Buffer, AsyncIterable<Buffer>]> {
  const iterator = stream[Symbol.asyncIterator]();
  let start = Buffer.alloc(0);
  while (start.length < length) {
    const next = await iterator.next();
    if (next.done === true) break;
    start = Buffer.concat([start, next.value]);
  }
  async function* whole(): AsyncGenerator<Buffer> {
    try {
      yield start;
      for (let next = await iterator.next(); next.done !== true; next = await iterator.next())
        yield next.value;
    } finally {
      await iterator.return?.();
    }
  }
  return [start, whole()];
}

/** An archive with nothing in it begins with what ends all others. */
function isEmptyArchive(start: Buffer): boolean {
  return start.length >= 512 && start.subarray(0, 512).every((byte) => byte === 0);
}

function guarded(handler: TarHandler, guard: NonNullable<ExtractOptions['guard']>): TarHandler {
  return {
    entry: (entry) => {
      guard.entry(entry);
      handler.entry(entry);
    },
    data: (chunk) => {
      guard.data(chunk);
      handler.data(chunk);
    },
    hole: (length) => {
      guard.hole(length);
      handler.hole(length);
    },
    end: () => handler.end(),
  };
}

function unknownArchive(): BuildError {
  return new BuildError('this is no tar archive', {
    code: 'E_ARCHIVE_UNKNOWN',
    remedy: 'Give a tar archive: plain, or compressed by gzip, zstd, bzip2 or xz.',
  });
}

/** What is wrong with an archive that was given is the build's fault, not a registry's. */
function archiveError(error: unknown): unknown {
  if (error instanceof KilnError && error.category === 'registry' && error.code.startsWith('E_TAR_'))
    return new BuildError(error.message, { code: error.code, remedy: error.remedy, cause: error.cause });
  if (/^(?:Z|ZSTD)_/.test(systemErrorCode(error) ?? ''))
    return new BuildError('the archive is damaged, or was cut short', {
      code: 'E_ARCHIVE_DAMAGED',
      cause: error,
      remedy: 'Make it again, and see that it arrives whole.',
    });
  return error;
}
