import { spawn } from 'node:child_process';
import { PassThrough, type Duplex, Duplex as DuplexStream } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { findProgram } from '../os/index.ts';
import { BuildError } from '../support/index.ts';

export type ArchiveCompression = 'none' | 'gzip' | 'zstd' | 'bzip2' | 'xz';

const magics: readonly (readonly [ArchiveCompression, readonly number[]])[] = [
  ['gzip', [0x1f, 0x8b]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
];

/** What an archive is compressed by, told by its first 16 bytes. */
export function compressionOf(start: Buffer): ArchiveCompression {
  return magics.find(([, magic]) => magic.every((byte, index) => start[index] === byte))?.[0] ?? 'none';
}

/** The stream that undoes a compression. */
export function decompressorOf(compression: ArchiveCompression): Duplex {
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
      new BuildError(`an archive compressed by ${program} needs the program ${program}`, {
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

/** Whether an archive that is not compressed, or no more, begins with the header of an entry. */
export function isTarHeader(start: Buffer): boolean {
  if (start.length < 512) return false;
  let sum = 8 * 32;
  for (let at = 0; at < 512; at++) if (at < 148 || at >= 156) sum += start[at] ?? 0;
  const stored = start.toString('latin1', 148, 156).replace(/\0.*$/s, '').trim();
  return /^[0-7]+$/.test(stored) && parseInt(stored, 8) === sum;
}
