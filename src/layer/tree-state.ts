import { constants } from 'node:fs';
import { OpenDirectory, readStatus, status, statusWords } from '../os/index.ts';
import { systemErrorCode } from '../support/index.ts';
import { entryFacts, type EntryFacts } from './entry-facts.ts';
import { EntryTable } from './entry-table.ts';
import type { Territory } from './territory.ts';

const typeMask = constants.S_IFMT;

export interface ReadTreeOptions {
  /** How the same tree was before. What it knows need not be found out again; it stays as it is. */
  readonly previous?: TreeState | undefined;
  /** A state that nobody needs any more. Its memory is used again. */
  readonly spare?: TreeState | undefined;
}

/**
 * The status of everything in a tree at one moment, packed: about 70 bytes for each file. Entries are in the order of a
 * layer: a directory, then what is in it, names sorted by bytes. Sockets, which no layer holds, are left out.
 */
export class TreeState {
  /** Everything in it. */
  readonly entries: EntryTable;
  readonly #root = new Uint32Array(statusWords);
  /** Under which names excluded paths were found; another territory, or the same after moves, gives other entries. */
  readonly #exclusions: string;
  #newest = 0n;

  private constructor(spare: TreeState | undefined, exclusions: string) {
    this.entries = new EntryTable(spare?.entries);
    this.#exclusions = exclusions;
  }

  /**
   * Looks at everything in a tree. What vanishes meanwhile was never there.
   *
   * @throws SystemCallError.
   */
  static read(territory: Territory, options: ReadTreeOptions = {}): TreeState {
    const { previous, spare } = options;
    const exclusions = [territory.root, ...territory.exclusions].join('\0');
    const state = new TreeState(spare, exclusions);
    using root = OpenDirectory.open(territory.root === '' ? '/' : territory.root);
    root.readStatus('.', state.#root, 0);
    const isKnown = previous !== undefined && previous.#exclusions === exclusions;
    const reader = new TreeReader(territory, state.entries, isKnown ? previous.entries : undefined);
    reader.readRoot(root);
    state.#newest = reader.newestChange;
    return state;
  }

  /** Number of entries; the root is none. */
  get count(): number {
    return this.entries.count;
  }

  /** The latest time of change (ctime) of any entry, in nanoseconds since the epoch. */
  get newestChange(): bigint {
    return this.#newest;
  }

  /** The parts of the root directory's status that a layer keeps. */
  rootFacts(): EntryFacts {
    return entryFacts(this.#root, 0);
  }
}

/** Reads a tree into a table of entries. */
class TreeReader {
  readonly #territory: Territory;
  readonly #entries: EntryTable;
  readonly #known: EntryTable | undefined;
  #newestSeconds = 0;
  #newestNanoseconds = 0;

  constructor(territory: Territory, entries: EntryTable, known: EntryTable | undefined) {
    this.#territory = territory;
    this.#entries = entries;
    this.#known = known;
  }

  get newestChange(): bigint {
    return BigInt(this.#newestSeconds) * 1_000_000_000n + BigInt(this.#newestNanoseconds);
  }

  readRoot(root: OpenDirectory): void {
    this.#byNames(root, '', true, 0, this.#known?.count ?? 0);
  }

  /**
   * What is in a directory.
   *
   * @param index the directory's own entry.
   * @param known its entry in the earlier table, or a negative number.
   */
  #inside(directory: OpenDirectory, index: number, known: number): void {
    const { end, isSame } = this.#compareKnown(index, known);
    if (isSame) this.#bySameNames(directory, known + 1, end);
    else this.#byNames(directory, '', false, known + 1, end);
  }

  #compareKnown(index: number, known: number): { end: number; isSame: boolean } {
    if (known < 0 || this.#known === undefined) return { end: 0, isSame: false };
    return { end: this.#known.end(known), isSame: this.#entries.agrees(index, this.#known, known, 'all') };
  }

  /**
   * The directory itself has not changed, so it has the names that it had: whoever makes, removes or renames something in
   * it moves its change time. What the names lead to may have changed.
   */
  #bySameNames(directory: OpenDirectory, from: number, to: number): void {
    const [entries, known] = [this.#entries, this.#known];
    if (known === undefined) return;
    for (let old = from; old < to; old = known.end(old)) {
      const index = entries.reserveSame(known, old);
      const [records, at] = [entries.records(index), entries.at(index)];
      if (directory.readStatusOf(entries.nameAddress(index), records, at))
        this.#entry(index, '', false, directory, old);
    }
  }

  /** @param guarded whether excluded paths may lie in this directory; only then its path is kept track of. */
  #byNames(directory: OpenDirectory, path: string, guarded: boolean, from: number, to: number): void {
    const names = directory.names();
    const excluded = guarded ? this.#territory.excludedNames(path) : [];
    const all = excluded.length === 0 ? names : [...new Set([...names, ...excluded])].sort();
    let old = from;
    for (const name of all) {
      const index = this.#entries.reserve(name);
      old = this.#firstKnown(index, old, to);
      const known = this.#isKnown(index, old, to) ? old : -1;
      const [records, at] = [this.#entries.records(index), this.#entries.at(index)];
      // What the tree has of excluded names is in the shadow.
      const shadow = excluded.includes(name)
        ? this.#territory.locate(path === '' ? name : `${path}/${name}`)
        : undefined;
      if (shadow === undefined) {
        if (directory.readStatus(name, records, at)) this.#entry(index, path, guarded, directory, known);
      } else if (readStatus(shadow, records, at)) this.#entry(index, path, false, shadow, known);
    }
  }

  /** The first entry of the earlier table that does not come before one of this table. */
  #firstKnown(index: number, from: number, to: number): number {
    const known = this.#known;
    if (known === undefined) return to;
    let old = from;
    while (old < to && known.compareName(old, this.#entries, index) < 0) old = known.end(old);
    return old;
  }

  #isKnown(index: number, old: number, to: number): boolean {
    return old < to && this.#known?.compareName(old, this.#entries, index) === 0;
  }

  /**
   * An entry whose status is known now.
   *
   * @param place the directory that the entry lies in, or its own path when it lies in the shadow.
   * @param known its entry in the earlier table, or a negative number.
   */
  #entry(
    index: number,
    parent: string,
    guarded: boolean,
    place: OpenDirectory | string,
    known: number,
  ): void {
    const entries = this.#entries;
    const type = entries.mode(index) & typeMask;
    if (type === constants.S_IFSOCK) return;
    entries.count = index + 1;
    this.#noteChange(entries.records(index), entries.at(index));
    if (type === constants.S_IFDIR) {
      const name = entries.name(index);
      const path = guarded ? (parent === '' ? name : `${parent}/${name}`) : '';
      using directory = openUnlessGone(place, name);
      if (directory === undefined) entries.count = index;
      else if (guarded && this.#territory.leadsToExclusion(path))
        this.#byNames(directory, path, true, known + 1, known < 0 ? 0 : (this.#known?.end(known) ?? 0));
      else this.#inside(directory, index, known);
      if (guarded && entries.count === index + 1 && this.#territory.isScaffold(path)) entries.count = index;
    }
    entries.setEnd(index, entries.count);
  }

  #noteChange(record: Uint32Array, at: number): void {
    // As numbers: a walk makes no objects.
    const seconds = status.changedSeconds(record, at);
    if (seconds < this.#newestSeconds) return;
    const nanoseconds = status.changedNanoseconds(record, at);
    this.#newestNanoseconds =
      seconds > this.#newestSeconds ? nanoseconds : Math.max(nanoseconds, this.#newestNanoseconds);
    this.#newestSeconds = seconds;
  }
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
