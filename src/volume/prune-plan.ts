import { statfsSync } from 'node:fs';
import { type DiffID, type Digest, type Reference, parseReference } from '../oci/index.ts';
import { KilnError } from '../support/index.ts';
import { type CacheMount, cacheMountPath, listCacheMounts } from './cache-mounts.ts';
import type { FileTable } from './file-table.ts';
import { type UsesByImage, keyOf, loadUses } from './index-uses.ts';
import type { Inventory, InventoryImage } from './inventory.ts';
import { type LeaseProbe, loadLeaseProbe, remembering } from './leases.ts';
import type { VolumeParts } from './parts.ts';
import {
  type FilterSubject,
  type PruneKind,
  type PrunePolicy,
  type Space,
  bytesToFree,
  defaultGracePeriodSeconds,
  meetsFilters,
  requirePolicy,
} from './prune-policy.ts';
import { fileFacts, takeInventory } from './take-inventory.ts';

/** One thing that goes; `bytes` are those that its going frees, after those before it. */
export type PruneItem =
  | {
      readonly kind: 'image';
      readonly reference: string;
      readonly platform: string;
      /** Of the manifest. */
      readonly digest: Digest;
      readonly pulledAt: Date;
      /** When it was pulled, if it was never used. */
      readonly lastUsedAt: Date;
      readonly bytes: number;
    }
  | { readonly kind: 'layer'; readonly diffID: DiffID; readonly lastUsedAt: Date; readonly bytes: number }
  | { readonly kind: 'blob'; readonly digest: Digest; readonly changedAt: Date; readonly bytes: number }
  /** A directory of `RUN --mount=type=cache`. */
  | {
      readonly kind: 'cache-mount';
      readonly name: string;
      readonly id: string;
      readonly lastUsedAt: Date;
      readonly bytes: number;
    };

/** Why something that the policy would take stays. */
export type SkipReason = 'in_use' | 'pinned' | 'too_young';
export type Skipped = Readonly<Record<SkipReason, number>>;

/** What a prune would do. */
export interface PrunePlan {
  readonly policy: PrunePolicy;
  readonly space: Space;
  /** Blobs that nothing refers to, then images and layers, least recently used first. */
  readonly items: readonly PruneItem[];
  /** Bytes of the items with all that only they refer to. */
  readonly reclaimableBytes: number;
  /** Bytes that the bounds want freed beyond what can be. */
  readonly missingBytes: number;
  readonly skipped: Skipped;
  /** Entries whose manifest is damaged. While there are any, blobs that nothing seems to refer to stay. */
  readonly damaged: number;
}

/**
 * Plans a prune; changes nothing.
 *
 * @throws UsageError for an empty or contradictory policy, EnvironmentError `E_INDEX_DAMAGED`.
 */
export async function planPrune(
  parts: VolumeParts,
  policy: PrunePolicy,
  signal?: AbortSignal,
): Promise<PrunePlan> {
  requirePolicy(policy, measureSpace(parts.directory, 0).total);
  const inventory = await takeInventory(parts, () => parts.layout.soundIndexState(), signal);
  const uses = (await parts.index.read(loadUses)) ?? new Map();
  const isLeased = remembering(await loadLeaseProbe());
  const caches = await listCacheMounts(parts.directory);
  return new Planner({ parts, policy, inventory, uses, isLeased, caches }).plan(signal);
}

/** The space of a volume, given what its blobs and layers take. */
export function measureSpace(directory: string, used: number): Space {
  const { bavail, blocks, bsize } = statfsSync(directory);
  return { used, free: bavail * bsize, total: blocks * bsize };
}

/** Counts who refers to what, so that what an image frees is what nobody else needs. */
class References {
  readonly #blobs: Uint32Array;
  readonly #layers: Uint32Array;

  constructor(inventory: Inventory) {
    this.#blobs = new Uint32Array(inventory.blobs.count);
    this.#layers = new Uint32Array(inventory.layers.count);
    for (const manifest of inventory.entries()) {
      for (const id of inventory.blobsOf(manifest)) this.#blobs[id] = (this.#blobs[id] ?? 0) + 1;
      for (const id of inventory.layersOf(manifest)) this.#layers[id] = (this.#layers[id] ?? 0) + 1;
    }
  }

  toBlob(id: number): number {
    return this.#blobs[id] ?? 0;
  }

  toLayer(id: number): number {
    return this.#layers[id] ?? 0;
  }

  /** Takes references to blobs away. @returns bytes of those that nobody refers to any more. */
  releaseBlobs(files: FileTable, ids: Int32Array): number {
    return release(this.#blobs, files, ids);
  }

  releaseLayers(files: FileTable, ids: Int32Array): number {
    return release(this.#layers, files, ids);
  }
}

function release(counts: Uint32Array, files: FileTable, ids: Int32Array): number {
  let bytes = 0;
  for (const id of ids) {
    const left = (counts[id] ?? 1) - 1;
    counts[id] = left;
    if (left === 0 && files.isPresent(id)) bytes += files.size(id);
  }
  return bytes;
}

interface Candidate {
  readonly lastUsedAt: number;
  readonly since: number;
  readonly take: () => void;
}

class Planner {
  readonly #parts: VolumeParts;
  readonly #policy: PrunePolicy;
  readonly #inventory: Inventory;
  readonly #uses: UsesByImage;
  readonly #isLeased: LeaseProbe;
  readonly #references: References;
  readonly #caches: readonly CacheMount[];
  readonly #space: Space;
  readonly #now = Date.now();
  readonly #items: PruneItem[] = [];
  readonly #skipped = { in_use: 0, pinned: 0, too_young: 0 };
  readonly #damaged: number;
  #freed = 0;

  constructor(given: {
    readonly parts: VolumeParts;
    readonly policy: PrunePolicy;
    readonly inventory: Inventory;
    readonly uses: UsesByImage;
    readonly isLeased: LeaseProbe;
    readonly caches: readonly CacheMount[];
  }) {
    const { parts, policy, inventory, uses, isLeased, caches } = given;
    this.#parts = parts;
    this.#policy = policy;
    this.#inventory = inventory;
    this.#uses = uses;
    this.#isLeased = isLeased;
    this.#references = new References(inventory);
    this.#caches = caches;
    this.#space = measureSpace(
      parts.directory,
      inventory.blobs.present.bytes +
        inventory.layers.present.bytes +
        caches.reduce((sum, { bytes }) => sum + bytes, 0),
    );
    this.#damaged = [...inventory.entries()].filter((manifest) => !inventory.isKnown(manifest)).length;
  }

  plan(signal?: AbortSignal): PrunePlan {
    const goal = bytesToFree(this.#policy, this.#space);
    if (this.#damaged === 0) this.#collectGarbage();
    for (const candidate of this.#candidates()) {
      signal?.throwIfAborted();
      if (this.#freed >= goal) break;
      candidate.take();
    }
    return {
      policy: this.#policy,
      space: this.#space,
      items: this.#items,
      reclaimableBytes: this.#freed,
      missingBytes: goal === Infinity ? 0 : Math.max(0, goal - this.#freed),
      skipped: this.#skipped,
      damaged: this.#damaged,
    };
  }

  /** Blobs that nothing refers to: of replaced images, of pulls that broke off. */
  #collectGarbage(): void {
    const { unpackedOnly = false, gracePeriodSeconds = defaultGracePeriodSeconds } = this.#policy;
    if (unpackedOnly || this.#isAboutReferences()) return;
    const { blobs } = this.#inventory;
    for (let id = 0; id < blobs.count; id += 1) {
      if (!blobs.isPresent(id) || this.#references.toBlob(id) > 0) continue;
      const digest = digestOf(blobs, id);
      const path = this.#parts.layout.blobs.path(digest);
      if (!this.#meets('blob', () => this.#isLeased(path))) continue;
      const facts = fileFacts(path);
      if (facts === undefined) continue;
      const { size: bytes, changedAt } = facts;
      if (this.#now - changedAt < gracePeriodSeconds * 1000) this.#skipped.too_young += 1;
      else if (this.#isLeased(path)) this.#skipped.in_use += 1;
      else this.#take({ kind: 'blob', digest, changedAt: new Date(changedAt), bytes });
    }
  }

  /** Whether the policy picks images by their names, so that what has no name stays. */
  #isAboutReferences(): boolean {
    return (this.#policy.references ?? []).length > 0;
  }

  /** What meets the conditions, least recently used first. */
  #candidates(): Candidate[] {
    const { olderThanSeconds = 0, unusedForSeconds = 0, minimumAgeSeconds = 0 } = this.#policy;
    const candidates = this.#images();
    if (!this.#isAboutReferences()) candidates.push(...this.#looseLayers(), ...this.#cacheMounts());
    return candidates
      .filter(
        ({ lastUsedAt, since }) =>
          this.#now - since >= olderThanSeconds * 1000 && this.#now - lastUsedAt >= unusedForSeconds * 1000,
      )
      .filter(({ lastUsedAt }) => {
        const isYoung = this.#now - lastUsedAt < minimumAgeSeconds * 1000;
        if (isYoung) this.#skipped.too_young += 1;
        return !isYoung;
      })
      .sort((a, b) => a.lastUsedAt - b.lastUsedAt);
  }

  #images(): Candidate[] {
    const { references = [], filters = [], unpackedOnly = false } = this.#policy;
    const needsName = references.length > 0 || filters.some(({ key }) => key === 'repo');
    const candidates: Candidate[] = [];
    for (const image of this.#inventory.images) {
      if (!image.ours || (unpackedOnly && !this.#isUnpacked(image))) continue;
      const reference = needsName ? tryParse(image.reference) : undefined;
      if (
        references.length > 0 &&
        (reference === undefined || !references.some((pattern) => pattern.matches(reference)))
      )
        continue;
      const repo = reference === undefined ? undefined : `${reference.registry}/${reference.repository}`;
      const subject = { pinned: this.#isPinned(image), repo };
      if (!this.#meets('image', () => this.#isInUse(image), subject)) continue;
      const lastUsedAt = Math.max(this.#uses.get(keyOf(image))?.lastUsedAt ?? 0, image.pulledAt);
      candidates.push({
        lastUsedAt,
        since: image.pulledAt,
        take: () => this.#takeImage(image, lastUsedAt),
      });
    }
    return candidates;
  }

  /** Unpacked layers of no image: of replaced images, and of cached steps that builds needed. */
  #looseLayers(): Candidate[] {
    const { layers } = this.#inventory;
    const candidates: Candidate[] = [];
    for (let id = 0; id < layers.count; id += 1) {
      if (layers.state(id) === 'absent' || this.#references.toLayer(id) > 0) continue;
      const diffID = digestOf(layers, id) as DiffID;
      const facts = this.#parts.layers.facts(diffID);
      if (facts === undefined) continue;
      if (!this.#meets('layer', () => this.#isLeased(this.#parts.layers.path(diffID)))) continue;
      const { lastUsedAt, unpackedAt, bytes } = facts;
      candidates.push({
        lastUsedAt,
        since: unpackedAt,
        take: () => this.#takeLayer(diffID, bytes, lastUsedAt),
      });
    }
    return candidates;
  }

  #cacheMounts(): Candidate[] {
    if (this.#policy.unpackedOnly === true) return [];
    return this.#caches.flatMap((mount): Candidate[] => {
      const { id, name, lastUsedAt, createdAt, bytes } = mount;
      const isLeased = (): boolean => this.#isLeased(cacheMountPath(this.#parts.directory, name));
      if (!this.#meets('cache-mount', isLeased, { pinned: false, repo: undefined, id })) return [];
      const take = (): void => {
        if (isLeased()) this.#skipped.in_use += 1;
        else this.#take({ kind: 'cache-mount', name, id, lastUsedAt, bytes });
      };
      return [{ lastUsedAt: lastUsedAt.getTime(), since: createdAt.getTime(), take }];
    });
  }

  #isUnpacked({ manifest }: InventoryImage): boolean {
    return this.#inventory.layersOf(manifest).some((id) => this.#inventory.layers.isPresent(id));
  }

  #meets(
    type: PruneKind,
    inuse: () => boolean,
    subject: Omit<FilterSubject, 'type' | 'inuse'> = {
      pinned: false,
      repo: undefined,
    },
  ): boolean {
    return meetsFilters(this.#policy.filters ?? [], { type, inuse, ...subject });
  }

  #isPinned({ pinned, reference, platform }: InventoryImage): boolean {
    return pinned || this.#policy.keep?.({ reference, platform }) === true;
  }

  #takeImage(image: InventoryImage, lastUsedAt: number): void {
    if (this.#isPinned(image)) {
      this.#skipped.pinned += 1;
      return;
    }
    if (this.#isInUse(image)) {
      this.#skipped.in_use += 1;
      return;
    }
    const { manifest, reference, platform, pulledAt } = image;
    const { blobs, layers } = this.#inventory;
    const freedBlobs =
      this.#policy.unpackedOnly === true
        ? 0
        : this.#references.releaseBlobs(blobs, this.#inventory.blobsOf(manifest));
    const freedLayers = this.#references.releaseLayers(layers, this.#inventory.layersOf(manifest));
    this.#take({
      kind: 'image',
      reference,
      platform,
      digest: this.#inventory.digest(manifest),
      pulledAt: new Date(pulledAt),
      lastUsedAt: new Date(lastUsedAt),
      bytes: freedBlobs + freedLayers,
    });
  }

  #takeLayer(diffID: DiffID, bytes: number, lastUsedAt: number): void {
    if (this.#isLeased(this.#parts.layers.path(diffID))) this.#skipped.in_use += 1;
    else this.#take({ kind: 'layer', diffID, lastUsedAt: new Date(lastUsedAt), bytes });
  }

  #take(item: PruneItem): void {
    this.#items.push(item);
    this.#freed += item.bytes;
  }

  #isInUse(image: InventoryImage): boolean {
    return isInUse(this.#parts, this.#inventory, image, this.#isLeased);
  }
}

/** A build that uses an image has all its layers leased, each as a tree or as a blob. */
export function isInUse(
  { layout, layers }: VolumeParts,
  inventory: Inventory,
  { manifest }: InventoryImage,
  isLeased: LeaseProbe,
): boolean {
  // Manifest and configuration come before the layers.
  const blobs = inventory.blobsOf(manifest).subarray(2);
  return (
    blobs.length > 0 &&
    blobs.every((blob, position) => {
      if (isLeased(layout.blobs.path(digestOf(inventory.blobs, blob)))) return true;
      const layer = inventory.layersOf(manifest)[position];
      return layer !== undefined && isLeased(layers.path(digestOf(inventory.layers, layer) as DiffID));
    })
  );
}

function digestOf(files: FileTable, id: number): Digest {
  return `sha256:${files.name(id)}` as Digest;
}

function tryParse(text: string): Reference | undefined {
  try {
    return parseReference(text);
  } catch (error) {
    if (error instanceof KilnError) return undefined;
    throw error;
  }
}
