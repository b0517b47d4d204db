import { type BigIntStats, constants, lstatSync, readdirSync, readlinkSync } from 'node:fs';
import { type BytePath, deviceNumbers, getXattr, ownerOf, pathBuffer, toBytePath } from '../os/index.ts';
import {
  type Change,
  EntryMaker,
  opaqueName,
  sameContent,
  sameXattrs,
  whiteout,
  whiteoutPrefix,
} from './entries.ts';
import type { TarEntry } from './tar-reader.ts';
import type { EntryFacts } from './entry-facts.ts';
import { imageXattrs, opaqueAttribute, ownOverlayMark } from './xattrs.ts';

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
  readonly #entries: EntryMaker;

  constructor(request: DiffRequest) {
    this.#upper = toBytePath(request.upper);
    this.#mountPoints = new Set(
      (request.mountPoints ?? []).map((path) => toBytePath(path.replace(/^\/+/, ''))),
    );
    this.#entries = new EntryMaker(request.clampTime);
  }

  /** The root directory has an entry only when its mode or owner changed: its time does with everything in it. */
  rootChange(lower: BytePath | undefined): Change[] {
    const stat = lstatSync(this.#bytes(''), { bigint: true });
    const facts = factsOf(this.#bytes(''), stat);
    const before =
      lower === undefined
        ? { mode: constants.S_IFDIR | 0o755, uid: 0, gid: 0 }
        : factsOf(pathBuffer(lower), lstatSync(pathBuffer(lower), { bigint: true }));
    if (facts.mode === before.mode && facts.uid === before.uid && facts.gid === before.gid) return [];
    return [this.#entries.makeRoot(this.#bytes(''), facts)];
  }

  /** @param lowers the directories of this path in the layers below, nearest first; empty when it is new. */
  directory(path: string, lowers: readonly string[]): { children: Change[]; opaque: boolean } {
    const opaque = path !== '' && isOpaque(`${this.#upper}/${path}`);
    const below = opaque ? [] : lowers;
    const children: Change[] = [];
    if (opaque && lowers.length > 0) children.push(whiteout(path, opaqueName));
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
    const lower = lookBelow(lowers, name);
    // A socket is in no layer, but it hides what was there.
    if (stat.isSocket() || (stat.isCharacterDevice() && stat.rdev === 0n))
      return lower.nearest === undefined ? [] : [whiteout(parent, `${whiteoutPrefix}${name}`)];
    if (stat.isDirectory()) return this.#directoryChanges(path, stat, lower);
    if (this.#mountPoints.has(path) && stat.size === 0n) return [];
    const change = this.#change(path, stat);
    const same = lower.nearest !== undefined && this.#unchanged(path, stat, change, lower.nearest);
    return same ? [] : [change];
  }

  #directoryChanges(path: string, stat: BigIntStats, lower: Below): Change[] {
    const { children, opaque } = this.directory(path, lower.directories);
    if (this.#mountPoints.has(path) && children.length === 0) return [];
    const change = this.#change(path, stat);
    const below = lower.directories[0];
    const same =
      !opaque &&
      below !== undefined &&
      lower.nearest === below &&
      sameMetadata(stat, change.entry, pathBuffer(below));
    return same && children.length === 0 ? [] : [change, ...children];
  }

  #change(path: string, stat: BigIntStats): Change {
    const several = !stat.isDirectory() && stat.nlink > 1n;
    const place = this.#bytes(path);
    return this.#entries.make(path, place, factsOf(place, stat), several ? stat.ino : undefined);
  }

  #unchanged(path: string, stat: BigIntStats, { entry }: Change, lowerPath: string): boolean {
    const lowerBytes = pathBuffer(lowerPath);
    const lower = lstatSync(lowerBytes, { bigint: true });
    if (entry.type === 'hardlink' || stat.nlink > 1n || lower.nlink > 1n) return false;
    if (stat.size !== lower.size || stat.rdev !== lower.rdev) return false;
    if (!sameMetadata(stat, entry, lowerBytes)) return false;
    if (entry.type === 'symlink') return entry.link.equals(readlinkSync(lowerBytes, 'buffer'));
    return entry.type !== 'file' || sameContent(this.#bytes(path), lowerBytes);
  }
}

function factsOf(place: Buffer, stat: BigIntStats): EntryFacts {
  return {
    mode: Number(stat.mode),
    ...ownerOf(place, stat),
    size: Number(stat.size),
    modified: stat.mtimeNs,
    ...deviceNumbers(stat.rdev),
  };
}

export interface Below {
  /** What the layers below show under the name, or undefined. */
  readonly nearest: string | undefined;
  /** Its directories, merged from nearest to farthest; empty when it is no directory. */
  readonly directories: readonly string[];
}

/** Whether a directory hides what the layers below have in it, for overlays that this process mounts. */
export function isOpaque(directory: BytePath): boolean {
  return getXattr(pathBuffer(directory), opaqueAttribute(ownOverlayMark()))?.toString() === 'y';
}

/**
 * Looks a name up in the directories of one path, nearest first.
 *
 * @param hides whether one of the directories found is the last.
 */
export function lookBelow(
  lowers: readonly BytePath[],
  name: string,
  hides: (directory: BytePath) => boolean = isOpaque,
): Below {
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
    if (hides(path)) break;
  }
  return { nearest, directories };
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
