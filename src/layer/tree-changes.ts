import { constants } from 'node:fs';
import { type Change, EntryMaker, opaqueName, whiteout, whiteoutPrefix } from './entries.ts';
import type { StatusFields } from '../os/index.ts';
import type { EntryFacts } from './entry-facts.ts';
import type { EntryTable } from './entry-table.ts';
import type { Territory } from './territory.ts';
import type { TreeState } from './tree-state.ts';

/** What was found of an entry; a directory without marks has nothing changed below it. */
const marks = {
  /** Its status changed in a way that a layer shows, or it is new. */
  changed: 1,
  /** Its change time moved, but nothing else that a status shows: only its content and attributes can tell. */
  uncertain: 2,
  /** Something below it changed, or was removed. */
  inside: 4,
  /** A new directory in the place of another: what the layers below have in it is hidden. */
  opaque: 8,
} as const;

/** The root is no entry of a state. */
const rootIndex = -1;

/** An entry of which only content and attributes can tell whether it changed. */
export interface UncertainEntry {
  readonly index: number;
  /** In the tree (latin1). */
  readonly path: string;
}

/**
 * What changed between two states of a tree.
 *
 * Whatever writes to a file, its attributes or its names moves its change time, which nobody can set back; so an entry
 * whose whole status is as before is unchanged. An entry whose status differs where a layer shows it is changed. In between
 * are those that were touched and look the same: {@link uncertain} lists them, {@link clear} takes those off that turn
 * out to be what they were.
 */
export class TreeChanges {
  readonly #previous: EntryTable;
  readonly #next: EntryTable;
  readonly #roots: { readonly before: EntryFacts; readonly now: EntryFacts };
  readonly #marks: Uint8Array;
  /** Names that are gone, by the index of their directory. */
  readonly #removed = new Map<number, string[]>();

  constructor(previous: TreeState, next: TreeState) {
    this.#previous = previous.entries;
    this.#next = next.entries;
    this.#roots = { before: previous.rootFacts(), now: next.rootFacts() };
    this.#marks = new Uint8Array(next.count);
    this.#compare(0, previous.count, 0, next.count, rootIndex);
    this.#settleLinks();
  }

  #compare(from: number, to: number, nextFrom: number, nextTo: number, parent: number): boolean {
    const [previous, next] = [this.#previous, this.#next];
    let changed = false;
    let old = from;
    let index = nextFrom;
    while (old < to || index < nextTo) {
      const order = this.#order(old, to, index, nextTo);
      if (order < 0) {
        this.#remove(parent, previous.name(old));
        changed = true;
        old = previous.end(old);
      } else if (order > 0) {
        this.#markAll(index);
        changed = true;
        index = next.end(index);
      } else {
        if (this.#compareEntry(old, index)) changed = true;
        old = previous.end(old);
        index = next.end(index);
      }
    }
    if (changed && parent !== rootIndex) this.#mark(parent, marks.inside);
    return changed;
  }

  /** Which of two entries comes first; one behind the last comes after all others. */
  #order(old: number, to: number, index: number, nextTo: number): number {
    if (old >= to) return 1;
    return index >= nextTo ? -1 : this.#previous.compareName(old, this.#next, index);
  }

  /** @returns whether anything is marked. */
  #compareEntry(old: number, index: number): boolean {
    const [previous, next] = [this.#previous, this.#next];
    const kind = previous.mode(old) & constants.S_IFMT;
    if (kind !== (next.mode(index) & constants.S_IFMT)) {
      this.#markAll(index);
      return true;
    }
    const untouched = next.agrees(index, previous, old, 'all');
    if (kind === constants.S_IFDIR) {
      if (!untouched && this.#isReplaced(old, index)) {
        this.#markAll(index);
        this.#mark(index, marks.opaque);
        return true;
      }
      const inside = this.#compare(old + 1, previous.end(old), index + 1, next.end(index), index);
      return this.#markTouched(old, index, untouched) || inside;
    }
    return this.#markTouched(old, index, untouched);
  }

  #markTouched(old: number, index: number, untouched: boolean): boolean {
    if (untouched) return false;
    this.#mark(index, this.#looksChanged(old, index) ? marks.changed : marks.uncertain);
    return true;
  }

  #looksChanged(old: number, index: number): boolean {
    const [previous, next] = [this.#previous, this.#next];
    const same = (fields: StatusFields): boolean => next.agrees(index, previous, old, fields);
    if (!same('owner and mode') || !same('modified')) return true;
    if (next.isDirectory(index)) return false;
    if (!same('extent')) return true;
    const [oldLinks, links] = [previous.links(old), next.links(index)];
    // A new name of the file, or another file among several names.
    return links > oldLinks || ((links > 1 || oldLinks > 1) && !same('inode'));
  }

  /**
   * A new directory under an old name: born later, or where the file system does not tell, another inode. (Inode numbers
   * are used again, and some overlay file systems give a directory another one when they forget it and look again.)
   */
  #isReplaced(old: number, index: number): boolean {
    const [previous, next] = [this.#previous, this.#next];
    if (next.agrees(index, previous, old, 'changed')) return false;
    return !next.agrees(index, previous, old, next.hasBirth(index) ? 'extent' : 'inode');
  }

  /** Names of one file go into a layer together: a link to a file that is not in the layer would lead nowhere. */
  #settleLinks(): void {
    const changed = new Set<bigint>();
    const uncertain: number[] = [];
    for (const [index, mark] of this.#marks.entries()) {
      if ((mark & (marks.changed | marks.uncertain)) === 0 || this.#next.isDirectory(index)) continue;
      if (this.#next.links(index) < 2) continue;
      if ((mark & marks.changed) !== 0) changed.add(this.#next.inode(index));
      else uncertain.push(index);
    }
    for (const index of uncertain) if (changed.has(this.#next.inode(index))) this.#mark(index, marks.changed);
  }

  #mark(index: number, mark: number): void {
    this.#marks[index] = (this.#marks[index] ?? 0) | mark;
  }

  #markAll(index: number): void {
    for (let at = index; at < this.#next.end(index); at++)
      this.#mark(at, this.#next.isDirectory(at) ? marks.changed | marks.inside : marks.changed);
  }

  #remove(parent: number, name: string): void {
    const names = this.#removed.get(parent) ?? [];
    this.#removed.set(parent, names);
    names.push(name);
  }

  /** The paths (latin1) of everything that is not wholly as it was, and of directories in which something is not. */
  *touched(): Generator<string> {
    if (this.#removed.has(rootIndex) || this.#isRootChanged()) yield '';
    for (const [, path] of this.#marked()) yield path;
  }

  /** Entries that were touched, and of which no more is known, in the order of the tree. */
  *uncertain(): Generator<UncertainEntry> {
    for (const [index, path] of this.#marked())
      if (((this.#marks[index] ?? 0) & (marks.changed | marks.uncertain)) === marks.uncertain)
        yield { index, path };
  }

  /** Says that an uncertain entry is what it was. */
  clear(index: number): void {
    this.#marks[index] = (this.#marks[index] ?? 0) & ~marks.uncertain;
  }

  /** Marked entries with their paths, without those below an unmarked directory. */
  *#marked(): Generator<[index: number, path: string]> {
    const next = this.#next;
    const path: { end: number; prefix: string }[] = [{ end: next.count, prefix: '' }];
    for (let index = 0; index < next.count;) {
      while (index >= (path.at(-1)?.end ?? next.count)) path.pop();
      const mark = this.#marks[index] ?? 0;
      if (mark === 0) {
        index = next.end(index);
        continue;
      }
      const full = `${path.at(-1)?.prefix ?? ''}${next.name(index)}`;
      yield [index, full];
      if (next.isDirectory(index) && (mark & marks.inside) !== 0)
        path.push({ end: next.end(index), prefix: `${full}/` });
      index = (mark & marks.inside) !== 0 ? index + 1 : next.end(index);
    }
  }

  /**
   * The entries of the layer that makes the earlier state into the later one, as `overlayChanges` gives them: names
   * sorted by bytes, a directory before what is in it, with the directories that lead to a change, and whiteouts only
   * below what is still a directory. What is still uncertain counts as changed.
   *
   * @param territory the tree, which must not have changed since its state was read.
   * @throws BuildError `E_RESERVED_NAME`.
   */
  *entries(territory: Territory, clampTime?: number): Generator<Change> {
    const maker = new EntryMaker(clampTime);
    if (this.#isRootChanged()) yield maker.makeRoot(territory.bytes(''), this.#roots.now);
    yield* this.#directory(territory, maker, rootIndex, '');
  }

  /** The root directory has an entry only when its mode or owner changed: its time does with everything in it. */
  #isRootChanged(): boolean {
    const { before, now } = this.#roots;
    return before.mode !== now.mode || before.uid !== now.uid || before.gid !== now.gid;
  }

  *#directory(territory: Territory, maker: EntryMaker, directory: number, path: string): Generator<Change> {
    const next = this.#next;
    const removed = this.#removed.get(directory) ?? [];
    let gone = 0;
    const end = directory === rootIndex ? next.count : next.end(directory);
    for (let index = directory + 1; index < end; index = next.end(index)) {
      if (!this.#isInLayer(index)) continue;
      const name = next.name(index);
      while (gone < removed.length && (removed[gone] ?? '') < name)
        yield whiteout(path, whiteoutPrefix + (removed[gone++] ?? ''));
      yield* this.#entry(territory, maker, index, path === '' ? name : `${path}/${name}`);
    }
    for (const name of removed.slice(gone)) yield whiteout(path, whiteoutPrefix + name);
  }

  *#entry(territory: Territory, maker: EntryMaker, index: number, path: string): Generator<Change> {
    const next = this.#next;
    const isDirectory = next.isDirectory(index);
    const inode = !isDirectory && next.links(index) > 1 ? next.inode(index) : undefined;
    yield maker.make(path, territory.bytes(path), next.facts(index), inode);
    if (!isDirectory) return;
    if (((this.#marks[index] ?? 0) & marks.opaque) !== 0) yield whiteout(path, opaqueName);
    yield* this.#directory(territory, maker, index, path);
  }

  /** A directory in which everything turned out to be unchanged is itself no part of the layer. */
  #isInLayer(index: number): boolean {
    const mark = this.#marks[index] ?? 0;
    if ((mark & (marks.changed | marks.uncertain)) !== 0) return true;
    if ((mark & marks.inside) === 0) return false;
    if (this.#removed.has(index)) return true;
    const next = this.#next;
    for (let child = index + 1; child < next.end(index); child = next.end(child))
      if (this.#isInLayer(child)) return true;
    return false;
  }
}
