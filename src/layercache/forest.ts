import { type ChainID, extendChain } from '../oci/index.ts';
import { baseKeyOf, type EntryBase } from './entry-origin.ts';
import type { InventoryEntry } from './inventory.ts';
import type { CacheKey } from './keys.ts';

/**
 * How the entries of a cache stand upon one another. Below an entry is the one that its key has for its parent, copies with
 * `--link` that lie between them, and for a copy also the last one of the stage that it copies from. A chain is an entry on which no other stands, its tip, with all
 * that is below it.
 */
export class EntryForest {
  readonly entries: readonly InventoryEntry[];
  readonly #byKey: ReadonlyMap<CacheKey, InventoryEntry>;
  readonly #above = new Map<CacheKey, InventoryEntry[]>();
  readonly #twins = new Map<CacheKey, InventoryEntry[]>();
  readonly #depths = new Map<CacheKey, number>();

  constructor(entries: readonly InventoryEntry[]) {
    this.entries = entries;
    this.#byKey = new Map(entries.map((entry) => [entry.key, entry]));
    for (const entry of entries) for (const { key } of this.below(entry)) add(this.#above, key, entry);
    this.#findTwins();
  }

  get(key: CacheKey): InventoryEntry | undefined {
    return this.#byKey.get(key);
  }

  /** What an entry stands on, as far as it is there. */
  below({ parent, links, source }: InventoryEntry): InventoryEntry[] {
    const keys = [parent, ...links, ...(source === undefined ? [] : [source])];
    return keys.flatMap((key) => this.#byKey.get(key) ?? []);
  }

  /** What stands on an entry. */
  above({ key }: InventoryEntry): readonly InventoryEntry[] {
    return this.#above.get(key) ?? [];
  }

  /** Entries of the same stage above one, without those that only copy from it. */
  children(entry: InventoryEntry): InventoryEntry[] {
    return this.above(entry).filter(({ parent }) => parent === entry.key);
  }

  /**
   * Of a copy from a stage, the entries of the same layer under its other keys: by content, and by other builds of the
   * stage that gave the same files. The one by content stays as long as any of the others does.
   */
  twins({ key }: InventoryEntry): readonly InventoryEntry[] {
    return this.#twins.get(key) ?? [];
  }

  /** Whether an entry is only the content key of a copy that is there under its own. */
  isAlias(entry: InventoryEntry): boolean {
    return entry.kind === 'copy' && this.twins(entry).length > 0;
  }

  /** How many entries are below, one upon another, at most. */
  depth(entry: InventoryEntry): number {
    const known = this.#depths.get(entry.key);
    if (known !== undefined) return known;
    // Without recursion: chains of a hostile cache are as long as it likes. A circle would need a hash of itself.
    const stack = [entry];
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const below = this.below(top);
      const open = below.find(({ key }) => !this.#depths.has(key));
      if (open !== undefined) {
        stack.push(open);
        continue;
      }
      this.#depths.set(top.key, Math.max(-1, ...below.map(({ key }) => this.#depths.get(key) ?? 0)) + 1);
      stack.pop();
    }
    return this.#depths.get(entry.key) ?? 0;
  }

  /** The first entries of stages: on a base, or on what is not there. */
  roots(): InventoryEntry[] {
    return this.entries.filter(({ parent }) => !this.#byKey.has(parent));
  }

  /** The entry at the bottom of an entry's own stage. */
  rootOf(entry: InventoryEntry): InventoryEntry {
    let root = entry;
    for (let next = this.#byKey.get(root.parent); next !== undefined; next = this.#byKey.get(root.parent))
      root = next;
    return root;
  }

  /** The base that an entry's chain begins on; undefined when it is not known, or the chain has a gap above it. */
  baseOf(entry: InventoryEntry): EntryBase | undefined {
    const { origin, parent } = this.rootOf(entry);
    return origin !== undefined && baseKeyOf(origin.base) === parent ? origin.base : undefined;
  }

  /** Entries that no other stands on. */
  tips(): InventoryEntry[] {
    return this.entries.filter((entry) => this.above(entry).length === 0 && !this.isAlias(entry));
  }

  /**
   * Why no build can hit an entry; undefined when one can. What it stands on is gone, or was made anew with another
   * result, so that no build comes to the rootfs that it was made on.
   */
  unreachable(entry: InventoryEntry): 'gap' | 'replaced' | undefined {
    for (let above = entry; ;) {
      if (above.linked) return above.parentChainID === null ? undefined : 'replaced';
      const below = this.#byKey.get(above.parent);
      if (below === undefined && !isOnBase(above)) return 'gap';
      let chain = below === undefined ? above.origin?.base.chainID : chainAbove(below.parentChainID, below);
      for (const key of above.links) {
        const link = this.#byKey.get(key);
        if (link === undefined) return 'gap';
        chain = chainAbove(chain ?? null, link);
      }
      // An entry that does not say its base is given the benefit of the doubt.
      if (chain !== undefined && above.parentChainID !== chain) return 'replaced';
      if (below === undefined) return undefined;
      above = below;
    }
  }

  #findTwins(): void {
    const bySameLayer = new Map<string, InventoryEntry[]>();
    for (const entry of this.entries)
      if (entry.kind === 'copy' || entry.kind === 'copy-from')
        add(bySameLayer, [entry.parent, entry.parentChainID, entry.diffID].join(' '), entry);
    for (const same of bySameLayer.values()) {
      if (!same.some(({ kind }) => kind === 'copy-from')) continue;
      for (const entry of same)
        this.#twins.set(
          entry.key,
          same.filter((other) => other.kind !== entry.kind),
        );
    }
  }
}

function isOnBase({ origin, parent }: InventoryEntry): boolean {
  return origin === undefined || baseKeyOf(origin.base) === parent;
}

/** What an entry's layer makes of what is below it. */
function chainAbove(chain: ChainID | null, { diffID }: InventoryEntry): ChainID | null {
  return diffID === undefined ? chain : extendChain(chain ?? undefined, diffID);
}

function add<Key, Value>(to: Map<Key, Value[]>, key: Key, value: Value): void {
  const values = to.get(key);
  if (values === undefined) to.set(key, [value]);
  else values.push(value);
}
