import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { DiffID, Digest } from '../oci/index.ts';
import { EnvironmentError, randomName, systemErrorCode } from '../support/index.ts';
import { cacheMountPath } from './cache-mounts.ts';
import { FileLock } from './file-lock.ts';
import type { ImageKey } from './index-db.ts';
import { keyOf } from './index-uses.ts';
import { removeTree, trashPrefix } from './ingest.ts';
import type { Inventory } from './inventory.ts';
import { Lease, loadLeaseProbe } from './leases.ts';
import type { VolumeParts } from './parts.ts';
import { type PruneItem, type PrunePlan, type Skipped, isInUse, measureSpace } from './prune-plan.ts';
import type { Space } from './prune-policy.ts';
import { Reserve } from './reserve.ts';
import { recordOf } from './stored-image.ts';
import { unlessMissing } from './storage.ts';
import { fileFacts, refreshIndex, takeInventory } from './take-inventory.ts';

/** What a prune did. */
export interface PruneResult {
  /** What went, as it was planned; an item counts also when a part of it stays because it came into use meanwhile. */
  readonly removed: readonly PruneItem[];
  readonly reclaimedBytes: number;
  /** From the plan, and what came into use since. */
  readonly skipped: Skipped;
  /** Afterwards. */
  readonly space: Space;
}

type ImageItem = Extract<PruneItem, { kind: 'image' }>;

/** Files that are locked, checked and renamed together: enough to read `index.json` rarely, few enough to be quick. */
const batchSize = 64;

/**
 * Carries out a plan. What was pulled again, pinned or leased since it was made stays. Order: references, unpacked layers,
 * blobs, index rows; each file is renamed into `ingest` and deleted there, so that no name stands for half of a thing.
 *
 * @throws EnvironmentError `E_VOLUME_LOCKED` while another prune runs, `E_NO_SPACE` when not even a shorter `index.json` fits.
 */
export async function executePrune(
  parts: VolumeParts,
  plan: PrunePlan,
  signal?: AbortSignal,
): Promise<PruneResult> {
  const { directory, layout } = parts;
  await using lock = await FileLock.tryAcquire(join(layout.blobs.ingestDirectory, 'prune.lock'));
  if (lock === undefined)
    throw new EnvironmentError('another prune is running', {
      code: 'E_VOLUME_LOCKED',
      where: directory,
      remedy: 'Wait for it to end.',
    });
  const reserve = new Reserve(directory);
  try {
    return await new Pruner(parts, plan, reserve, signal).run();
  } finally {
    await reserve.keep();
    await refreshIndex(parts);
  }
}

class Pruner {
  readonly #parts: VolumeParts;
  readonly #plan: PrunePlan;
  readonly #images: readonly ImageItem[];
  readonly #reserve: Reserve;
  readonly #signal: AbortSignal | undefined;
  readonly #needed: NeededFiles;
  /** What came into use since the plan: images by their keys, files by their digests. */
  readonly #inUse = new Set<string>();
  #reclaimed = 0;
  #pinned = 0;

  constructor(parts: VolumeParts, plan: PrunePlan, reserve: Reserve, signal: AbortSignal | undefined) {
    this.#parts = parts;
    this.#plan = plan;
    this.#images = plan.items.filter((item) => item.kind === 'image');
    this.#reserve = reserve;
    this.#signal = signal;
    this.#needed = new NeededFiles(parts);
  }

  async run(): Promise<PruneResult> {
    const { items, space, skipped, policy } = this.#plan;
    const unpackedOnly = policy.unpackedOnly === true;
    const files = await this.#filesOf(this.#images);
    const removed = new Set<PruneItem>(
      unpackedOnly ? this.#images : await this.#dropReferencesSomehow(files),
    );
    await this.#takeLayers(files.layers, unpackedOnly ? this.#images : []);
    if (!unpackedOnly) await this.#takeBlobs(files.blobs);
    await this.#takeCacheMounts();
    return {
      removed: items.filter((item) => item.kind !== 'image' || removed.has(item)),
      reclaimedBytes: this.#reclaimed,
      skipped: {
        ...skipped,
        in_use: skipped.in_use + this.#inUse.size,
        pinned: skipped.pinned + this.#pinned,
      },
      space: measureSpace(this.#parts.directory, space.used - this.#reclaimed),
    };
  }

  /** The files of images and of the other items, whoever else refers to them. */
  async #filesOf(images: readonly ImageItem[]): Promise<Files> {
    const inventory = await this.#needed.inventory();
    const wanted = new Set(images.map(identityOf));
    const blobs = new Map<Digest, number>();
    const layers = new Map<DiffID, number>();
    for (const image of inventory.images) {
      if (!wanted.has(identityOf({ ...image, digest: inventory.digest(image.manifest) }))) continue;
      for (const id of inventory.blobsOf(image.manifest))
        blobs.set(`sha256:${inventory.blobs.name(id)}` as Digest, inventory.blobs.size(id));
      for (const id of inventory.layersOf(image.manifest))
        layers.set(`sha256:${inventory.layers.name(id)}` as DiffID, inventory.layers.size(id));
    }
    for (const item of this.#plan.items) {
      if (item.kind === 'layer') layers.set(item.diffID, item.bytes);
      if (item.kind === 'blob') blobs.set(item.digest, item.bytes);
    }
    return { blobs, layers };
  }

  /** On a full disk even a shorter `index.json` needs space first, which then has to be made. */
  async #dropReferencesSomehow({ layers }: Files): Promise<readonly ImageItem[]> {
    const makeSpace = [
      () => this.#reserve.release(),
      // Images without their trees are still images.
      () => this.#takeLayers(layers, this.#images),
    ];
    for (;;) {
      try {
        return await this.#dropReferences(this.#images);
      } catch (error) {
        const next = systemErrorCode(error) === 'E_NO_SPACE' ? makeSpace.shift() : undefined;
        if (next === undefined) throw error;
        await next();
      }
    }
  }

  /** Takes images out of `index.json`. @returns those that went. */
  async #dropReferences(images: readonly ImageItem[]): Promise<readonly ImageItem[]> {
    if (images.length === 0) return [];
    const free = await this.#withoutThoseInUse(images);
    const doomed = new Map(free.map((item) => [keyOf(item), item]));
    const { keep } = this.#plan.policy;
    let gone: ImageItem[] = [];
    let pinned = 0;
    await this.#parts.layout.updateIndex((manifests) => {
      gone = [];
      pinned = 0;
      return manifests.filter((entry) => {
        const record = recordOf(entry);
        const item = record === undefined ? undefined : doomed.get(keyOf(record));
        // What was pulled since is another image, or somebody wants it.
        if (item?.digest !== entry.digest || item.pulledAt.getTime() !== record?.pulledAt) return true;
        const isPinned = record.pinned || keep?.(record) === true;
        if (isPinned) pinned += 1;
        else gone.push(item);
        return isPinned;
      });
    });
    this.#pinned += pinned;
    return gone;
  }

  async #withoutThoseInUse(images: readonly ImageItem[]): Promise<readonly ImageItem[]> {
    const isLeased = await loadLeaseProbe();
    const inventory = await this.#needed.inventory();
    const wanted = new Set(images.map(keyOf));
    for (const image of inventory.images)
      if (wanted.has(keyOf(image)) && isInUse(this.#parts, inventory, image, isLeased))
        this.#inUse.add(keyOf(image));
    return images.filter((image) => !this.#inUse.has(keyOf(image)));
  }

  /** @param except images that may lose their trees. */
  async #takeLayers(files: ReadonlyMap<DiffID, number>, except: readonly ImageItem[]): Promise<void> {
    const { layers } = this.#parts;
    const needed = (): Promise<ReadonlySet<Digest>> => this.#needed.layers(except);
    const free = await withoutNeeded(files, needed);
    for (const batch of batches(free))
      await this.#take(
        batch.map(([digest, bytes]) => ({ digest, bytes, path: layers.path(digest) })),
        needed,
      );
  }

  async #takeBlobs(files: ReadonlyMap<Digest, number>): Promise<void> {
    const { blobs } = this.#parts.layout;
    const needed = (): Promise<ReadonlySet<Digest>> => this.#needed.blobs();
    const free = await withoutNeeded(files, needed);
    for (const batch of batches(free))
      await this.#take(
        batch.map(([digest, bytes]) => ({ digest, bytes, path: blobs.path(digest) })),
        needed,
      );
  }

  /** A cache is in no index: whoever uses one has leased its directory, and makes it anew when it is gone. */
  async #takeCacheMounts(): Promise<void> {
    const { directory, layout } = this.#parts;
    for (const item of this.#plan.items) {
      if (item.kind !== 'cache-mount') continue;
      this.#signal?.throwIfAborted();
      const path = cacheMountPath(directory, item.name);
      await using lease = await Lease.tryAcquireExclusive(path);
      if (lease === undefined) {
        if (fileFacts(path) !== undefined) this.#inUse.add(item.name);
        continue;
      }
      const aside = join(layout.blobs.ingestDirectory, randomName(trashPrefix));
      if (!(await renameIfThere(path, aside))) continue;
      this.#reclaimed += item.bytes;
      await removeTree(aside);
    }
  }

  /**
   * Takes what nobody has leased and nothing refers to.
   *
   * Whoever enters a reference into `index.json` has leased what it refers to until that is written, and whoever removes
   * or replaces a file has leased it too. So once a file is locked exclusively here, nobody is about to refer to it, what
   * `index.json` says from then on about it is final, and its name stands for what is locked.
   */
  async #take(
    targets: readonly { readonly digest: Digest; readonly bytes: number; readonly path: string }[],
    loadNeeded: () => Promise<ReadonlySet<Digest>>,
  ): Promise<void> {
    this.#signal?.throwIfAborted();
    await using stack = new AsyncDisposableStack();
    const locked: { readonly target: (typeof targets)[number]; readonly lease: Lease }[] = [];
    for (const target of targets) {
      const lease = await Lease.tryAcquireExclusive(target.path);
      if (lease !== undefined) locked.push({ target, lease: stack.use(lease) });
      else if (fileFacts(target.path) !== undefined) this.#inUse.add(target.digest);
    }
    const needed = await loadNeeded();
    const trash: string[] = [];
    for (const { target, lease } of locked) {
      const aside = join(this.#parts.layout.blobs.ingestDirectory, randomName(trashPrefix));
      if (needed.has(target.digest)) await lease[Symbol.asyncDispose]();
      else if (await renameIfThere(target.path, aside)) {
        this.#reclaimed += target.bytes;
        trash.push(aside);
      }
    }
    await Promise.all(trash.map(removeTree));
  }
}

/** Files with their sizes. */
interface Files {
  readonly blobs: ReadonlyMap<Digest, number>;
  readonly layers: ReadonlyMap<DiffID, number>;
}

/** What `index.json` refers to now; found out again only when it has changed. */
class NeededFiles {
  readonly #parts: VolumeParts;
  #identity: string | undefined;
  #inventory: Inventory | undefined;
  readonly #sets = new Map<string, ReadonlySet<Digest>>();

  constructor(parts: VolumeParts) {
    this.#parts = parts;
  }

  async inventory(): Promise<Inventory> {
    const { layout } = this.#parts;
    const identity = await layout.indexIdentity();
    if (this.#inventory === undefined || identity === undefined || identity !== this.#identity) {
      this.#inventory = await takeInventory(this.#parts, () => layout.soundIndexState());
      this.#identity = identity;
      this.#sets.clear();
    }
    return this.#inventory;
  }

  async blobs(): Promise<ReadonlySet<Digest>> {
    const inventory = await this.inventory();
    return this.#once('blobs', () => {
      const used = new Set<Digest>();
      for (const manifest of inventory.entries())
        for (const id of inventory.blobsOf(manifest))
          used.add(`sha256:${inventory.blobs.name(id)}` as Digest);
      return used;
    });
  }

  /** @param except images whose layers are not needed for their sake. */
  async layers(except: readonly ImageItem[]): Promise<ReadonlySet<Digest>> {
    const inventory = await this.inventory();
    return this.#once(`layers ${except.length}`, () => {
      const free = new Set(except.map(identityOf));
      const used = new Set<Digest>();
      const use = (manifest: number): void => {
        for (const id of inventory.layersOf(manifest))
          used.add(`sha256:${inventory.layers.name(id)}` as Digest);
      };
      for (const manifest of inventory.parts.others) use(manifest);
      for (const image of inventory.images)
        if (!free.has(identityOf({ ...image, digest: inventory.digest(image.manifest) })))
          use(image.manifest);
      return used;
    });
  }

  #once(key: string, make: () => ReadonlySet<Digest>): ReadonlySet<Digest> {
    const known = this.#sets.get(key) ?? make();
    this.#sets.set(key, known);
    return known;
  }
}

function identityOf(image: ImageKey & { readonly digest: Digest }): string {
  return `${keyOf(image)} ${image.digest}`;
}

async function withoutNeeded<Name extends Digest>(
  files: ReadonlyMap<Name, number>,
  loadNeeded: () => Promise<ReadonlySet<Digest>>,
): Promise<(readonly [Name, number])[]> {
  const needed = await loadNeeded();
  return [...files].filter(([digest]) => !needed.has(digest));
}

async function renameIfThere(from: string, to: string): Promise<boolean> {
  return (await unlessMissing(rename(from, to).then(() => true))) ?? false;
}

function* batches<Item>(items: readonly Item[]): Generator<readonly Item[]> {
  for (let start = 0; start < items.length; start += batchSize) yield items.slice(start, start + batchSize);
}
