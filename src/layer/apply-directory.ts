import {
  type BigIntStats,
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  readSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { makeNode, OpenDirectory, setOwner, setTimes, setXattr, status, statusWords } from '../os/index.ts';
import { systemErrorCode } from '../support/index.ts';
import { childPath, makeWay, namesIn, removeTree } from './clear-tree.ts';
import { LayerProblems } from './layer-problems.ts';
import type { LayerSource } from './layer-source.ts';
import type { Territory } from './territory.ts';
import { entryFacts, type EntryFacts } from './entry-facts.ts';
import { imageXattrs } from './xattrs.ts';

const setGroupId = 0o2000;

/**
 * Applies an unpacked layer in overlayfs form to a tree: what it has is copied, what it marks as deleted is removed.
 * The tree then is what an overlay of the layer on it would show.
 *
 * A directory that the layer has only for what is in it leaves the tree's as it is.
 */
export function applyDirectory(territory: Territory, source: UnpackedLayer): LayerProblems {
  const applier = new DirectoryApplier(territory, source);
  applier.run();
  return applier.problems;
}

type UnpackedLayer = Extract<LayerSource, { kind: 'directory' }>;

class DirectoryApplier {
  readonly problems = new LayerProblems();
  readonly #territory: Territory;
  readonly #source: string;
  readonly #opaque: ReadonlySet<string>;
  readonly #implied: ReadonlySet<string>;
  /** Names in the tree of files with several names, by inode in the layer. */
  readonly #links = new Map<bigint, string>();
  readonly #record = new Uint32Array(statusWords);
  readonly #chunk = Buffer.allocUnsafeSlow(1 << 18);

  constructor(territory: Territory, { path, opaque, implied }: UnpackedLayer) {
    this.#territory = territory;
    this.#source = Buffer.from(path).toString('latin1');
    this.#opaque = new Set(opaque);
    this.#implied = new Set(implied);
  }

  run(): void {
    using root = OpenDirectory.open(this.#source);
    root.readStatus('.', this.#record, 0);
    this.#directory(root, '', entryFacts(this.#record, 0));
  }

  #content(directory: OpenDirectory, path: string): void {
    for (const name of directory.names()) {
      if (!directory.readStatus(name, this.#record, 0)) continue;
      this.#entry(directory, name, childPath(path, name));
    }
  }

  #entry(parent: OpenDirectory, name: string, path: string): void {
    const facts = entryFacts(this.#record, 0);
    const kind = facts.mode & constants.S_IFMT;
    if (kind === constants.S_IFCHR && facts.major === 0 && facts.minor === 0) {
      removeTree(this.#territory, path);
      return;
    }
    if (kind === constants.S_IFDIR) {
      using directory = parent.open(name);
      this.#directory(directory, path, facts);
      return;
    }
    const inode = status.links(this.#record, 0) > 1 ? status.inode(this.#record, 0) : undefined;
    const link = kind === constants.S_IFLNK ? readlinkSync(this.#from(path), 'buffer') : undefined;
    if (this.#exists(path)) makeWay(this.#territory, path, link);
    const first = inode === undefined ? undefined : this.#links.get(inode);
    if (first !== undefined) {
      linkSync(this.#territory.bytes(first), this.#territory.bytes(path));
      return;
    }
    if (this.#create(path, kind, facts, link) && inode !== undefined) this.#links.set(inode, path);
  }

  #directory(directory: OpenDirectory, path: string, facts: EntryFacts): void {
    const existing = this.#implied.has(path) ? this.#statDirectory(path) : undefined;
    this.#makeDirectory(path);
    this.#content(directory, path);
    if (existing === undefined) this.#directoryMetadata(path, facts);
    else {
      const place = this.#territory.bytes(path);
      chmodSync(place, Number(existing.mode) & 0o7777);
      setTimes(place, existing.mtimeNs, existing.mtimeNs);
    }
  }

  #statDirectory(path: string): BigIntStats | undefined {
    const stat = lstatSync(this.#territory.bytes(path), { bigint: true, throwIfNoEntry: false });
    return stat?.isDirectory() === true ? stat : undefined;
  }

  #from(path: string): Buffer {
    return Buffer.from(path === '' ? this.#source : `${this.#source}/${path}`, 'latin1');
  }

  #exists(path: string): boolean {
    return lstatSync(this.#territory.bytes(path), { throwIfNoEntry: false }) !== undefined;
  }

  #makeDirectory(path: string): void {
    const target = this.#territory.bytes(path);
    const existing = lstatSync(target, { throwIfNoEntry: false });
    if (existing?.isDirectory() !== true) {
      if (existing !== undefined) removeTree(this.#territory, path);
      mkdirSync(target, 0o755);
      return;
    }
    this.#territory.adopt(path);
    this.#hideIfOpaque(path);
    // What is made in it would take its group with the bit set (inode(7)); it is set again when all is made.
    if ((existing.mode & setGroupId) !== 0) chmodSync(target, 0o755);
  }

  /** An opaque directory shows nothing of the layers below. */
  #hideIfOpaque(path: string): void {
    if (!this.#opaque.has(path)) return;
    for (const name of namesIn(this.#territory, path)) removeTree(this.#territory, childPath(path, name));
  }

  #directoryMetadata(path: string, facts: EntryFacts): void {
    const target = this.#territory.bytes(path);
    setOwner(target, facts);
    chmodSync(target, facts.mode & 0o7777);
    this.#copyXattrs(path, target);
    setTimes(target, facts.modified, facts.modified);
  }

  /** @returns whether it could be made. */
  #create(path: string, kind: number, facts: EntryFacts, link: Buffer | undefined): boolean {
    const target = this.#territory.bytes(path);
    if (link !== undefined) {
      symlinkSync(link, target);
      if (!isRoots(facts)) setOwner(target, facts);
    } else if (kind === constants.S_IFREG) {
      this.#copyFile(this.#from(path), target, facts);
    } else {
      if (
        !this.problems.attempt('node', path, () => makeNode(target, kind | 0o600, facts.major, facts.minor))
      )
        return false;
      setOwner(target, facts);
      chmodSync(target, facts.mode & 0o7777);
    }
    this.#copyXattrs(path, target);
    setTimes(target, facts.modified, facts.modified);
    return true;
  }

  #copyFile(source: Buffer, target: Buffer, facts: EntryFacts): void {
    const from = openSync(source, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      const to = openSync(target, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
      try {
        for (let left = facts.size; left > 0;) {
          const length = readSync(from, this.#chunk);
          if (length === 0) break;
          for (let at = 0; at < length;) at += writeSync(to, this.#chunk, at, length - at);
          left -= length;
        }
        if (!isRoots(facts)) setOwner(target, facts);
        fchmodSync(to, facts.mode & 0o7777);
      } finally {
        closeSync(to);
      }
    } finally {
      closeSync(from);
    }
  }

  #copyXattrs(path: string, target: Buffer): void {
    for (const [name, value] of imageXattrs(this.#from(path)))
      this.problems.attempt('attribute', path, () => {
        try {
          setXattr(target, name, value);
        } catch (error) {
          if (systemErrorCode(error) !== 'EOPNOTSUPP') throw error;
        }
      });
  }
}

function isRoots({ uid, gid }: EntryFacts): boolean {
  return uid === 0 && gid === 0;
}
