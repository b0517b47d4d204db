import { join as joinPath } from 'node:path';
import type PQueue from 'p-queue';
import type { Layer } from '../layer/index.ts';
import {
  type BlobStore,
  type DiffID,
  type Digest,
  type Image,
  type Platform,
  type Reference,
  formatReference,
} from '../oci/index.ts';
import type { RegistryClient } from '../registry/index.ts';
import {
  KilnError,
  type Progress,
  SingleFlight,
  type TemporaryDirectory,
  joinFlight,
} from '../support/index.ts';
import { acquireLayers } from './acquire-layers.ts';
import { IndexDatabase } from './index-db.ts';
import { LockedDirectory, cleanIngest } from './ingest.ts';
import { refreshIndex } from './take-inventory.ts';
import { LayerDirectory } from './layers.ts';
import { type LeasedSource, leaseSource } from './layer-source.ts';
import { acquireAll, type LayerLease, Lease } from './leases.ts';
import { type StoredImageDetails, type StoredImageSummary, describe, summarize } from './listing.ts';
import { OciLayout, platformKey } from './oci-layout.ts';
import type { VolumeParts } from './parts.ts';
import type { PrunePlan } from './prune-plan.ts';
import type { PrunePolicy } from './prune-policy.ts';
import type { PruneResult } from './prune.ts';
import type { PullOptions, PullResult, PullTarget } from './pull.ts';
import { ImageReferences } from './references.ts';
import { Reserve } from './reserve.ts';
import { ensureDirectory, explained } from './storage.ts';
import { type StoredImage, loadImage } from './stored-image.ts';
import { Unpacker } from './unpack.ts';
import { type VolumeUsage, measure } from './usage.ts';
import type { Damage, VerifyResult } from './verify.ts';
import { UseCounter } from './use-counter.ts';

export interface VolumeOptions {
  /** `read-write` creates what is missing; `read-only` never writes anything. */
  readonly access: 'read-write' | 'read-only';
  /** False for scratch space that need not survive a power failure. Default true. */
  readonly durable?: boolean;
  readonly progress?: Progress | undefined;
}

/** How many layers all pulls together work on at the same time; memory grows with both. */
export interface LayerLimits {
  readonly fetched: number;
  /** At most as many as there are processors. */
  readonly unpacked: number;
}

/** Layers that are fetched at the same time when nothing else is said. */
const defaultLayerLimit = 16;

/** The cache volume: images with their blobs, their layers unpacked, and who uses them (README.md). */
export class Volume implements AsyncDisposable {
  readonly directory: string;
  readonly writable: boolean;
  readonly #layout: OciLayout;
  readonly #layers: LayerDirectory;
  readonly #index: IndexDatabase;
  readonly #unpacker: Unpacker;
  readonly #pulls = new SingleFlight<string, PullResult>();
  #downloads: Promise<PQueue> | undefined;
  #layerLimit = defaultLayerLimit;
  readonly #references: ImageReferences;
  readonly #uses: UseCounter;
  /** Whether images came, so that the index database is to be brought up to date. */
  #grew = false;

  private constructor(layout: OciLayout, options: VolumeOptions) {
    const { directory } = layout;
    const { durable = true, progress } = options;
    this.directory = directory;
    this.writable = layout.writable;
    this.#layout = layout;
    this.#layers = new LayerDirectory({ directory, durable, progress });
    this.#unpacker = new Unpacker(layout.blobs, this.#layers);
    this.#index = new IndexDatabase({ directory, writable: this.writable, progress });
    this.#references = new ImageReferences(layout);
    this.#uses = new UseCounter(this.#index, progress);
  }

  /**
   * Opens the volume in `directory`.
   *
   * @throws EnvironmentError `E_VOLUME_NOT_FOUND` when it is opened for reading and is not there, `E_VOLUME_READ_ONLY`
   * when it is to be written and cannot, `E_VOLUME_OWNERS` when it is to be written and was unpacked with other ids.
   */
  static async open(directory: string, options: VolumeOptions): Promise<Volume> {
    if (options.access === 'read-write') (await import('./owners.ts')).checkOwners(directory);
    const layout = await OciLayout.open(directory, options);
    if (layout.writable)
      await explained(directory, async () => {
        await ensureDirectory(joinPath(directory, 'layers'));
        await cleanIngest(layout.blobs.ingestDirectory);
        const { markOwners } = await import('./owners.ts');
        markOwners(directory);
        if (options.durable !== false) await new Reserve(directory).keep();
      });
    return new Volume(layout, options);
  }

  get blobs(): BlobStore {
    return this.#layout.blobs;
  }

  /**
   * The image that a reference names, when it is on the volume with all its blobs. A digest finds the image by content,
   * under whatever reference it was pulled. Asks no registry and does not need the index database.
   */
  async find(
    reference: Reference,
    platform: Platform,
    signal?: AbortSignal,
  ): Promise<StoredImage | undefined> {
    for (const descriptor of await this.#references.candidates(reference, platform)) {
      signal?.throwIfAborted();
      const image = await loadImage(this.#layout, reference, descriptor);
      if (image === undefined) continue;
      this.#uses.own(image.layers, descriptor);
      return image;
    }
    return undefined;
  }

  /**
   * Brings an image onto the volume, or confirms that what is there is still what the tag names. A reference with a
   * digest whose blobs are all there asks nobody.
   *
   * @throws KilnError `E_MANIFEST_NOT_FOUND`, `E_PLATFORM_NOT_FOUND`, `E_REGISTRY_…`, `E_BLOB_CORRUPT`, and
   * EnvironmentError `E_NO_SPACE` before anything is fetched that cannot fit.
   */
  async pull(
    client: RegistryClient,
    reference: Reference,
    platform: Platform,
    options: PullOptions = {},
  ): Promise<PullResult> {
    // Loaded only here: a build on a warm volume needs no registry.
    const { pullImage, pullKey } = await import('./pull.ts');
    this.#downloads ??= import('p-queue').then(
      ({ default: Queue }) => new Queue({ concurrency: this.#layerLimit }),
    );
    const downloads = await this.#downloads;
    return explained(this.directory, () =>
      joinFlight(
        this.#pulls,
        pullKey(reference, platform, options),
        () => pullImage(this.#pullTarget(downloads), client, reference, platform, options),
        options.signal,
      ),
    );
  }

  /** Bounds how many layers are worked on at the same time, from now on. */
  async limitLayers({ fetched, unpacked }: LayerLimits): Promise<void> {
    this.#layerLimit = fetched;
    await this.#unpacker.limit(unpacked);
    if (this.#downloads !== undefined) (await this.#downloads).concurrency = fetched;
  }

  /** Whether a stored image is what a tag's digest names: that manifest, or the one chosen from that index. */
  isCurrent(image: StoredImage, target: Digest): Promise<boolean> {
    return this.#references.isCurrent(image, target);
  }

  /**
   * Enters an image whose layer blobs are on the volume already. `platform`: default that of its configuration.
   *
   * @throws KilnError `E_BLOB_NOT_FOUND` when a layer's blob is not there.
   */
  async addImage(reference: Reference, image: Image, platform: Platform = image.config): Promise<void> {
    await using layers = await this.acquireBlobs(image.manifest.layers.map(({ digest }) => digest));
    if (layers === undefined)
      throw new KilnError(`not all layers of ${formatReference(reference)} are on the volume`, {
        code: 'E_BLOB_NOT_FOUND',
        category: 'environment',
        where: this.directory,
      });
    await using _config = await this.#layout.blobs.putLeased(
      image.manifest.config.mediaType,
      image.configBytes,
    );
    await this.#commit(reference, platform, image, image.descriptor.digest);
  }

  /** Leases the unpacked trees of layers, each once; see {@link acquireLayers}. @throws EnvironmentError `E_VOLUME_OWNERS`. */
  async acquireLayers(layers: readonly Layer[], signal?: AbortSignal): Promise<LayerLease | undefined> {
    if (!this.writable) (await import('./owners.ts')).checkOwners(this.directory);
    const { directory, writable } = this;
    const countUses = (unique: readonly Layer[]): Promise<void> => this.#countUses(unique);
    const stock = { directory, writable, layers: this.#layers, unpacker: this.#unpacker, countUses };
    return acquireLayers(stock, layers, signal);
  }

  /**
   * Leases a layer as something that can be applied to a tree; undefined when it is not on the volume.
   *
   * @throws EnvironmentError `E_VOLUME_OWNERS`.
   */
  async acquireSource(layer: Layer): Promise<LeasedSource | undefined> {
    if (!this.writable) (await import('./owners.ts')).checkOwners(this.directory);
    return leaseSource(this.#layout.blobs, this.#layers, layer);
  }

  /** Leases blobs, so that no prune takes them while they are being pushed. @returns undefined when one is missing. */
  async acquireBlobs(digests: readonly Digest[]): Promise<AsyncDisposable | undefined> {
    return acquireAll(digests, (digest) => Lease.tryAcquire(this.#layout.blobs.path(digest)));
  }

  /** True when the layer is unpacked. */
  async hasLayer(diffID: DiffID): Promise<boolean> {
    return (await this.#layers.seal(diffID)) !== undefined;
  }

  /** All images. */
  images(): Promise<StoredImageSummary[]> {
    return summarize(this.#parts());
  }

  /** What lies on the volume. */
  usage(): Promise<VolumeUsage> {
    return measure(this.#parts());
  }

  /** The details of a reference in each of its platforms; empty when it is not there. */
  inspect(reference: Reference): Promise<StoredImageDetails[]> {
    return describe(this.#parts(), reference);
  }

  /** A directory on the file system of the volume, removed on disposal, or by another process after a crash. */
  scratch(prefix: string): Promise<TemporaryDirectory> {
    return explained(this.directory, () =>
      LockedDirectory.create(this.#layout.blobs.ingestDirectory, prefix),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#uses.flush();
    if (this.#grew) await refreshIndex(this.#parts());
    this.#index[Symbol.dispose]();
  }

  /**
   * What a prune by this policy would do, on a volume in use; changes nothing.
   *
   * @throws UsageError `E_PRUNE_POLICY_EMPTY`, `E_PRUNE_POLICY_INVALID`; EnvironmentError `E_INDEX_DAMAGED`.
   */
  async planPrune(policy: PrunePolicy, signal?: AbortSignal): Promise<PrunePlan> {
    const { planPrune } = await import('./prune-plan.ts');
    return planPrune(this.#parts(), policy, signal);
  }

  /**
   * Prunes: carries out a plan, or makes one and carries it out. What came into use since the plan stays.
   *
   * @throws EnvironmentError `E_VOLUME_LOCKED` while another prune runs, `E_VOLUME_READ_ONLY`, and as {@link planPrune}.
   */
  async prune(what: PrunePlan | PrunePolicy, signal?: AbortSignal): Promise<PruneResult> {
    this.#layout.requireWritable();
    const { executePrune } = await import('./prune.ts');
    return explained(this.directory, async () =>
      executePrune(this.#parts(), 'items' in what ? what : await this.planPrune(what, signal), signal),
    );
  }

  /**
   * Compares everything on the volume with what it should be.
   *
   * @param repair heals what is damaged, through this client; undefined: only looks.
   */
  async verify(
    options: {
      readonly repair?: RegistryClient | undefined;
      readonly onDamage?: (damage: Damage) => void;
      readonly signal?: AbortSignal;
    } = {},
  ): Promise<VerifyResult> {
    const { repair, ...rest } = options;
    if (repair !== undefined) this.#layout.requireWritable();
    const { verifyVolume } = await import('./verify.ts');
    // One that only looks drops nothing either.
    const layout =
      repair === undefined && this.writable
        ? await OciLayout.open(this.directory, { access: 'read-only' })
        : this.#layout;
    return explained(this.directory, () =>
      verifyVolume(
        { ...this.#parts(), layout },
        {
          ...rest,
          repair: repair === undefined ? undefined : { client: repair, unpacker: this.#unpacker },
        },
      ),
    );
  }

  /**
   * Pins an image so that prune leaves it alone, also after it was pulled anew; or unpins it.
   *
   * @param platform undefined: every platform of the reference.
   * @returns the platforms that are now as asked for.
   * @throws UsageError `E_IMAGE_NOT_WARM` when the reference is not on the volume.
   */
  async setPinned(
    reference: Reference,
    platform: Platform | undefined,
    pinned: boolean,
  ): Promise<readonly string[]> {
    this.#layout.requireWritable();
    const entries = await this.#references.setPinned(reference, platform, pinned);
    return entries.map((entry) => platformKey(entry.platform));
  }

  /**
   * Removes what killed processes left unfinished, and brings the index database up to date. Opening a volume for writing
   * and closing it do this too; a process that stays does it from time to time.
   */
  async clean(signal?: AbortSignal): Promise<void> {
    this.#layout.requireWritable();
    await explained(this.directory, async () => {
      await cleanIngest(this.#layout.blobs.ingestDirectory);
      await new Reserve(this.directory).keep();
      await refreshIndex(this.#parts(), signal);
      this.#grew = false;
    });
  }

  /**
   * Makes the index database anew from the files; uses stay as far as they can be read.
   *
   * @throws EnvironmentError `E_INDEX_NEWER` when it is a newer version's, `E_INDEX_UNUSABLE` when it cannot be written.
   */
  async reindex(signal?: AbortSignal): Promise<void> {
    this.#layout.requireWritable();
    await this.#index.renew((connection) => void connection.exec('DELETE FROM snapshot'));
    await refreshIndex(this.#parts(), signal);
  }

  /** Makes or mends the index database now, rather than with the first change. What is wrong with it is warned of. */
  prepareIndex(): Promise<void> {
    return this.#index.change(() => undefined);
  }

  /** True when the index database can be read. */
  async hasIndex(): Promise<boolean> {
    return (await this.#index.read(() => true)) === true;
  }

  /** Counts a use of an image by somebody who cannot write the volume. One that is not there is no error. */
  async markUsed(reference: Reference, platform: Platform): Promise<void> {
    const image = await this.find(reference, platform);
    if (image !== undefined) await this.#countUses(image.layers);
  }

  #parts(): VolumeParts {
    return { directory: this.directory, layout: this.#layout, layers: this.#layers, index: this.#index };
  }

  #pullTarget(downloads: PQueue): PullTarget {
    return {
      ...this.#parts(),
      downloads,
      unpacker: this.#unpacker,
      find: (reference, platform) => this.find(reference, platform),
      isTarget: (image, target) => this.isCurrent(image, target),
      markChecked: (image, platform) => this.#references.markChecked(image, platform),
      commit: (reference, platform, image, target) => this.#commit(reference, platform, image, target),
    };
  }

  async #countUses(layers: readonly Layer[]): Promise<void> {
    if (!this.writable) return;
    this.#uses.count(layers);
    await Promise.all(layers.map(({ diffID }) => this.#layers.markUsed(diffID)));
  }

  async #commit(
    reference: Reference,
    platform: Platform,
    image: Image,
    target: Digest,
  ): Promise<StoredImage> {
    const { image: stored, descriptor } = await this.#references.commit(reference, platform, image, target);
    this.#uses.own(stored.layers, descriptor);
    this.#grew = true;
    return stored;
  }
}
