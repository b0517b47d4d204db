import {
  type BigIntStats,
  closeSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
} from 'node:fs';
import { deviceNumbers, getXattr, ownerOf } from '../os/index.ts';
import { BuildError } from '../support/index.ts';
import type { TarEntry, TarEntryType } from './tar-reader.ts';
import { imageXattrs, opaqueAttribute, ownOverlayMark } from './xattrs.ts';

/** One entry of a layer about to be written, and where its content is. */
export interface Change {
  readonly entry: TarEntry;
  /** The file with the entry's content, for files that have some. */
  readonly content?: Buffer;
}

export interface DiffRequest {
  /** An overlayfs upper directory that nothing writes to any more. */
  readonly upper: string;
  /** The directories below it, nearest first. */
  readonly lowers: readonly string[];
  /** Absolute paths made only to mount something on them: left out while they are empty. */
  readonly mountPoints?: readonly string[];
  /** No modification time in the layer is later than this, in seconds since the epoch. */
  readonly clampTime?: number;
}

const noXattrs: ReadonlyMap<string, Buffer> = new Map();
const nothing = Buffer.alloc(0);

/**
 * The changes that an overlayfs upper directory holds, in the order of a layer: names sorted by bytes, a directory before
 * what is in it. What overlayfs only copied up is left out: files equal to their lower in metadata and content, and
 * directories in which nothing changed. Every other entry's parents are included, as containerd's and Docker's layers do,
 * so that the layer unpacks with the right modes on its own.
 *
 * @throws BuildError `E_RESERVED_NAME` for a file whose name begins with `.wh.`, which no layer can hold.
 */
export function* overlayChanges(request: DiffRequest): Generator<Change> {
  const walk = new DiffWalk(request);
  const root = walk.directory('', request.lowers.map(latin1));
  // The root itself has no entry unless it changed, which only a chmod or chown of `/` can do.
  yield* root.children;
}

function latin1(path: string): string {
  return Buffer.from(path).toString('latin1');
}

class DiffWalk {
  readonly #upper: string;
  readonly #mountPoints: ReadonlySet<string>;
  readonly #clamp: bigint | undefined;
  readonly #opaque: string;
  readonly #links = new Map<bigint, Buffer>();

  constructor(request: DiffRequest) {
    this.#upper = latin1(request.upper);
    this.#mountPoints = new Set((request.mountPoints ?? []).map((path) => latin1(path.replace(/^\/+/, ''))));
    this.#clamp = request.clampTime === undefined ? undefined : BigInt(request.clampTime) * 1_000_000_000n;
    this.#opaque = opaqueAttribute(ownOverlayMark());
  }

  /** @param lowers the directories of this path in the layers below, nearest first; empty when it is new. */
  directory(path: string, lowers: readonly string[]): { children: Change[]; opaque: boolean } {
    const opaque = path !== '' && getXattr(this.#bytes(path), this.#opaque)?.toString() === 'y';
    const below = opaque ? [] : lowers;
    const children: Change[] = [];
    if (opaque && lowers.length > 0) children.push({ entry: whiteout(path, '.wh..wh..opq') });
    const names = readdirSync(this.#bytes(path), { encoding: 'buffer' })
      .map((name) => name.toString('latin1'))
      .sort();
    for (const name of names) children.push(...this.#child(path, name, below));
    return { children, opaque };
  }

  #bytes(path: string): Buffer {
    return Buffer.from(path === '' ? this.#upper : `${this.#upper}/${path}`, 'latin1');
  }

  #child(parent: string, name: string, lowers: readonly string[]): Change[] {
    const path = parent === '' ? name : `${parent}/${name}`;
    const stat = lstatSync(this.#bytes(path), { bigint: true });
    const lower = lookBelow(lowers, name, this.#opaque);
    if (stat.isCharacterDevice() && stat.rdev === 0n)
      return lower.nearest === undefined ? [] : [{ entry: whiteout(parent, `.wh.${name}`) }];
    if (stat.isSocket()) return [];
    if (name.startsWith('.wh.'))
      throw new BuildError(
        `the file /${Buffer.from(path, 'latin1').toString()} cannot be in an image: names beginning with .wh. mark deleted files`,
        {
          code: 'E_RESERVED_NAME',
          remedy: 'Remove or rename it in the step that makes it.',
        },
      );
    if (stat.isDirectory()) return this.#directoryChanges(path, stat, lower);
    if (this.#mountPoints.has(path) && stat.size === 0n) return [];
    const entry = this.#entry(path, stat);
    if (lower.nearest !== undefined && this.#unchanged(path, stat, entry, lower.nearest)) return [];
    return [
      stat.isFile() && entry.type === 'file' && entry.size > 0
        ? { entry, content: this.#bytes(path) }
        : { entry },
    ];
  }

  #directoryChanges(path: string, stat: BigIntStats, lower: Below): Change[] {
    const { children, opaque } = this.directory(path, lower.directories);
    if (this.#mountPoints.has(path) && children.length === 0) return [];
    const entry = this.#entry(path, stat);
    const below = lower.directories[0];
    const same =
      !opaque &&
      below !== undefined &&
      lower.nearest === below &&
      this.#sameMetadata(stat, entry, Buffer.from(below, 'latin1'));
    return same && children.length === 0 ? [] : [{ entry }, ...children];
  }

  #entry(path: string, stat: BigIntStats): TarEntry {
    const bytes = this.#bytes(path);
    const type = typeOf(stat);
    const name = Buffer.from(type === 'directory' ? `${path}/` : path, 'latin1');
    const { major, minor } =
      type === 'character' || type === 'block' ? deviceNumbers(stat.rdev) : { major: 0, minor: 0 };
    const first = type !== 'directory' && stat.nlink > 1n ? this.#links.get(stat.ino) : undefined;
    if (type !== 'directory' && stat.nlink > 1n && first === undefined) this.#links.set(stat.ino, name);
    return {
      path: name,
      link: first ?? (type === 'symlink' ? readlinkSync(bytes, 'buffer') : nothing),
      type: first === undefined ? type : 'hardlink',
      mode: Number(stat.mode) & 0o7777,
      ...ownerOf(bytes, stat),
      size: type === 'file' && first === undefined ? Number(stat.size) : 0,
      modified: this.#clamp !== undefined && stat.mtimeNs > this.#clamp ? this.#clamp : stat.mtimeNs,
      major,
      minor,
      xattrs: first === undefined ? imageXattrs(bytes) : noXattrs,
    };
  }

  /** Whether mode, owner, time and attributes are those of a path below. */
  #sameMetadata(stat: BigIntStats, entry: TarEntry, below: Buffer): boolean {
    const lower = lstatSync(below, { bigint: true });
    const owner = ownerOf(below, lower);
    return (
      stat.mode === lower.mode &&
      stat.mtimeNs === lower.mtimeNs &&
      entry.uid === owner.uid &&
      entry.gid === owner.gid &&
      sameXattrs(entry.xattrs, imageXattrs(below))
    );
  }

  #unchanged(path: string, stat: BigIntStats, entry: TarEntry, lowerPath: string): boolean {
    const lowerBytes = Buffer.from(lowerPath, 'latin1');
    const lower = lstatSync(lowerBytes, { bigint: true });
    if (entry.type === 'hardlink' || stat.nlink > 1n || lower.nlink > 1n) return false;
    if (stat.size !== lower.size || stat.rdev !== lower.rdev) return false;
    if (!this.#sameMetadata(stat, entry, lowerBytes)) return false;
    if (entry.type === 'symlink') return entry.link.equals(readlinkSync(lowerBytes, 'buffer'));
    return entry.type !== 'file' || sameContent(this.#bytes(path), lowerBytes);
  }
}

interface Below {
  /** What the layers below show under the name, or undefined. */
  readonly nearest: string | undefined;
  /** Its directories, merged from nearest to farthest; empty when it is no directory. */
  readonly directories: readonly string[];
}

function lookBelow(lowers: readonly string[], name: string, opaque: string): Below {
  const directories: string[] = [];
  let nearest: string | undefined;
  for (const lower of lowers) {
    const path = `${lower}/${name}`;
    const stat = lstatSync(Buffer.from(path, 'latin1'), { throwIfNoEntry: false });
    if (stat === undefined) continue;
    if (stat.isCharacterDevice() && stat.rdev === 0) break;
    if (!stat.isDirectory()) {
      nearest ??= path;
      break;
    }
    nearest ??= path;
    directories.push(path);
    if (getXattr(Buffer.from(path, 'latin1'), opaque)?.toString() === 'y') break;
  }
  return { nearest, directories };
}

function whiteout(parent: string, name: string): TarEntry {
  return {
    path: Buffer.from(parent === '' ? name : `${parent}/${name}`, 'latin1'),
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
}

function typeOf(stat: BigIntStats): TarEntryType {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'directory';
  if (stat.isSymbolicLink()) return 'symlink';
  if (stat.isFIFO()) return 'fifo';
  return stat.isBlockDevice() ? 'block' : 'character';
}

function sameXattrs(a: ReadonlyMap<string, Buffer>, b: ReadonlyMap<string, Buffer>): boolean {
  return a.size === b.size && [...a].every(([name, value]) => b.get(name)?.equals(value) === true);
}

function sameContent(a: Buffer, b: Buffer): boolean {
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
