import { constants } from 'node:fs';
import { OpenDirectory, readStatus, sameStatus, status, statusSize } from '../os/index.ts';
import { systemErrorCode } from '../support/index.ts';
import type { Territory } from './territory.ts';

const typeMask = constants.S_IFMT;

/**
 * The status of everything in a tree at one moment, packed: about 110 bytes for each file. Entries are in the order of a
 * layer: a directory, then what is in it, names sorted by bytes. Sockets, which no layer holds, are left out.
 */
export class TreeState {
  #count = 0;
  readonly #root = Buffer.alloc(statusSize);
  #records: Buffer;
  #names: Buffer;
  #nameEnds: Uint32Array<ArrayBuffer>;
  #ends: Uint32Array<ArrayBuffer>;
  #newestSeconds = 0;
  #newestNanoseconds = 0;

  private constructor(expected: number) {
    this.#records = Buffer.allocUnsafeSlow(expected * statusSize);
    this.#names = Buffer.allocUnsafeSlow(expected * 16);
    this.#nameEnds = new Uint32Array(expected);
    this.#ends = new Uint32Array(expected);
  }

  /**
   * Looks at everything in a tree. What vanishes meanwhile was never there.
   *
   * @param expected how many entries there were last time, so that memory need not grow.
   * @throws SystemCallError.
   */
  static read(territory: Territory, expected = 4096): TreeState {
    const state = new TreeState(Math.ceil(expected * 1.05) + 64);
    using root = OpenDirectory.open(territory.root === '' ? '/' : territory.root);
    root.readStatus('.', state.#root, 0);
    state.#directory(territory, root, '', true);
    return state;
  }

  /** Number of entries; the root is none. */
  get count(): number {
    return this.#count;
  }

  /** The latest time of change (ctime) of any entry, in nanoseconds since the epoch. */
  get newestChange(): bigint {
    return BigInt(this.#newestSeconds) * 1_000_000_000n + BigInt(this.#newestNanoseconds);
  }

  /** The index after an entry and all that is in it: its next sibling, or the end of its directory. */
  end(index: number): number {
    return this.#ends[index] ?? this.#count;
  }

  name(index: number): string {
    return this.#names.toString('latin1', index === 0 ? 0 : this.#nameEnds[index - 1], this.#nameEnds[index]);
  }

  /** `st_mode`: type and permissions. */
  mode(index: number): number {
    return status.mode(this.#records, index * statusSize);
  }

  isDirectory(index: number): boolean {
    return (this.mode(index) & typeMask) === constants.S_IFDIR;
  }

  links(index: number): number {
    return status.links(this.#records, index * statusSize);
  }

  inode(index: number): bigint {
    return status.inode(this.#records, index * statusSize);
  }

  born(index: number): bigint {
    return status.born(this.#records, index * statusSize);
  }

  changed(index: number): bigint {
    return status.changed(this.#records, index * statusSize);
  }

  /** The parts of a status that a layer keeps. */
  facts(index: number): EntryFacts {
    return factsOf(this.#records, index * statusSize);
  }

  /** The same of the root directory. */
  rootFacts(): EntryFacts {
    return factsOf(this.#root, 0);
  }

  /** Whether an entry agrees with one of another state in some of its fields. */
  agrees(
    index: number,
    other: TreeState,
    otherIndex: number,
    fields: Parameters<typeof sameStatus>[4],
  ): boolean {
    return sameStatus(this.#records, index * statusSize, other.#records, otherIndex * statusSize, fields);
  }

  /** @param guarded whether excluded paths may lie in this directory; only then its path is kept track of. */
  #directory(territory: Territory, directory: OpenDirectory, path: string, guarded: boolean): void {
    const names = directory.names();
    const excluded = guarded ? territory.excludedNames(path) : [];
    if (excluded.length > 0) return this.#mixed(territory, directory, path, names, excluded);
    for (const name of names) {
      const index = this.#reserve(name);
      if (directory.readStatus(name, this.#records, index * statusSize))
        this.#entry(territory, index, path, guarded, directory);
    }
  }

  /** A directory with excluded names in it: what the tree has of those is in the shadow. */
  #mixed(
    territory: Territory,
    directory: OpenDirectory,
    path: string,
    names: readonly string[],
    excluded: readonly string[],
  ): void {
    for (const name of [...new Set([...names, ...excluded])].sort()) {
      const index = this.#reserve(name);
      const at = index * statusSize;
      const shadow = excluded.includes(name)
        ? territory.locate(path === '' ? name : `${path}/${name}`)
        : undefined;
      if (shadow === undefined) {
        if (directory.readStatus(name, this.#records, at))
          this.#entry(territory, index, path, true, directory);
      } else if (readStatus(shadow, this.#records, at)) this.#entry(territory, index, path, false, shadow);
    }
  }

  /** @param place the directory that the entry lies in, or its own path when it lies in the shadow. */
  #entry(
    territory: Territory,
    index: number,
    parent: string,
    guarded: boolean,
    place: OpenDirectory | string,
  ): void {
    const type = this.mode(index) & typeMask;
    if (type === constants.S_IFSOCK) return;
    this.#count = index + 1;
    this.#noteChange(index * statusSize);
    if (type === constants.S_IFDIR) {
      const name = this.name(index);
      const path = guarded ? (parent === '' ? name : `${parent}/${name}`) : '';
      using directory = openUnlessGone(place, name);
      if (directory === undefined) this.#count = index;
      else this.#directory(territory, directory, path, guarded && territory.leadsToExclusion(path));
      if (guarded && this.#count === index + 1 && territory.isScaffold(path)) this.#count = index;
    }
    this.#ends[index] = this.#count;
  }

  #noteChange(at: number): void {
    // As numbers: a walk makes no objects.
    const [seconds, nanoseconds] = [
      this.#records.readUIntLE(at + 48, 6),
      this.#records.readUInt32LE(at + 56),
    ];
    if (seconds < this.#newestSeconds) return;
    this.#newestNanoseconds =
      seconds > this.#newestSeconds ? nanoseconds : Math.max(nanoseconds, this.#newestNanoseconds);
    this.#newestSeconds = seconds;
  }

  /** Makes room for one more entry with this name. It counts once its status is known. */
  #reserve(name: string): number {
    const index = this.#count;
    if (index >= this.#ends.length) {
      const capacity = Math.ceil(this.#ends.length * 1.5);
      this.#records = enlarged(this.#records, capacity * statusSize);
      this.#nameEnds = enlargedWords(this.#nameEnds, capacity);
      this.#ends = enlargedWords(this.#ends, capacity);
    }
    const start = index === 0 ? 0 : (this.#nameEnds[index - 1] ?? 0);
    if (start + name.length > this.#names.length)
      this.#names = enlarged(this.#names, Math.ceil((start + name.length) * 1.5));
    this.#nameEnds[index] = start + this.#names.write(name, start, 'latin1');
    return index;
  }
}

/** What a layer keeps of an entry's status. */
export interface EntryFacts {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  /** Nanoseconds since the epoch. */
  readonly modified: bigint;
  readonly major: number;
  readonly minor: number;
}

function factsOf(record: Buffer, at: number): EntryFacts {
  return {
    mode: status.mode(record, at),
    uid: status.uid(record, at),
    gid: status.gid(record, at),
    size: status.size(record, at),
    modified: status.modified(record, at),
    ...status.device(record, at),
  };
}

function openUnlessGone(place: OpenDirectory | string, name: string): OpenDirectory | undefined {
  try {
    return typeof place === 'string' ? OpenDirectory.open(place) : place.open(name);
  } catch (error) {
    const code = systemErrorCode(error);
    // It was a directory a moment ago.
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ELOOP') return undefined;
    throw error;
  }
}

function enlargedWords(words: Uint32Array<ArrayBuffer>, size: number): Uint32Array<ArrayBuffer> {
  const larger = new Uint32Array(size);
  larger.set(words);
  return larger;
}

function enlarged(buffer: Buffer, size: number): Buffer {
  const larger = Buffer.allocUnsafeSlow(size);
  buffer.copy(larger);
  return larger;
}
