import {
  type BigIntStats,
  closeSync,
  constants,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
} from 'node:fs';
import {
  type BytePath,
  deviceNumbers,
  getXattr,
  ownerOf,
  pathBuffer,
  pathText,
  toBytePath,
} from '../os/index.ts';
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
  readonly clampTime?: number | undefined;
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
  const lowers = request.lowers.map(toBytePath);
  yield* walk.rootChange(lowers[0]);
  yield* walk.directory('', lowers).children;
}

class DiffWalk {
  readonly #upper: string;
  readonly #mountPoints: ReadonlySet<string>;
  readonly #clamp: bigint | undefined;
  readonly #opaque: string;
  readonly #links = new Map<bigint, Buffer>();

  constructor(request: DiffRequest) {
    this.#upper = toBytePath(request.upper);
    this.#mountPoints = new Set(
      (request.mountPoints ?? []).map((path) => toBytePath(path.replace(/^\/+/, ''))),
    );
    this.#clamp = request.clampTime === undefined ? undefined : BigInt(request.clampTime) * 1_000_000_000n;
    this.#opaque = opaqueAttribute(ownOverlayMark());
  }

  /** The root directory has an entry only when its mode or owner changed: its time does with everything in it. */
  rootChange(lower: BytePath | undefined): Change[] {
    const stat = lstatSync(this.#bytes(''), { bigint: true });
    const entry = { ...this.#entry('', stat), path: Buffer.from('./') };
    const before = lower === undefined ? undefined : lstatSync(pathBuffer(lower), { bigint: true });
    const mode = before?.mode ?? BigInt(constants.S_IFDIR | 0o755);
    const owner =
      lower === undefined || before === undefined ? { uid: 0, gid: 0 } : ownerOf(pathBuffer(lower), before);
    return stat.mode === mode && entry.uid === owner.uid && entry.gid === owner.gid ? [] : [{ entry }];
  }

  /** @param lowers the directories of this path in the layers below, nearest first; empty when it is new. */
  directory(path: string, lowers: readonly string[]): { children: Change[]; opaque: boolean } {
    const opaque = path !== '' && getXattr(this.#bytes(path), this.#opaque)?.toString() === 'y';
    const below = opaque ? [] : lowers;
    const children: Change[] = [];
    if (opaque && lowers.length > 0) children.push({ entry: whiteout(path, '.wh..wh..opq') });
    const names = readdirSync(this.#bytes(path), { encoding: 'buffer' }).map(toBytePath).sort();
    for (const name of names) children.push(...this.#child(path, name, below));
    return { children, opaque };
  }

  #bytes(path: string): Buffer {
    return pathBuffer(path === '' ? this.#upper : `${this.#upper}/${path}`);
  }

  #child(parent: string, name: string, lowers: readonly string[]): Change[] {
    const path = parent === '' ? name : `${parent}/${name}`;
    const stat = lstatSync(this.#bytes(path), { bigint: true });
    const lower = lookBelow(lowers, name, this.#opaque);
    // A deleted file, or a socket, which cannot be in a layer: what stood in its place is gone in both cases.
    if ((stat.isCharacterDevice() && stat.rdev === 0n) || stat.isSocket())
      return lower.nearest === undefined ? [] : [{ entry: whiteout(parent, `.wh.${name}`) }];
    if (name.startsWith('.wh.'))
      throw new BuildError(
        `the file /${pathText(path)} cannot be in an image: names beginning with .wh. mark deleted files`,
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
      sameMetadata(stat, entry, pathBuffer(below));
    return same && children.length === 0 ? [] : [{ entry }, ...children];
  }

  #entry(path: string, stat: BigIntStats): TarEntry {
    const bytes = this.#bytes(path);
    const type = typeOf(stat);
    const name = pathBuffer(type === 'directory' ? `${path}/` : path);
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

  #unchanged(path: string, stat: BigIntStats, entry: TarEntry, lowerPath: string): boolean {
    const lowerBytes = pathBuffer(lowerPath);
    const lower = lstatSync(lowerBytes, { bigint: true });
    if (entry.type === 'hardlink' || stat.nlink > 1n || lower.nlink > 1n) return false;
    if (stat.size !== lower.size || stat.rdev !== lower.rdev) return false;
    if (!sameMetadata(stat, entry, lowerBytes)) return false;
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
    const stat = lstatSync(pathBuffer(path), { throwIfNoEntry: false });
    if (stat === undefined) continue;
    if (stat.isCharacterDevice() && stat.rdev === 0) break;
    if (!stat.isDirectory()) {
      nearest ??= path;
      break;
    }
    nearest ??= path;
    directories.push(path);
    if (getXattr(pathBuffer(path), opaque)?.toString() === 'y') break;
  }
  return { nearest, directories };
}

function whiteout(parent: string, name: string): TarEntry {
  return {
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
}

function typeOf(stat: BigIntStats): TarEntryType {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'directory';
  if (stat.isSymbolicLink()) return 'symlink';
  if (stat.isFIFO()) return 'fifo';
  return stat.isBlockDevice() ? 'block' : 'character';
}

/** Whether mode, owner, time and attributes are those of a path below. */
function sameMetadata(stat: BigIntStats, entry: TarEntry, below: Buffer): boolean {
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
