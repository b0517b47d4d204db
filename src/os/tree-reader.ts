import koffi from 'koffi';
import { openFlags, SystemCallError } from './libc.ts';
import { recordStatus, statxSize } from './status-record.ts';

/*
 * Reading directories and file status relative to an open directory, into memory that is used again. For a walk over a
 * whole tree this costs half of Node's lstat with full paths, keeps names as bytes, and leaves nothing for the garbage
 * collector. Names are strings with one character a byte.
 */

const libc = koffi.load(null);
const bound = {
  openat: libc.func('int openat(int dirfd, uintptr_t path, int flags)'),
  close: libc.func('int close(int fd)'),
  getdents: libc.func('long getdents64(int fd, void *entries, size_t size)'),
  // With addresses as numbers, since finding that of a buffer takes a tenth of the time of the call.
  statx: libc.func(
    'int statx(int dirfd, uintptr_t path, int flags, unsigned int mask, uintptr_t status)',
  ) as (fd: number, path: number, flags: number, mask: number, status: number) => number,
};

const currentDirectory = -100;
const noFollowNoAutomount = 0x100 | 0x800;
const basicStatusAndBirth = 0xfff;

/** Memory that system calls read and write, with its address. It stays where it is as long as `bytes` is in use. */
export interface NativeMemory {
  readonly bytes: Buffer;
  readonly address: number;
}

export function nativeMemory(size: number): NativeMemory {
  const bytes = Buffer.allocUnsafeSlow(size);
  return { bytes, address: Number(koffi.address(bytes)) };
}

const pathMemory = nativeMemory(4096);
const statusMemory = nativeMemory(statxSize);
const statusBuffer = new Uint32Array(
  statusMemory.bytes.buffer,
  statusMemory.bytes.byteOffset,
  statxSize / Uint32Array.BYTES_PER_ELEMENT,
);
const entryBytes = Buffer.alloc(1 << 16);

/** A directory as a base of names; its file descriptor is closed when it is disposed. */
export class OpenDirectory implements Disposable {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** @param path latin1. @throws SystemCallError, for a link in the last component too. */
  static open(path: string): OpenDirectory {
    return new OpenDirectory(openAt(currentDirectory, path));
  }

  /** A directory in this one. */
  open(name: string): OpenDirectory {
    return new OpenDirectory(openAt(this.#fd, name));
  }

  /** The names in it, sorted by bytes. Read it once: the position is not reset. */
  names(): string[] {
    const names: string[] = [];
    for (;;) {
      const length = Number(bound.getdents(this.#fd, entryBytes, entryBytes.length));
      if (length === -1) throw new SystemCallError('getdents64', koffi.errno());
      if (length === 0) return names.sort();
      // struct linux_dirent64: inode and offset of 8 bytes, record length of 2, type of 1, name
      for (let at = 0; at < length; at += entryBytes.readUInt16LE(at + 16)) {
        const name = entryBytes.toString('latin1', at + 19, entryBytes.indexOf(0, at + 19));
        if (name !== '.' && name !== '..') names.push(name);
      }
    }
  }

  /** Writes the status of something in it as a record; see {@link readStatus}. */
  readStatus(name: string, target: Uint32Array, at: number): boolean {
    return statusAt(this.#fd, nativeString(name), target, at);
  }

  /** The same. @param address where the name is in memory, with a zero behind it. */
  readStatusOf(address: number, target: Uint32Array, at: number): boolean {
    return statusAt(this.#fd, address, target, at);
  }

  [Symbol.dispose](): void {
    bound.close(this.#fd);
  }
}

function nativeString(path: string): number {
  const { bytes, address } = pathMemory;
  const length = bytes.write(path, 'latin1');
  if (length >= bytes.length) throw new SystemCallError('open', koffi.os.errno.ENAMETOOLONG ?? 36, path);
  bytes[length] = 0;
  return address;
}

function openAt(fd: number, path: string): number {
  const flags = openFlags.directory | openFlags.noFollow | openFlags.closeOnExec;
  const opened = bound.openat(fd, nativeString(path), flags) as number;
  if (opened === -1) throw new SystemCallError('openat', koffi.errno(), path);
  return opened;
}

/**
 * Writes the status of a path itself (a link is not followed) as a record of `statusWords` words.
 *
 * @param path latin1.
 * @returns false when it is not there.
 */
export function readStatus(path: string, target: Uint32Array, at: number): boolean {
  return statusAt(currentDirectory, nativeString(path), target, at);
}

function statusAt(fd: number, name: number, target: Uint32Array, at: number): boolean {
  if (bound.statx(fd, name, noFollowNoAutomount, basicStatusAndBirth, statusMemory.address) === -1) {
    const errno = koffi.errno();
    if (errno === koffi.os.errno.ENOENT) return false;
    throw new SystemCallError('statx', errno);
  }
  recordStatus(statusBuffer, target, at);
  return true;
}
