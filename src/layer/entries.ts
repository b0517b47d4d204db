import { closeSync, constants, openSync, readlinkSync, readSync } from 'node:fs';
import { type BytePath, pathBuffer, pathText } from '../os/index.ts';
import { BuildError } from '../support/index.ts';
import type { TarEntry, TarEntryType } from './tar-reader.ts';
import type { EntryFacts } from './entry-facts.ts';
import { imageXattrs } from './xattrs.ts';

/** One entry of a layer about to be written, and where its content is. */
export interface Change {
  readonly entry: TarEntry;
  /** The file with the entry's content, for files that have some. */
  readonly content?: Buffer;
}

export type Xattrs = ReadonlyMap<string, Buffer>;

const noXattrs: Xattrs = new Map();
const nothing = Buffer.alloc(0);

/** Names of files that a layer marks as deleted begin so (OCI layer specification, "Whiteouts"). */
export const whiteoutPrefix = '.wh.';
/** A directory with this in it hides what the layers below have there. */
export const opaqueName = '.wh..wh..opq';

/** Makes the entries of one layer: the first name of a file with several is the file, the others link to it. */
export class EntryMaker {
  readonly #clamp: bigint | undefined;
  readonly #links = new Map<bigint, Buffer>();

  /** @param clampTime no modification time is later than this, in seconds since the epoch. */
  constructor(clampTime: number | undefined) {
    this.#clamp = clampTime === undefined ? undefined : BigInt(clampTime) * 1_000_000_000n;
  }

  /**
   * @param path its name in the layer.
   * @param inode its number when it may have other names, that is for a file with more than one link.
   * @throws BuildError `E_RESERVED_NAME` for a name that begins with `.wh.`, which no layer can hold.
   */
  make(path: BytePath, place: Buffer, facts: EntryFacts, inode: bigint | undefined): Change {
    checkName(path);
    const type = typeOf(facts.mode);
    const name = pathBuffer(type === 'directory' ? `${path}/` : path);
    const first = inode === undefined ? undefined : this.#links.get(inode);
    if (inode !== undefined && first === undefined) this.#links.set(inode, name);
    const entry: TarEntry = {
      path: name,
      link: first ?? (type === 'symlink' ? readlinkSync(place, 'buffer') : nothing),
      type: first === undefined ? type : 'hardlink',
      mode: facts.mode & 0o7777,
      uid: facts.uid,
      gid: facts.gid,
      size: type === 'file' && first === undefined ? facts.size : 0,
      modified: this.#clamp !== undefined && facts.modified > this.#clamp ? this.#clamp : facts.modified,
      major: type === 'character' || type === 'block' ? facts.major : 0,
      minor: type === 'character' || type === 'block' ? facts.minor : 0,
      xattrs: first === undefined ? imageXattrs(place) : noXattrs,
    };
    return entry.size > 0 ? { entry, content: place } : { entry };
  }

  /** The entry of the root directory itself. */
  makeRoot(place: Buffer, facts: EntryFacts): Change {
    const { entry } = this.make('', place, facts, undefined);
    return { entry: { ...entry, path: Buffer.from('./') } };
  }
}

function checkName(path: BytePath): void {
  if (!path.startsWith(whiteoutPrefix, path.lastIndexOf('/') + 1)) return;
  throw new BuildError(
    `the file /${pathText(path)} cannot be in an image: names beginning with .wh. mark deleted files`,
    { code: 'E_RESERVED_NAME', remedy: 'Remove or rename it in the step that makes it.' },
  );
}

export function typeOf(mode: number): TarEntryType {
  switch (mode & constants.S_IFMT) {
    case constants.S_IFREG:
      return 'file';
    case constants.S_IFDIR:
      return 'directory';
    case constants.S_IFLNK:
      return 'symlink';
    case constants.S_IFIFO:
      return 'fifo';
    case constants.S_IFBLK:
      return 'block';
    default:
      return 'character';
  }
}

/** The entry that hides a name of the layers below, or with {@link opaqueName} all of them in a directory. */
export function whiteout(parent: BytePath, name: BytePath): Change {
  const entry: TarEntry = {
    path: pathBuffer(parent === '' ? name : `${parent}/${name}`),
    link: nothing,
    type: 'file',
    mode: 0,
    uid: 0,
    gid: 0,
    size: 0,
    modified: 0n,
    major: 0,
    minor: 0,
    xattrs: noXattrs,
  };
  return { entry };
}

export function sameXattrs(a: Xattrs, b: Xattrs): boolean {
  return a.size === b.size && [...a].every(([name, value]) => b.get(name)?.equals(value) === true);
}

/** Whether two files have the same bytes. */
export function sameContent(a: Buffer, b: Buffer): boolean {
  const left = openSync(a, 'r');
  try {
    const right = openSync(b, 'r');
    try {
      const leftChunk = Buffer.alloc(1 << 16);
      const rightChunk = Buffer.alloc(1 << 16);
      for (;;) {
        const length = readSync(left, leftChunk);
        if (readSync(right, rightChunk) !== length) return false;
        if (length === 0) return true;
        if (!leftChunk.subarray(0, length).equals(rightChunk.subarray(0, length))) return false;
      }
    } finally {
      closeSync(right);
    }
  } finally {
    closeSync(left);
  }
}
