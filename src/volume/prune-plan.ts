import { type DiffID, type Digest, type Reference, parseReference } from '../oci/index.ts';
import { KilnError } from '../support/index.ts';
import {
  type Inventory,
  type InventoryImage,
  fileFacts,
  isInUse,
  measureSpace,
  takeInventory,
} from './inventory.ts';
import { type LeaseProbe, loadLeaseProbe } from './leases.ts';
import type { VolumeParts } from './parts.ts';
import {
  type PruneKind,
  type PrunePolicy,
  type Space,
  bytesToFree,
  defaultGracePeriodSeconds,
  meetsFilters,
  requirePolicy,
} from './prune-policy.ts';

/** One thing that goes. Times in milliseconds since the epoch; `bytes` are those that its going frees, after those before it. */
export type PruneItem =
  | {
      readonly kind: 'image';
      readonly reference: string;
      readonly platform: string;
      /** Of the manifest. */
      readonly digest: Digest;
      readonly pulledAt: number;
      readonly lastUsedAt: number;
      readonly bytes: number;
    }
  | { readonly kind: 'layer'; readonly diffID: DiffID; readonly lastUsedAt: number; readonly bytes: number }
  | { readonly kind: 'blob'; readonly digest: Digest; readonly changedAt: number; readonly bytes: number };

/** Why something that the policy would take stays. */
export type SkipReason = 'in_use' | 'pinned' | 'too_young';
export type Skipped = Readonly<Record<SkipReason, number>>;

/** What a prune would do. */
export interface PrunePlan {
  readonly policy: PrunePolicy;
  readonly space: Space;
  /** Blobs that nothing refers to, then images and layers, least recently used first. */
  readonly items: readonly PruneItem[];
  /** Files that go with the items: what nothing that stays refers to. */
  readonly blobs: readonly Digest[];
  readonly layers: readonly DiffID[];
  readonly reclaimableBytes: number;
  /** Bytes that the bounds want freed beyond what can be. */
  readonly missingBytes: number;
  readonly skipped: Skipped;
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
  requirePolicy(policy, (await measureSpace(parts.directory, 0)).total);
  const inventory = await takeInventory(parts, signal);
  const ledger = new Ledger(parts, inventory);
  const space = await measureSpace(parts.directory, ledger.used);
  const isLeased = await loadLeaseProbe();
  return new Planner({ parts, policy, inventory, ledger, space, isLeased }).plan(signal);
}

/** Counts who refers to what, so that what an image frees is what nobody else needs. */
class Ledger {
  readonly #blobs = new Map<Digest, number>();
  readonly #layers = new Map<DiffID, number>();
  readonly #blobSizes = new Map<Digest, number>();
  readonly #layerSizes = new Map<DiffID, number>();
  used = 0;

  constructor({ layout, layers }: VolumeParts, inventory: Inventory) {
    for (const contents of [...inventory.images.map((image) => image.contents), ...inventory.alien]) {
      for (const { digest } of contents.blobs) increment(this.#blobs, digest);
      for (const diffID of contents.diffIDs) increment(this.#layers, diffID);
    }
    for (const digest of inventory.blobs) {
      const size = fileFacts(layout.blobs.path(digest))?.size ?? 0;
      this.#blobSizes.set(digest, size);
      this.used += size;
    }
    for (const diffID of inventory.layers) {
      const size = layers.facts(diffID)?.bytes ?? 0;
      this.#layerSizes.set(diffID, size);
      this.used += size;
    }
  }

  blobSize(digest: Digest): number {
    return this.#blobSizes.get(digest) ?? 0;
  }

  layerSize(diffID: DiffID): number {
    return this.#layerSizes.get(diffID) ?? 0;
  }

  isReferenced(digest: Digest): boolean {
    return (this.#blobs.get(digest) ?? 0) > 0;
  }

  hasOwner(diffID: DiffID): boolean {
    return (this.#layers.get(diffID) ?? 0) > 0;
  }

  /** Takes an image's references away. @returns what nobody refers to any more. */
  release(
    { contents }: InventoryImage,
    what: { readonly blobs: boolean },
  ): { blobs: Digest[]; layers: DiffID[] } {
    const blobs = what.blobs ? contents.blobs.map(({ digest }) => digest) : [];
    return {
      blobs: blobs.filter((digest) => decrement(this.#blobs, digest) && this.#blobSizes.has(digest)),
      layers: contents.diffIDs.filter(
        (diffID) => decrement(this.#layers, diffID) && this.#layerSizes.has(diffID),
      ),
    };
  }
}

function increment<Key>(counts: Map<Key, number>, key: Key): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

/** @returns true when nothing is left. */
function decrement<Key>(counts: Map<Key, number>, key: Key): boolean {
  const left = (counts.get(key) ?? 0) - 1;
  counts.set(key, left);
  return left === 0;
}

type Candidate =
  | {
      readonly kind: 'image';
      readonly image: InventoryImage;
      readonly lastUsedAt: number;
      readonly since: number;
    }
  | { readonly kind: 'layer'; readonly diffID: DiffID; readonly lastUsedAt: number; readonly since: number };

class Planner {
  readonly #parts: VolumeParts;
  readonly #policy: PrunePolicy;
  readonly #inventory: Inventory;
  readonly #ledger: Ledger;
  readonly #space: Space;
  readonly #isLeased: LeaseProbe;
  readonly #now = Date.now();
  readonly #items: PruneItem[] = [];
  readonly #blobs: Digest[] = [];
  readonly #layers: DiffID[] = [];
  readonly #skipped = { in_use: 0, pinned: 0, too_young: 0 };
  #freed = 0;

  constructor(given: {
    readonly parts: VolumeParts;
    readonly policy: PrunePolicy;
    readonly inventory: Inventory;
    readonly ledger: Ledger;
    readonly space: Space;
    readonly isLeased: LeaseProbe;
  }) {
    this.#parts = given.parts;
    this.#policy = given.policy;
    this.#inventory = given.inventory;
    this.#ledger = given.ledger;
    this.#space = given.space;
    this.#isLeased = given.isLeased;
  }

  plan(signal?: AbortSignal): PrunePlan {
    const goal = bytesToFree(this.#policy, this.#space);
    this.#collectGarbage();
    for (const candidate of this.#candidates()) {
      signal?.throwIfAborted();
      if (this.#freed >= goal) break;
      if (candidate.kind === 'image') this.#takeImage(candidate.image);
      else this.#takeLayer(candidate.diffID, candidate.lastUsedAt);
    }
    return {
      policy: this.#policy,
      space: this.#space,
      items: this.#items,
      blobs: this.#blobs,
      layers: this.#layers,
      reclaimableBytes: this.#freed,
      missingBytes: goal === Infinity ? 0 : Math.max(0, goal - this.#freed),
      skipped: this.#skipped,
    };
  }

  /** Blobs that nothing refers to: of replaced images, of pulls that broke off. */
  #collectGarbage(): void {
    const {
      unpackedOnly = false,
      references = [],
      gracePeriodSeconds = defaultGracePeriodSeconds,
    } = this.#policy;
    if (unpackedOnly || references.length > 0) return;
    for (const digest of this.#inventory.blobs) {
      if (this.#ledger.isReferenced(digest)) continue;
      const path = this.#parts.layout.blobs.path(digest);
      if (!this.#meets('blob', false, undefined, () => this.#isLeased(path))) continue;
      const facts = fileFacts(path);
      if (facts === undefined) continue;
      if (this.#now - facts.changedAt < gracePeriodSeconds * 1000) this.#skipped.too_young += 1;
      else if (this.#isLeased(path)) this.#skipped.in_use += 1;
      else {
        this.#take({ kind: 'blob', digest, changedAt: facts.changedAt, bytes: facts.size });
        this.#blobs.push(digest);
      }
    }
  }

  /** What meets the conditions, least recently used first. */
  #candidates(): Candidate[] {
    const candidates: Candidate[] = [];
    for (const image of this.#inventory.images)
      if (this.#isWanted(image))
        candidates.push({ kind: 'image', image, lastUsedAt: image.lastUsedAt, since: image.pulledAt });
    if ((this.#policy.references ?? []).length === 0)
      for (const diffID of this.#inventory.layers) {
        if (this.#ledger.hasOwner(diffID)) continue;
        const facts = this.#parts.layers.facts(diffID);
        if (facts === undefined) continue;
        const { lastUsedAt, unpackedAt } = facts;
        if (this.#meets('layer', false, undefined, () => this.#isLeased(this.#parts.layers.path(diffID))))
          candidates.push({ kind: 'layer', diffID, lastUsedAt, since: unpackedAt });
      }
    const { olderThanSeconds = 0, unusedForSeconds = 0 } = this.#policy;
    return candidates
      .filter(
        ({ lastUsedAt, since }) =>
          this.#now - since >= olderThanSeconds * 1000 && this.#now - lastUsedAt >= unusedForSeconds * 1000,
      )
      .filter(({ lastUsedAt }) => {
        const young = this.#now - lastUsedAt < (this.#policy.minimumAgeSeconds ?? 0) * 1000;
        if (young) this.#skipped.too_young += 1;
        return !young;
      })
      .sort((a, b) => a.lastUsedAt - b.lastUsedAt);
  }

  #isWanted(image: InventoryImage): boolean {
    const { references = [] } = this.#policy;
    const reference = tryParse(image.reference);
    if (
      references.length > 0 &&
      (reference === undefined || !references.some((pattern) => pattern.matches(reference)))
    )
      return false;
    const repo = reference === undefined ? undefined : `${reference.registry}/${reference.repository}`;
    return this.#meets('image', image.pinned, repo, () =>
      isInUse(this.#parts, image.contents, this.#isLeased),
    );
  }

  #meets(type: PruneKind, pinned: boolean, repo: string | undefined, inuse: () => boolean): boolean {
    return meetsFilters(this.#policy.filters ?? [], { type, pinned, repo, inuse });
  }

  #takeImage(image: InventoryImage): void {
    const { unpackedOnly = false, keep } = this.#policy;
    const { reference, platform, pulledAt, lastUsedAt, descriptor } = image;
    if (unpackedOnly && !image.contents.diffIDs.some((diffID) => this.#inventory.layers.has(diffID))) return;
    if (image.pinned || keep?.({ reference, platform }) === true) {
      this.#skipped.pinned += 1;
      return;
    }
    if (isInUse(this.#parts, image.contents, this.#isLeased)) {
      this.#skipped.in_use += 1;
      return;
    }
    const { blobs, layers } = this.#ledger.release(image, { blobs: !unpackedOnly });
    const bytes =
      blobs.reduce((sum, digest) => sum + this.#ledger.blobSize(digest), 0) +
      layers.reduce((sum, diffID) => sum + this.#ledger.layerSize(diffID), 0);
    this.#blobs.push(...blobs);
    this.#layers.push(...layers);
    this.#take({
      kind: 'image',
      reference,
      platform,
      digest: descriptor.digest,
      pulledAt,
      lastUsedAt,
      bytes,
    });
  }

  #takeLayer(diffID: DiffID, lastUsedAt: number): void {
    if (this.#isLeased(this.#parts.layers.path(diffID))) {
      this.#skipped.in_use += 1;
      return;
    }
    this.#layers.push(diffID);
    this.#take({ kind: 'layer', diffID, lastUsedAt, bytes: this.#ledger.layerSize(diffID) });
  }

  #take(item: PruneItem): void {
    this.#items.push(item);
    this.#freed += item.bytes;
  }
}

function tryParse(text: string): Reference | undefined {
  try {
    return parseReference(text);
  } catch (error) {
    if (error instanceof KilnError) return undefined;
    throw error;
  }
}
