import { type DamagedEntry, EntryForest, type InventoryEntry } from '../../src/layercache/index.ts';
import type { CacheInventory, EntryBase } from '../../src/layercache/index.ts';

/** How a command shows an entry to programs. */
export interface EntryDocument {
  readonly key: string;
  readonly instruction: string;
  /** Bytes of its layer. */
  readonly size: number;
  readonly created: Date;
  readonly lastHit: Date | null;
  readonly creator: string;
  /** The id of the key that it says it is signed by; with keys given, of the one that signed it. */
  readonly signedBy: string | null;
  /** Whether one of the keys given signed it; null when none was given. */
  readonly signatureValid: boolean | null;
  /** What it was built for: image or context, Dockerfile, stage. */
  readonly line: string | null;
  readonly base: EntryBase | null;
  readonly parent: string;
  /** How many entries are below it. */
  readonly depth: number;
  readonly digest: string;
  /** `gap` and `replaced`: no build can hit it. */
  readonly state: 'sound' | 'gap' | 'replaced';
  /** The content key of a copy that is there under its own key too. */
  readonly alias: boolean;
}

export function entryDocument(forest: EntryForest, entry: InventoryEntry): EntryDocument {
  const { key, instruction, size, created, usedAt, creator, origin, parent, digest, signature } = entry;
  return {
    ...{ key, instruction, size, created, creator, parent, digest },
    lastHit: usedAt ?? null,
    signedBy: signature?.keyID ?? null,
    signatureValid: signature?.valid ?? null,
    line: origin?.line ?? null,
    base: forest.baseOf(entry) ?? null,
    depth: forest.depth(entry),
    state: forest.unreachable(entry) ?? 'sound',
    alias: forest.isAlias(entry),
  };
}

/** What a cache takes, for `warmer remote du`. */
export interface RemoteUsage {
  readonly entries: number;
  /** Entries that no other stands on. */
  readonly chains: number;
  /** Different things that were built. */
  readonly lines: number;
  readonly layers: SizeCount;
  /** Manifests and configurations. */
  readonly documents: SizeCount;
  /** Bytes of all blobs, each counted once. */
  readonly total: number;
  /** Bytes that would be needed more if nothing was shared. */
  readonly savedBySharing: number;
  readonly unreachable: SizeCount;
  readonly damaged: readonly DamagedEntry[];
  /** Tags that are no entries: records of hits, what builds remember, and tags of others. */
  readonly records: number;
  readonly alien: number;
  readonly bases: readonly BaseUsage[];
}

interface SizeCount {
  readonly count: number;
  readonly bytes: number;
}

interface BaseUsage extends SizeCount {
  readonly base: EntryBase | null;
  readonly chains: number;
}

export function usageOf(inventory: CacheInventory): RemoteUsage {
  const forest = new EntryForest(inventory.entries);
  const tips = forest.tips();
  const layers = new Map<string, number>();
  const documents = new Map<string, number>();
  let unshared = 0;
  for (const { blobs } of forest.entries)
    for (const [index, { digest, size }] of blobs.entries()) {
      (index === 2 ? layers : documents).set(digest, size);
      unshared += size;
    }
  const total = sum(layers).bytes + sum(documents).bytes;
  const dead = forest.entries.filter((entry) => forest.unreachable(entry) !== undefined);
  return {
    entries: forest.entries.length,
    chains: tips.length,
    lines: new Set(forest.entries.map(({ origin }) => origin?.line)).size,
    layers: sum(layers),
    documents: sum(documents),
    total,
    savedBySharing: unshared - total,
    unreachable: { count: dead.length, bytes: distinctBytes(dead) },
    damaged: inventory.damaged,
    records: inventory.hitRecords.length + inventory.lastBuilds.length,
    alien: inventory.alien.length,
    bases: basesOf(forest, tips),
  };
}

function basesOf(forest: EntryForest, tips: readonly InventoryEntry[]): BaseUsage[] {
  const names = new Map<InventoryEntry, string>();
  const bases = new Map<string, EntryBase | null>();
  for (const entry of forest.entries) {
    const base = forest.baseOf(entry) ?? null;
    const name = base === null ? '' : `${base.name} ${base.platform} ${String(base.chainID)}`;
    names.set(entry, name);
    bases.set(name, base);
  }
  const chains = Map.groupBy(tips, (tip) => names.get(tip) ?? '');
  return [...Map.groupBy(forest.entries, (entry) => names.get(entry) ?? '')]
    .map(([name, entries]) => ({
      base: bases.get(name) ?? null,
      count: entries.length,
      chains: chains.get(name)?.length ?? 0,
      bytes: distinctBytes(entries),
    }))
    .sort((a, b) => b.bytes - a.bytes);
}

function distinctBytes(entries: readonly InventoryEntry[]): number {
  return sum(
    new Map(entries.flatMap(({ blobs }) => blobs.map(({ digest, size }) => [digest, size] as const))),
  ).bytes;
}

function sum(blobs: ReadonlyMap<string, number>): SizeCount {
  return { count: blobs.size, bytes: [...blobs.values()].reduce((bytes, size) => bytes + size, 0) };
}
