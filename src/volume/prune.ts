import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { DiffID, Digest } from '../oci/index.ts';
import { EnvironmentError, randomName } from '../support/index.ts';
import { type Contents, readContents } from './contents.ts';
import { FileLock } from './file-lock.ts';
import type { ImageKey } from './index-db.ts';
import { removeTree } from './ingest.ts';
import { fileFacts, isInUse, measureSpace } from './inventory.ts';
import { Lease, loadLeaseProbe } from './leases.ts';
import type { VolumeParts } from './parts.ts';
import type { Space } from './prune-policy.ts';
import type { PruneItem, PrunePlan, Skipped } from './prune-plan.ts';
import { recordOf } from './stored-image.ts';
import { unlessMissing } from './storage.ts';

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
 * Carries out a plan. What was pulled again, pinned or leased since it was made stays. Order: references, index rows,
 * unpacked layers, blobs; each file is renamed into `ingest` and deleted there, so that no name stands for half of a thing.
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
  return new Pruner(parts, plan, signal).run();
}

class Pruner {
  readonly #parts: VolumeParts;
  readonly #plan: PrunePlan;
  readonly #signal: AbortSignal | undefined;
  readonly #references: References;
  #reclaimed = 0;
  #inUse = 0;
  #pinned = 0;

  constructor(parts: VolumeParts, plan: PrunePlan, signal: AbortSignal | undefined) {
    this.#parts = parts;
    this.#plan = plan;
    this.#signal = signal;
    this.#references = new References(parts);
  }

  async run(): Promise<PruneResult> {
    const { items, space, skipped, policy } = this.#plan;
    const images = items.filter((item) => item.kind === 'image');
    const removed = policy.unpackedOnly === true ? images : await this.#dropReferences(images);
    await this.#takeLayers();
    await this.#takeBlobs();
    return {
      removed: items.filter((item) => item.kind !== 'image' || removed.includes(item)),
      reclaimedBytes: this.#reclaimed,
      skipped: {
        ...skipped,
        in_use: skipped.in_use + this.#inUse,
        pinned: skipped.pinned + this.#pinned,
      },
      space: await measureSpace(this.#parts.directory, space.used - this.#reclaimed),
    };
  }

  /** Takes images out of `index.json` and out of the index database. @returns those that went. */
  async #dropReferences(images: readonly ImageItem[]): Promise<ImageItem[]> {
    const doomed = new Map(
      (await this.#withoutThoseInUse(images)).map((item) => [keyOf(item), item] as const),
    );
    if (doomed.size === 0) return [];
    let gone: ImageItem[] = [];
    let pinned = 0;
    await this.#parts.layout.updateIndex((manifests) => {
      gone = [];
      pinned = 0;
      return manifests.filter((entry) => {
        const record = recordOf(entry, 0);
        const item = record === undefined ? undefined : doomed.get(keyOf(record));
        // What was pulled since is another image, or somebody wants it.
        if (item === undefined || item.digest !== entry.digest || item.pulledAt !== record?.pulledAt)
          return true;
        if (record.pinned) pinned += 1;
        else gone.push(item);
        return record.pinned;
      });
    });
    this.#pinned += pinned;
    await this.#parts.index.remove(gone);
    return gone;
  }

  async #withoutThoseInUse(images: readonly ImageItem[]): Promise<ImageItem[]> {
    const isLeased = await loadLeaseProbe();
    const free: ImageItem[] = [];
    for (const item of images) {
      if (isInUse(this.#parts, await this.#references.contentsOf(item.digest), isLeased)) this.#inUse += 1;
      else free.push(item);
    }
    return free;
  }

  async #takeLayers(): Promise<void> {
    const { layers } = this.#parts;
    const unpackedOnly = this.#plan.policy.unpackedOnly === true;
    for (const batch of batches(this.#plan.layers)) {
      this.#signal?.throwIfAborted();
      await this.#take(
        batch.map((diffID) => ({
          diffID,
          path: layers.path(diffID),
          bytes: layers.facts(diffID)?.bytes ?? 0,
        })),
        async () => {
          if (unpackedOnly) return () => false;
          const { layers: needed } = await this.#references.now();
          return ({ diffID }) => needed.has(diffID);
        },
      );
    }
  }

  async #takeBlobs(): Promise<void> {
    const { blobs } = this.#parts.layout;
    for (const batch of batches(this.#plan.blobs)) {
      this.#signal?.throwIfAborted();
      await this.#take(
        batch.map((digest) => ({
          digest,
          path: blobs.path(digest),
          bytes: fileFacts(blobs.path(digest))?.size ?? 0,
        })),
        async () => {
          const { blobs: needed } = await this.#references.now();
          return ({ digest }) => needed.has(digest);
        },
      );
    }
  }

  /**
   * Takes what nobody has leased and nothing refers to.
   *
   * Whoever enters a reference into `index.json` has leased what it refers to until that is written. So once a file is
   * locked exclusively here, nobody is about to refer to it, and what `index.json` says from then on about it is final.
   */
  async #take<Target extends { readonly path: string; readonly bytes: number }>(
    targets: readonly Target[],
    loadNeeded: () => Promise<(target: Target) => boolean>,
  ): Promise<void> {
    await using stack = new AsyncDisposableStack();
    const locked: { readonly target: Target; readonly lease: Lease }[] = [];
    for (const target of targets) {
      const lease = await Lease.tryAcquireExclusive(target.path);
      if (lease !== undefined) locked.push({ target, lease: stack.use(lease) });
      else if (fileFacts(target.path) !== undefined) this.#inUse += 1;
    }
    const isNeeded = await loadNeeded();
    const trash: string[] = [];
    for (const { target, lease } of locked) {
      const aside = join(this.#parts.layout.blobs.ingestDirectory, randomName('trash-'));
      if (isNeeded(target)) await lease[Symbol.asyncDispose]();
      else if (await renameIfThere(target.path, aside)) {
        this.#reclaimed += target.bytes;
        trash.push(aside);
      }
    }
    for (const path of trash) await removeTree(path);
  }
}

/** What `index.json` refers to now; counted again only when it has changed. */
class References {
  readonly #parts: VolumeParts;
  readonly #contents = new Map<Digest, Contents>();
  #counted:
    | { readonly entries: unknown; readonly blobs: ReadonlySet<Digest>; readonly layers: ReadonlySet<DiffID> }
    | undefined;

  constructor(parts: VolumeParts) {
    this.#parts = parts;
  }

  async now(): Promise<{ readonly blobs: ReadonlySet<Digest>; readonly layers: ReadonlySet<DiffID> }> {
    const { layout } = this.#parts;
    const entries = await layout.readSoundIndex();
    if (this.#counted?.entries === entries) return this.#counted;
    const blobs = new Set<Digest>();
    const layers = new Set<DiffID>();
    for (const entry of entries) {
      const contents = this.#contents.get(entry.digest) ?? (await readContents(layout, entry));
      this.#contents.set(entry.digest, contents);
      for (const { digest } of contents.blobs) blobs.add(digest);
      for (const diffID of contents.diffIDs) layers.add(diffID);
    }
    this.#counted = { entries, blobs, layers };
    return this.#counted;
  }

  async contentsOf(digest: Digest): Promise<Contents> {
    await this.now();
    return this.#contents.get(digest) ?? { blobs: [], diffIDs: [], known: false };
  }
}

async function renameIfThere(from: string, to: string): Promise<boolean> {
  return (await unlessMissing(rename(from, to).then(() => true))) ?? false;
}

function keyOf({ reference, platform }: ImageKey): string {
  return `${reference} ${platform}`;
}

function* batches<Item>(items: readonly Item[]): Generator<readonly Item[]> {
  for (let start = 0; start < items.length; start += batchSize) yield items.slice(start, start + batchSize);
}
