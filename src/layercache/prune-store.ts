import type { Digest } from '../oci/index.ts';
import { isAbortError, KilnError, messageOf, type Progress } from '../support/index.ts';
import { decodeEntry } from './entry.ts';
import type { EntryStore } from './entry-store.ts';
import { EntryForest } from './forest.ts';
import { foldHits } from './hits.ts';
import { type CacheInventory, forEach, type InventoryEntry, listAll } from './inventory.ts';
import { type CacheKey, keyOfTag, keyTag } from './keys.ts';
import { readLastBuild } from './last-build.ts';
import type { EntryPrunePlan } from './prune-entries.ts';

export interface EntryPruneResult {
  readonly removed: readonly InventoryEntry[];
  readonly removedDamaged: number;
  /** What was planned and yet stays: a build made, took or built upon it meanwhile. */
  readonly spared: number;
  /** Tags that stay because their manifest has other tags and the registry deletes by digest alone. */
  readonly shared: readonly string[];
  /** Records of hits that were folded into one. */
  readonly folded: number;
  /** Bytes freed here; 0 where that is left to the registry's collector. */
  readonly freedBytes: number;
}

export interface PruneOptions {
  readonly graceSeconds: number;
  readonly progress?: Progress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Carries out a plan. What stands on another goes first, so that a prune that is cut off leaves no gap in a chain. Each
 * tag is looked at again right before it goes: one that was written or taken meanwhile stays, with all below it.
 *
 * @throws KilnError `E_DELETE_UNSUPPORTED` before anything is deleted, RegistryError.
 */
export async function pruneEntries(
  store: EntryStore,
  inventory: CacheInventory,
  plan: EntryPrunePlan,
  options: PruneOptions,
): Promise<EntryPruneResult> {
  await store.requireDelete(options.signal);
  const run = new PruneRun(store, inventory, plan, options);
  await run.spareNewlyUsed();
  await run.findTagsOfOthers();
  await run.remove();
  const folded = await run.tidy();
  const freedBytes = await store.sweep(options.graceSeconds, options.signal);
  return { ...run.result(), folded, freedBytes };
}

class PruneRun {
  readonly #store: EntryStore;
  readonly #inventory: CacheInventory;
  readonly #plan: EntryPrunePlan;
  readonly #options: PruneOptions;
  readonly #forest: EntryForest;
  readonly #spared = new Set<CacheKey>();
  readonly #removed: InventoryEntry[] = [];
  readonly #shared: string[] = [];
  readonly #tags = new Map<Digest, Set<string>>();
  #removedDamaged = 0;

  constructor(store: EntryStore, inventory: CacheInventory, plan: EntryPrunePlan, options: PruneOptions) {
    this.#store = store;
    this.#inventory = inventory;
    this.#plan = plan;
    this.#options = options;
    this.#forest = new EntryForest(inventory.entries);
    for (const { key, digest } of inventory.entries) this.#addTag(digest, keyTag(key));
    for (const { tag, digest } of inventory.damaged) if (digest !== undefined) this.#addTag(digest, tag);
  }

  /** Looks for entries that builds have stored since the cache was read, and keeps what they stand on. */
  async spareNewlyUsed(): Promise<void> {
    const { signal } = this.#options;
    const damaged = new Set(this.#inventory.damaged.map(({ tag }) => tag));
    const fresh = (await listAll(this.#store, signal)).flatMap((tag) => {
      const key = keyOfTag(tag);
      return key === undefined || damaged.has(tag) || this.#forest.get(key) !== undefined ? [] : [key];
    });
    await forEach(fresh, signal, async (key) => {
      const found = await this.#store.readManifest(keyTag(key), signal);
      if (found === undefined) return;
      this.#addTag(found.descriptor.digest, keyTag(key));
      try {
        const { description, origin } = decodeEntry(key, found.bytes);
        const { parent, source } = description as Record<string, unknown>;
        const { key: ground, links = [] } = origin?.ground ?? {};
        for (const below of [parent, source, ground, ...links])
          this.#spare(this.#forest.get(below as CacheKey));
      } catch (error) {
        if (!(error instanceof KilnError)) throw error;
      }
    });
  }

  /** A manifest of ours may have got another name from somebody else, under which it has to stay. */
  async findTagsOfOthers(): Promise<void> {
    const { signal } = this.#options;
    await forEach(this.#inventory.alien, signal, async (tag) => {
      const found = await this.#store.resolve(tag, signal);
      if (found !== undefined && this.#tags.has(found.digest)) this.#addTag(found.digest, tag);
    });
  }

  async remove(): Promise<void> {
    const { signal } = this.#options;
    const going = new Set([
      ...this.#plan.remove.map(({ key }) => keyTag(key)),
      ...this.#plan.removeDamaged.map(({ tag }) => tag),
    ]);
    const levels = Map.groupBy(this.#plan.remove, (entry) => this.#forest.depth(entry));
    for (const depth of [...levels.keys()].sort((a, b) => b - a)) {
      const level = levels.get(depth) ?? [];
      // The content key of a copy is only kept for its other keys.
      for (const aliases of [false, true])
        await forEach(
          level.filter((entry) => this.#forest.isAlias(entry) === aliases),
          signal,
          (entry) => this.#removeEntry(entry, going),
        );
    }
    await forEach(this.#plan.removeDamaged, signal, async ({ tag, digest }) => {
      if (digest !== undefined && (await this.#delete(tag, digest, going))) this.#removedDamaged += 1;
    });
  }

  /** Folds records of hits, and drops what builds remember whose entries are all gone. @returns records folded. */
  async tidy(): Promise<number> {
    const { progress, signal } = this.#options;
    try {
      const gone = new Set(this.#removed.map(({ key }) => key));
      for (const tag of this.#inventory.lastBuilds) {
        const build = await readLastBuild(this.#store, tag, signal);
        const isOver = build?.steps.every(({ key }) => gone.has(key) || this.#forest.get(key) === undefined);
        if (build === undefined || isOver !== true || this.#isYoung(build.at)) continue;
        const found = await this.#store.resolve(tag, signal);
        if (found !== undefined) await this.#store.deleteManifest(found.digest, [tag], signal);
      }
      return await foldHits(this.#store, this.#inventory.hitRecords, signal);
    } catch (error) {
      if (isAbortError(error)) throw error;
      // They are small, and the next prune tries again.
      progress?.warn(`records beside the entries were not tidied: ${messageOf(error)}`);
      return 0;
    }
  }

  result(): Omit<EntryPruneResult, 'folded' | 'freedBytes'> {
    return {
      removed: this.#removed,
      removedDamaged: this.#removedDamaged,
      spared: this.#plan.remove.filter(({ key }) => this.#spared.has(key)).length,
      shared: this.#shared,
    };
  }

  async #removeEntry(entry: InventoryEntry, going: ReadonlySet<string>): Promise<void> {
    const { signal } = this.#options;
    if (this.#spared.has(entry.key)) return;
    const tag = keyTag(entry.key);
    const now = await this.#store.resolve(tag, signal);
    if (now !== undefined && (now.digest !== entry.digest || this.#isYoung(now.usedAt))) this.#spare(entry);
    else if (now === undefined || (await this.#delete(tag, entry.digest, going))) this.#removed.push(entry);
    else this.#spare(entry);
  }

  /** @returns whether the tag is gone. */
  async #delete(tag: string, digest: Digest, going: ReadonlySet<string>): Promise<boolean> {
    const { signal } = this.#options;
    const tags = [...(this.#tags.get(digest) ?? [])];
    const isAlone = tags.every((other) => going.has(other) && !this.#spared.has(keyOfTag(other) as CacheKey));
    const outcome = isAlone
      ? await this.#store.deleteManifest(digest, tags, signal)
      : await this.#store.deleteTag(tag, signal);
    if (outcome !== 'shared') return true;
    this.#shared.push(tag);
    return false;
  }

  /** Keeps an entry and all that it stands on. */
  #spare(entry: InventoryEntry | undefined): void {
    const open = entry === undefined ? [] : [entry];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (this.#spared.has(next.key)) continue;
      this.#spared.add(next.key);
      open.push(...this.#forest.below(next));
      if (next.kind === 'copy-from') open.push(...this.#forest.twins(next));
    }
  }

  #isYoung(time: Date | undefined): boolean {
    return time !== undefined && Date.now() - time.getTime() < this.#options.graceSeconds * 1000;
  }

  #addTag(digest: Digest, tag: string): void {
    const tags = this.#tags.get(digest);
    if (tags === undefined) this.#tags.set(digest, new Set([tag]));
    else tags.add(tag);
  }
}
