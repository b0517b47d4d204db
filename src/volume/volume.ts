import { join as joinPath } from 'node:path';
import type { Layer } from '../layer/index.ts';
import {
  type BlobStore,
  type Descriptor,
  type DiffID,
  type Digest,
  type Image,
  type Platform,
  type Reference,
  formatReference,
  normalizePlatform,
} from '../oci/index.ts';
import type { RegistryClient } from '../registry/index.ts';
import { type Progress, SingleFlight, type TemporaryDirectory, messageOf } from '../support/index.ts';
import { join } from './flight.ts';
import {
  type StoredImage,
  type StoredImageDetails,
  type StoredImageSummary,
  type VolumeParts,
  type VolumeUsage,
  annotations,
  describe,
  imageSize,
  layersOf,
  loadImage,
  measure,
  recordOf,
  servesPlatform,
  summarize,
} from './images.ts';
import { IndexDatabase, type ImageKey, type ImageRecord } from './index-db.ts';
import { LockedDirectory, cleanIngest } from './ingest.ts';
import { LayerDirectory } from './layers.ts';
import { type LeasedSource, leaseSource } from './layer-source.ts';
import { type LayerLease, Lease, LeaseSet } from './leases.ts';
import { OciLayout, platformKey, refNameAnnotation, sameEntry } from './oci-layout.ts';
import type { PullOptions, PullResult, PullTarget } from './pull.ts';
import { ensureDirectory, explained } from './storage.ts';
import { Unpacker } from './unpack.ts';

export interface VolumeOptions {
  /** `read-write` creates what is missing; `read-only` never writes anything. */
  readonly access: 'read-write' | 'read-only';
  /** False for scratch space that need not survive a power failure. Default true. */
  readonly durable?: boolean;
  readonly progress?: Progress | undefined;
}

/** The cache volume: images with their blobs, their layers unpacked, and who uses them (README.md). */
export class Volume implements AsyncDisposable {
  readonly directory: string;
  readonly writable: boolean;
  readonly #layout: OciLayout;
  readonly #layers: LayerDirectory;
  readonly #index: IndexDatabase;
  readonly #unpacker: Unpacker;
  readonly #progress: Progress | undefined;
  readonly #pulls = new SingleFlight<string, PullResult>();
  /** Which image a layer handed out by `find` belongs to, to count its uses. */
  readonly #owners = new WeakMap<Layer, ImageKey>();
  readonly #uses = new Map<string, ImageKey>();

  private constructor(layout: OciLayout, options: VolumeOptions) {
    const { directory } = layout;
    const { durable = true, progress } = options;
    this.directory = directory;
    this.writable = layout.writable;
    this.#layout = layout;
    this.#progress = progress;
    this.#layers = new LayerDirectory({ directory, durable });
    this.#unpacker = new Unpacker(layout.blobs, this.#layers);
    const records = (): Promise<ImageRecord[]> => this.#records();
    this.#index = new IndexDatabase({ directory, writable: this.writable, progress, records });
  }

  /**
   * Opens the volume in `directory`.
   *
   * @throws EnvironmentError `E_VOLUME_NOT_FOUND` when it is opened for reading and is not there, `E_VOLUME_READ_ONLY`
   * when it is to be written and cannot.
   */
  static async open(directory: string, options: VolumeOptions): Promise<Volume> {
    const layout = await OciLayout.open(directory, options);
    if (layout.writable)
      await explained(directory, async () => {
        await ensureDirectory(joinPath(directory, 'layers'));
        await cleanIngest(layout.blobs.ingestDirectory);
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
    for (const descriptor of await this.#candidates(reference, platform)) {
      signal?.throwIfAborted();
      const image = await loadImage(this.#layout, reference, descriptor);
      if (image === undefined) continue;
      this.#own(image, descriptor);
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
    return explained(this.directory, () =>
      join(
        this.#pulls,
        pullKey(reference, platform, options),
        () => pullImage(this.#pullTarget(), client, reference, platform, options),
        options.signal,
      ),
    );
  }

  /** Whether a stored image is what a tag's digest names: that manifest, or the one chosen from that index. */
  async isCurrent(image: StoredImage, target: Digest): Promise<boolean> {
    if (image.descriptor.digest === target) return true;
    const named = await this.#layout.descriptorsNamed(formatReference(image.reference));
    return named.some(
      (entry) =>
        entry.digest === image.descriptor.digest && entry.annotations?.[annotations.target] === target,
    );
  }

  /** Enters an image whose layer blobs are on the volume already. `platform`: default that of its configuration. */
  async addImage(reference: Reference, image: Image, platform: Platform = image.config): Promise<void> {
    await this.#layout.blobs.put(image.manifest.config.mediaType, image.configBytes);
    await this.#commit(reference, platform, image, image.descriptor.digest);
  }

  /**
   * Leases the unpacked trees of layers, unpacking what is missing when the volume is writable. A layer that occurs
   * twice is given once, at its highest place: that gives the same tree, and overlayfs refuses a directory twice.
   *
   * @returns undefined when the volume is read-only and a layer is not unpacked.
   */
  async acquireLayers(layers: readonly Layer[], signal?: AbortSignal): Promise<LayerLease | undefined> {
    const unique = layers.filter(
      (layer, position) => layers.findLastIndex(({ diffID }) => diffID === layer.diffID) === position,
    );
    const leases = new LeaseSet();
    const acquired = await Promise.allSettled(unique.map((layer) => this.#lease(layer, leases, signal)));
    const failed = acquired.find((result) => result.status === 'rejected');
    const complete = acquired.every((result) => result.status === 'fulfilled' && result.value);
    if (failed !== undefined || !complete) {
      await leases[Symbol.asyncDispose]();
      if (failed !== undefined) throw failed.reason;
      return undefined;
    }
    this.#countUses(layers);
    return {
      paths: unique.map(({ diffID }) => this.#layers.tree(diffID)),
      [Symbol.asyncDispose]: () => leases[Symbol.asyncDispose](),
    };
  }

  /** Leases a layer as something that can be applied to a tree; undefined when it is not on the volume. */
  acquireSource(layer: Layer): Promise<LeasedSource | undefined> {
    return leaseSource(this.#layout.blobs, this.#layers, layer);
  }

  /** Leases blobs, so that no prune takes them while they are being pushed. @returns undefined when one is missing. */
  async acquireBlobs(digests: readonly Digest[]): Promise<AsyncDisposable | undefined> {
    const leases = new LeaseSet();
    const acquired = await Promise.all(
      digests.map(async (digest) => {
        const lease = await Lease.tryAcquire(this.#layout.blobs.path(digest));
        if (lease !== undefined) leases.add(lease);
        return lease !== undefined;
      }),
    );
    if (!acquired.includes(false)) return leases;
    await leases[Symbol.asyncDispose]();
    return undefined;
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
    await this.#flushUses();
    this.#index[Symbol.dispose]();
  }

  #parts(): VolumeParts {
    return { directory: this.directory, layout: this.#layout, layers: this.#layers, index: this.#index };
  }

  #pullTarget(): PullTarget {
    return {
      ...this.#parts(),
      unpacker: this.#unpacker,
      find: (reference, platform) => this.find(reference, platform),
      isTarget: (image, target) => this.isCurrent(image, target),
      markChecked: (image, platform) => this.#markChecked(image, platform),
      commit: (reference, platform, image, target) => this.#commit(reference, platform, image, target),
    };
  }

  async #candidates(reference: Reference, platform: Platform): Promise<Descriptor[]> {
    const { digest } = reference;
    const named =
      digest === undefined
        ? await this.#layout.descriptorsNamed(formatReference(reference))
        : (await this.#layout.readIndex()).filter(
            (entry) => entry.digest === digest || entry.annotations?.[annotations.target] === digest,
          );
    return named.filter((descriptor) => servesPlatform(descriptor, platform));
  }

  async #markChecked(image: StoredImage, platform: Platform): Promise<StoredImage> {
    const checkedAt = new Date();
    const name = formatReference(image.reference);
    let records: ImageRecord[] = [];
    await this.#layout.updateIndex((manifests) => {
      const marked = manifests.map((entry) =>
        entry.annotations?.[refNameAnnotation] === name &&
        entry.digest === image.descriptor.digest &&
        servesPlatform(entry, platform)
          ? {
              ...entry,
              annotations: { ...entry.annotations, [annotations.checkedAt]: checkedAt.toISOString() },
            }
          : entry,
      );
      const changed = marked.filter((entry, position) => entry !== manifests[position]);
      records = changed.flatMap((entry) => recordOf(entry, imageSize(image)) ?? []);
      return marked;
    });
    await this.#index.put(records);
    return { ...image, checkedAt };
  }

  async #commit(
    reference: Reference,
    platform: Platform,
    image: Image,
    target: Digest,
  ): Promise<StoredImage> {
    const now = new Date().toISOString();
    const name = formatReference(reference);
    const entry = { name, platform: platformOf(platform) };
    const before = (await this.#layout.readIndex()).find((other) =>
      sameEntry(other, {
        ...image.descriptor,
        platform: entry.platform,
        annotations: { [refNameAnnotation]: name },
      }),
    );
    const pinned = before?.annotations?.[annotations.pinned];
    const descriptor = await this.#layout.putManifest(image.descriptor.mediaType, image.manifestBytes, {
      ...entry,
      annotations: {
        [annotations.pulledAt]: now,
        [annotations.checkedAt]: now,
        [annotations.target]: target,
        ...(pinned === undefined ? {} : { [annotations.pinned]: pinned }),
      },
    });
    const record = recordOf(descriptor, imageSize(image));
    if (record !== undefined) await this.#index.put([record]);
    const stored: StoredImage = {
      ...image,
      descriptor: { ...image.descriptor, platform: entry.platform },
      reference,
      layers: layersOf(this.#layout, image),
      pulledAt: new Date(now),
      checkedAt: new Date(now),
    };
    this.#own(stored, descriptor);
    return stored;
  }

  /** Leases one layer into `leases`; false when it is not there and cannot be made. */
  async #lease(layer: Layer, leases: LeaseSet, signal: AbortSignal | undefined): Promise<boolean> {
    for (;;) {
      signal?.throwIfAborted();
      const lease = await this.#layers.lease(layer.diffID);
      if (lease !== undefined) {
        leases.add(lease);
        return true;
      }
      if (!this.writable) return false;
      await explained(this.directory, () => this.#unpacker.ensure(layer, signal));
    }
  }

  #own(image: StoredImage, descriptor: Descriptor): void {
    const reference = descriptor.annotations?.[refNameAnnotation];
    if (reference === undefined) return;
    for (const layer of image.layers)
      this.#owners.set(layer, { reference, platform: platformKey(descriptor.platform) });
  }

  /** Uses are written when the volume is closed: a build must not wait for the database before its first step. */
  #countUses(layers: readonly Layer[]): void {
    if (!this.writable) return;
    for (const layer of layers) {
      const owner = this.#owners.get(layer);
      if (owner !== undefined) this.#uses.set(`${owner.reference} ${owner.platform}`, owner);
    }
    // A process that stays, such as the warmer, has them written after a while.
    if (this.#uses.size > 0) setTimeout(() => this.#flushInBackground(), 5000).unref();
  }

  #flushInBackground(): void {
    this.#flushUses().catch((error: unknown) =>
      this.#progress?.warn(`uses of the volume were not counted: ${messageOf(error)}`),
    );
  }

  async #flushUses(): Promise<void> {
    if (this.#uses.size === 0) return;
    const keys = [...this.#uses.values()];
    this.#uses.clear();
    await this.#index.recordUses(keys, Date.now());
  }

  async #records(): Promise<ImageRecord[]> {
    return (await this.#layout.readIndex()).flatMap((descriptor) => recordOf(descriptor, 0) ?? []);
  }
}

/** A platform without whatever else the object has, such as an image configuration. */
function platformOf(platform: Platform): Platform {
  return normalizePlatform(platform);
}
