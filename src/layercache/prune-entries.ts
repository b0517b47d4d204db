import { UsageError } from '../support/index.ts';
import { EntryForest } from './forest.ts';
import type { CacheInventory, DamagedEntry, InventoryEntry } from './inventory.ts';
import type { CacheKey } from './keys.ts';

/** What of a cache is to go. Conditions are all to be met; bounds end the pruning as soon as they are kept. */
export interface EntryPolicy {
  /** Only what was made longer ago than this, in seconds. */
  readonly olderThanSeconds?: number | undefined;
  /** Only what no build took for this long; what never was counts from its making. */
  readonly unusedForSeconds?: number | undefined;
  readonly maxEntries?: number | undefined;
  /** Bytes of all blobs together, each counted once. */
  readonly maxSize?: number | undefined;
  /** Keeps the newest chains of each line. */
  readonly keepLast?: number | undefined;
  /** Keeps these and what they stand on. */
  readonly keepKeys?: ReadonlySet<CacheKey> | undefined;
  /** Takes what no build can hit, whatever the conditions say of it. */
  readonly unreachable?: boolean;
  readonly all?: boolean;
  /** What was made or taken less than this ago stays, in seconds. */
  readonly graceSeconds: number;
}

/** Longer than almost any build: what a running one has found or made is not taken from under it. */
export const defaultGraceSeconds = 3600;

/** Why something that the policy would take stays. */
export type KeptBecause = 'too_young' | 'kept_chain';

export interface EntryPrunePlan {
  /** What stands on another goes before it, so that a prune that is cut off leaves no gaps. */
  readonly remove: readonly InventoryEntry[];
  readonly removeDamaged: readonly DamagedEntry[];
  readonly kept: number;
  /** Bytes of blobs that only what goes refers to. */
  readonly bytes: number;
  readonly skipped: Readonly<Record<KeptBecause, number>>;
  /** How far the bounds are missed with all that may go. */
  readonly missing: { readonly entries: number; readonly bytes: number };
}

/**
 * Plans a prune of a cache.
 *
 * @throws UsageError `E_POLICY_EMPTY` when the policy says nothing.
 */
export function planEntryPrune(
  inventory: CacheInventory,
  policy: EntryPolicy,
  now: Date = new Date(),
): EntryPrunePlan {
  requirePolicy(policy);
  return new Planner(inventory, policy, now.getTime() / 1000).plan();
}

function requirePolicy(policy: EntryPolicy): void {
  const { olderThanSeconds, unusedForSeconds, maxEntries, maxSize, keepLast, keepKeys } = policy;
  const says = [olderThanSeconds, unusedForSeconds, maxEntries, maxSize, keepLast, keepKeys];
  if (says.some((value) => value !== undefined) || policy.unreachable === true || policy.all === true) return;
  throw new UsageError('nothing says what is to go', {
    code: 'E_POLICY_EMPTY',
    remedy:
      'Give --unused-for, --older-than, --max-size, --max-entries, --keep-last or --unreachable; or --all.',
  });
}

class Planner {
  readonly #inventory: CacheInventory;
  readonly #policy: EntryPolicy;
  readonly #now: number;
  readonly #forest: EntryForest;
  readonly #uses: ReadonlyMap<CacheKey, number>;
  readonly #blobs = new BlobCounts();

  constructor(inventory: CacheInventory, policy: EntryPolicy, now: number) {
    this.#inventory = inventory;
    this.#policy = policy;
    this.#now = now;
    this.#forest = new EntryForest(inventory.entries);
    this.#uses = usesWithAbove(this.#forest);
    for (const entry of inventory.entries) this.#blobs.add(entry);
  }

  plan(): EntryPrunePlan {
    const { entries } = this.#inventory;
    const { maxEntries = Infinity, maxSize = Infinity, graceSeconds } = this.#policy;
    const bounded = maxEntries !== Infinity || maxSize !== Infinity;
    const kept = this.#keptChains();
    const young = this.#withBelow(entries.filter((entry) => this.#age(entry) < graceSeconds));
    const skipped = { too_young: 0, kept_chain: 0 };
    const gone = new Set<CacheKey>();
    const before = this.#blobs.bytes;
    const isOver = (): boolean => entries.length - gone.size > maxEntries || this.#blobs.bytes > maxSize;
    for (const entry of this.#inOrder()) {
      const dead = this.#policy.unreachable === true && this.#forest.unreachable(entry) !== undefined;
      const meant = dead || (this.#isMeant(entry) && (!bounded || isOver()));
      if (!meant) continue;
      if (kept.has(entry.key)) skipped.kept_chain += 1;
      else if (young.has(entry.key)) skipped.too_young += 1;
      else if (this.#standsFree(entry, gone)) {
        gone.add(entry.key);
        this.#blobs.remove(entry);
      } else skipped.kept_chain += 1;
    }
    return {
      remove: [...gone]
        .flatMap((key) => this.#forest.get(key) ?? [])
        .sort((a, b) => this.#forest.depth(b) - this.#forest.depth(a)),
      removeDamaged:
        this.#policy.unreachable === true || this.#policy.all === true ? this.#inventory.damaged : [],
      kept: entries.length - gone.size,
      bytes: before - this.#blobs.bytes,
      skipped,
      missing: {
        entries: Math.max(0, entries.length - gone.size - maxEntries),
        bytes: Math.max(0, this.#blobs.bytes - maxSize),
      },
    };
  }

  /** Least recently used first, and always after what stands on it. */
  #inOrder(): InventoryEntry[] {
    const forest = this.#forest;
    return [...forest.entries].sort(
      (a, b) =>
        this.#used(a) - this.#used(b) || rank(forest, b) - rank(forest, a) || (a.key < b.key ? -1 : 1),
    );
  }

  #isMeant(entry: InventoryEntry): boolean {
    const { olderThanSeconds = 0, unusedForSeconds = 0, unreachable, ...others } = this.#policy;
    const { maxEntries, maxSize, keepLast, keepKeys, all } = others;
    const conditions = [this.#policy.olderThanSeconds, this.#policy.unusedForSeconds];
    const rules = [...conditions, maxEntries, maxSize, keepLast, keepKeys].some((rule) => rule !== undefined);
    // Nothing but --unreachable was said.
    if (unreachable === true && !rules && all !== true) return false;
    const made = this.#now - entry.created.getTime() / 1000;
    return made >= olderThanSeconds && this.#now - this.#used(entry) >= unusedForSeconds;
  }

  /** Whether nothing that stays needs an entry: no later part of its chain, and no other key of its layer. */
  #standsFree(entry: InventoryEntry, gone: ReadonlySet<CacheKey>): boolean {
    const isGone = ({ key }: InventoryEntry): boolean => gone.has(key);
    if (this.#forest.isAlias(entry) && !this.#forest.twins(entry).every(isGone)) return false;
    return this.#forest.above(entry).every(isGone);
  }

  #used({ key }: InventoryEntry): number {
    return this.#uses.get(key) ?? 0;
  }

  #age({ created, usedAt }: InventoryEntry): number {
    return this.#now - Math.max(created.getTime(), usedAt?.getTime() ?? 0) / 1000;
  }

  #keptChains(): Set<CacheKey> {
    const { keepLast, keepKeys } = this.#policy;
    const tips: InventoryEntry[] = [];
    if (keepKeys !== undefined) tips.push(...[...keepKeys].flatMap((key) => this.#forest.get(key) ?? []));
    if (keepLast !== undefined) {
      const lines = Map.groupBy(this.#forest.tips(), (tip) => this.#lineOf(tip));
      for (const chains of lines.values()) {
        const newest = chains.sort((a, b) => this.#used(b) - this.#used(a) || (a.key < b.key ? -1 : 1));
        tips.push(...newest.slice(0, keepLast));
      }
    }
    return this.#withBelow(tips);
  }

  #lineOf(tip: InventoryEntry): string {
    return tip.origin?.line ?? `unnamed ${this.#forest.rootOf(tip).key}`;
  }

  /** Entries with all that is below them, and the keys by content of the copies among them. */
  #withBelow(entries: readonly InventoryEntry[]): Set<CacheKey> {
    const found = new Set<CacheKey>();
    const open = [...entries];
    for (let entry = open.pop(); entry !== undefined; entry = open.pop()) {
      if (found.has(entry.key)) continue;
      found.add(entry.key);
      open.push(...this.#forest.below(entry));
      if (entry.kind === 'copy-from') open.push(...this.#forest.twins(entry));
    }
    return found;
  }
}

/** Places what stands on an entry, and the own keys of copies, before it. */
function rank(forest: EntryForest, entry: InventoryEntry): number {
  return forest.depth(entry) * 2 + (forest.isAlias(entry) ? 0 : 1);
}

/** When each entry was last used, directly or by what stands on it; in seconds since 1970. */
function usesWithAbove(forest: EntryForest): Map<CacheKey, number> {
  const uses = new Map<CacheKey, number>();
  const deepestFirst = [...forest.entries].sort((a, b) => rank(forest, b) - rank(forest, a));
  for (const entry of deepestFirst) {
    const own = Math.max(entry.created.getTime(), entry.usedAt?.getTime() ?? 0) / 1000;
    const others = [...forest.above(entry), ...(forest.isAlias(entry) ? forest.twins(entry) : [])];
    uses.set(entry.key, Math.max(own, ...others.map(({ key }) => uses.get(key) ?? 0)));
  }
  return uses;
}

/** Bytes of blobs, each counted once however many entries share it. */
class BlobCounts {
  bytes = 0;
  readonly #users = new Map<string, number>();

  add({ blobs }: InventoryEntry): void {
    for (const { digest, size } of blobs) {
      const users = this.#users.get(digest) ?? 0;
      if (users === 0) this.bytes += size;
      this.#users.set(digest, users + 1);
    }
  }

  remove({ blobs }: InventoryEntry): void {
    for (const { digest, size } of blobs) {
      const users = (this.#users.get(digest) ?? 0) - 1;
      if (users === 0) this.bytes -= size;
      this.#users.set(digest, users);
    }
  }
}
