import { closeSync, openSync, readSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { PassThrough, type Duplex, Duplex as DuplexStream } from 'node:stream';
import { findProgram, type PathBytes } from '../os/index.ts';
import { BuildError, KilnError, systemErrorCode } from '../support/index.ts';
import { TarReader } from './tar-reader.ts';
import type { Territory } from './territory.ts';
import { TreeWriter } from './tree-writer.ts';

type ArchiveCompression = 'none' | 'gzip' | 'zstd' | 'bzip2' | 'xz';

const magics: readonly (readonly [ArchiveCompression, readonly number[]])[] = [
  ['gzip', [0x1f, 0x8b]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
];

function readStart(file: PathBytes, length: number): Buffer {
  const fd = openSync(file, 'r');
  try {
    const bytes = Buffer.alloc(length);
    return bytes.subarray(0, readSync(fd, bytes, 0, length, 0));
  } finally {
    closeSync(fd);
  }
}

function compressionOf(start: Buffer): ArchiveCompression {
  return magics.find(([, magic]) => magic.every((byte, index) => start[index] === byte))?.[0] ?? 'none';
}

function decompressorOf(compression: ArchiveCompression): Duplex {
  switch (compression) {
    case 'none':
      return new PassThrough();
    case 'gzip':
      return createGunzip();
    case 'zstd':
      return createZstdDecompress();
    case 'bzip2':
    case 'xz':
      return external(compression);
  }
}

/** bzip2 and xz have no decoder in Node; the programs of the system, or of Kiln's own image, are used. */
function external(program: 'bzip2' | 'xz'): Duplex {
  const child = spawn(findProgram(program) ?? `/usr/bin/${program}`, ['-dc'], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: {},
  });
  const duplex = DuplexStream.from({ writable: child.stdin, readable: child.stdout });
  child.once('error', (cause) => {
    duplex.destroy(
      new BuildError(`ADD of a ${program} archive needs the program ${program}`, {
        code: 'E_ARCHIVE_DECODER',
        cause,
        remedy: `Install ${program}, or compress the archive with gzip or zstd.`,
      }),
    );
  });
  child.once('exit', (code) => {
    if (code !== 0 && code !== null)
      duplex.destroy(new BuildError(`${program} cannot read the archive`, { code: 'E_ARCHIVE_DAMAGED' }));
  });
  return duplex;
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

function isTarHeader(start: Buffer): boolean {
  if (start.length < 512) return false;
  let sum = 8 * 32;
  for (let at = 0; at < 512; at++) if (at < 148 || at >= 156) sum += start[at] ?? 0;
  const stored = start.toString('latin1', 148, 156).replace(/\0.*$/s, '').trim();
  return /^[0-7]+$/.test(stored) && parseInt(stored, 8) === sum;
}

/**
 * Unpacks an archive of any kind that {@link isTarArchive} knows below `destination` in the tree `root`, on the calling
 * thread. The destination keeps its own mode and owner.
 *
 * @param options `owner`: who everything in the archive is to belong to, default its own owners; `territory`: where the tree's
 *   files are, when not all of them are below the root.
 * @throws BuildError `E_TAR_UNSAFE`, `E_TAR_MALFORMED`, `E_ARCHIVE_DAMAGED`; `E_ARCHIVE_DECODER` when a program is missing.
 */
export async function extractTar(
  file: PathBytes,
  root: string,
  destination: string,
  options: {
    readonly owner?: { readonly uid: number; readonly gid: number } | undefined;
    readonly territory?: Territory;
  } = {},
): Promise<void> {
  const { owner, territory } = options;
  const writer = new TreeWriter({ root, destination, whiteouts: 'none', owner }, territory);
  const reader = new TarReader(writer, { sparse: true });
  try {
    await pipeline(
      createReadStream(file),
      decompressorOf(compressionOf(readStart(file, 16))),
      async (chunks: AsyncIterable<Buffer>) => {
        for await (const chunk of chunks) reader.write(chunk);
      },
    );
    reader.finish();
    writer.finish();
  } catch (error) {
    writer.abort();
    // What is wrong with an archive of the context is the build's fault, not a registry's.
    if (error instanceof KilnError && error.category === 'registry')
      throw new BuildError(error.message, { code: error.code, remedy: error.remedy, cause: error.cause });
    throw error;
  }
}
