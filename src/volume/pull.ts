import { statfs } from 'node:fs/promises';
import type PQueue from 'p-queue';
import type { Layer } from '../layer/index.ts';
import { type ImageSource, type RegistryClient, fetchImage } from '../registry/index.ts';
import {
  type Descriptor,
  type Digest,
  type Image,
  type Platform,
  type Reference,
  formatPlatform,
  formatReference,
  referenceTarget,
} from '../oci/index.ts';
import { EnvironmentError, KilnError, systemErrorCode } from '../support/index.ts';
import { downloadBlob } from './download.ts';
import type { VolumeParts } from './parts.ts';
import { type StoredImage, layersOf, requireDiffIDs, servesPlatform } from './stored-image.ts';
import { Lease, LeaseSet } from './leases.ts';
import type { Unpacker } from './unpack.ts';

export interface PullOptions {
  /** Unpack the layers as they arrive. Default true. */
  readonly unpack?: boolean;
  /** Ask the registry whether the tag still names what is stored. Default true; never asked for a digest. */
  readonly refresh?: boolean;
  /** Layers of a pull with a higher one are fetched before those of others that wait. Default 0. */
  readonly priority?: number;
  readonly signal?: AbortSignal;
  // Who joins a pull that another caller began is told nothing by the following.
  /** Called once it is known what is fetched; not for what is there. */
  readonly onImage?: (image: Image) => void;
  /** Called as layers arrive, with the bytes of them that are there and of all that were missing. */
  readonly onProgress?: (bytes: number, total: number) => void;
  /**
   * Called before anything is written, with about how many bytes will be. It may make room or wait its turn, and what it
   * throws is what the pull throws.
   */
  readonly makeRoom?: (needed: number) => Promise<void>;
}

export interface PullResult {
  readonly image: StoredImage;
  /** `fresh`: the image was there and is what the reference names. */
  readonly outcome: 'fresh' | 'pulled';
  /** Bytes of layers that came from the registry. */
  readonly bytes: number;
}

/** What a pull needs of the volume. */
export interface PullTarget extends VolumeParts {
  readonly unpacker: Unpacker;
  /** Bounds how many layers are fetched at the same time, whatever images they belong to. */
  readonly downloads: PQueue;
  find(reference: Reference, platform: Platform): Promise<StoredImage | undefined>;
  /** True when the stored image is what `target` names: that manifest, or one chosen from that index. */
  isTarget(image: StoredImage, target: Digest): Promise<boolean>;
  /** @returns undefined when the image was pruned meanwhile. */
  markChecked(image: StoredImage, platform: Platform): Promise<StoredImage | undefined>;
  commit(reference: Reference, platform: Platform, image: Image, target: Digest): Promise<StoredImage>;
}

/**
 * Brings an image onto the volume. Order of writes: layer blobs (each unpacked as it arrives), configuration, manifest,
 * `index.json`, index database; so whatever is interrupted, nothing refers to what is not there. Each blob is leased from
 * when it is there until `index.json` refers to it, so that no prune takes it in between.
 */
export async function pullImage(
  target: PullTarget,
  client: RegistryClient,
  reference: Reference,
  platform: Platform,
  options: PullOptions,
): Promise<PullResult> {
  const { unpack = true, refresh = true, signal } = options;
  const stored = await target.find(reference, platform);
  if (stored !== undefined && (reference.digest !== undefined || !refresh)) {
    if (!(await isNamed(target, stored, platform)))
      return nameStored(target, client, stored, platform, options);
    if (unpack) await unpackStored(target, client, stored, options);
    return { image: stored, outcome: 'fresh', bytes: 0 };
  }
  const digest = reference.digest ?? (await resolve(client, reference, signal));
  if (stored !== undefined && (await target.isTarget(stored, digest))) {
    if (unpack) await unpackStored(target, client, stored, options);
    const image = await target.markChecked(stored, platform);
    if (image !== undefined) return { image, outcome: 'fresh', bytes: 0 };
  }
  // By digest, so that a tag that moves meanwhile cannot mix two images.
  const image = await fetchImage(client, { ...reference, digest }, platform, signal);
  if (image === undefined) throw notFound(reference);
  requireDiffIDs(image, formatReference(reference));
  options.onImage?.(image);
  await using transfer = new Transfer(target, client.source(reference), options);
  await transfer.run(layersOf(target.layout, image), image.manifest.layers, unpack);
  const { mediaType } = image.manifest.config;
  await using _config = await target.layout.blobs.putLeased(mediaType, image.configBytes);
  const committed = await target.commit(reference, platform, image, digest);
  return { image: committed, outcome: 'pulled', bytes: transfer.fetched };
}

async function resolve(client: RegistryClient, reference: Reference, signal?: AbortSignal): Promise<Digest> {
  const head = await client.source(reference).headManifest(referenceTarget(reference), signal);
  if (head === undefined) throw notFound(reference);
  return head.digest;
}

function notFound(reference: Reference): KilnError {
  return new KilnError(`${formatReference(reference)} does not exist`, {
    code: 'E_MANIFEST_NOT_FOUND',
    category: 'registry',
    where: formatReference(reference),
    remedy: 'Check the spelling, and that this registry has the image.',
  });
}

/** True when `index.json` has the image under the reference that it was asked for by, not only under another one. */
async function isNamed(target: PullTarget, image: StoredImage, platform: Platform): Promise<boolean> {
  const named = await target.layout.descriptorsNamed(formatReference(image.reference));
  return named.some((entry) => entry.digest === image.descriptor.digest && servesPlatform(entry, platform));
}

/** Enters an image that is there under another reference, so that it stays when that one moves on or is removed. */
async function nameStored(
  target: PullTarget,
  client: RegistryClient,
  stored: StoredImage,
  platform: Platform,
  options: PullOptions,
): Promise<PullResult> {
  const { reference, manifest, configBytes, descriptor } = stored;
  await using transfer = new Transfer(target, client.source(reference), options);
  await transfer.run(stored.layers, manifest.layers, options.unpack ?? true);
  await using _config = await target.layout.blobs.putLeased(manifest.config.mediaType, configBytes);
  const image = await target.commit(reference, platform, stored, reference.digest ?? descriptor.digest);
  return { image, outcome: 'fresh', bytes: transfer.fetched };
}

/** Unpacks what is on the volume; a blob that turns out to be damaged is fetched again. */
async function unpackStored(
  target: PullTarget,
  client: RegistryClient,
  image: StoredImage,
  options: PullOptions,
): Promise<void> {
  await using transfer = new Transfer(target, client.source(image.reference), options);
  await transfer.run(image.layers, image.manifest.layers, true);
}

/** The layers of one pull on their way: fetched, leased so that no prune takes them before they are referred to, unpacked. */
class Transfer implements AsyncDisposable {
  fetched = 0;
  readonly #target: PullTarget;
  readonly #source: ImageSource;
  readonly #leases = new LeaseSet();
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #options: PullOptions;
  /** Bytes that have arrived of each layer that was missing. */
  readonly #arrived = new Map<Digest, number>();
  #total = 0;

  constructor(target: PullTarget, source: ImageSource, options: PullOptions) {
    this.#target = target;
    this.#source = source;
    this.#options = options;
    const { signal } = options;
    this.#signal = signal === undefined ? this.#stop.signal : AbortSignal.any([signal, this.#stop.signal]);
  }

  /** All layers at once; the first failure stops the others, and is what is thrown. */
  async run(layers: readonly Layer[], descriptors: readonly Descriptor[], unpack: boolean): Promise<void> {
    await this.#prepare(layers, unpack);
    let failure: { readonly error: unknown } | undefined;
    const work = layers.map(async (layer, position) => {
      try {
        await this.#layer(layer, descriptors[position] as Descriptor, unpack);
      } catch (error) {
        failure ??= { error };
        this.#stop.abort();
      }
    });
    await Promise.all(work);
    if (failure !== undefined) throw failure.error;
  }

  async #prepare(layers: readonly Layer[], unpack: boolean): Promise<void> {
    const { directory } = this.#target;
    const { missing, needed } = await workAhead(this.#target, layers, unpack);
    for (const { digest, size } of missing) {
      this.#arrived.set(digest, 0);
      this.#total += size;
    }
    if (needed === 0) return;
    await this.#options.makeRoom?.(needed);
    await requireSpace(directory, needed);
    this.#tell();
  }

  #tell(): void {
    if (this.#total === 0) return;
    let bytes = 0;
    for (const arrived of this.#arrived.values()) bytes += arrived;
    this.#options.onProgress?.(bytes, this.#total);
  }

  async #layer(layer: Layer, descriptor: Descriptor, unpack: boolean): Promise<void> {
    await this.#blob(descriptor);
    if (!unpack) return;
    try {
      await this.#target.unpacker.ensure(layer, this.#signal);
    } catch (error) {
      // It was damaged on the disk, and has been dropped. A layer that is what its digest says does not get better.
      if (systemErrorCode(error) !== 'E_BLOB_CORRUPT') throw error;
      await this.#blob(descriptor);
      await this.#target.unpacker.ensure(layer, this.#signal);
    }
    const lease = await this.#target.layers.lease(layer.diffID);
    if (lease !== undefined) this.#leases.add(lease);
  }

  /** Makes sure that a blob is there and stays. */
  async #blob(descriptor: Descriptor): Promise<void> {
    const { blobs } = this.#target.layout;
    for (;;) {
      const lease = await Lease.tryAcquire(blobs.path(descriptor.digest));
      if (lease !== undefined) this.#leases.add(lease);
      if (lease !== undefined && (await blobs.has(descriptor))) return;
      const bytes = await this.#download(descriptor);
      this.fetched += bytes;
      this.#count(descriptor, descriptor.size);
    }
  }

  /** Waits for one of the places that all pulls share. */
  async #download(descriptor: Descriptor): Promise<number> {
    const { downloads, layout } = this.#target;
    let running: Promise<number> | undefined;
    const start = (): Promise<number> => {
      running = downloadBlob(
        layout.blobs,
        descriptor,
        (offset, signal) => this.#open(descriptor, offset, signal),
        this.#signal,
      );
      return running;
    };
    try {
      return await downloads.add(start, { priority: this.#options.priority ?? 0, signal: this.#signal });
    } finally {
      // The queue lets go as soon as the signal fires; the files and locks of the download are in use until it ends.
      await running?.catch(() => undefined);
    }
  }

  async #open(
    descriptor: Descriptor,
    offset: number,
    signal: AbortSignal | undefined,
  ): Promise<AsyncIterable<Uint8Array>> {
    const content = await this.#source.openBlob(descriptor, signal, offset);
    return this.#counted(content, descriptor, offset);
  }

  async *#counted(
    content: AsyncIterable<Uint8Array>,
    descriptor: Descriptor,
    offset: number,
  ): AsyncGenerator<Uint8Array> {
    let position = offset;
    for await (const chunk of content) {
      position += chunk.byteLength;
      this.#count(descriptor, position);
      yield chunk;
    }
  }

  #count({ digest }: Descriptor, bytes: number): void {
    this.#arrived.set(digest, bytes);
    this.#tell();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#leases[Symbol.asyncDispose]();
  }
}

/** Compressed layers grow about this much; only to refuse early what cannot fit. */
const expectedExpansion = 2;

/** What of an image is not there yet: its blobs, and about how many bytes will be written. */
async function workAhead(
  target: PullTarget,
  layers: readonly Layer[],
  unpack: boolean,
): Promise<{ missing: Layer[]; needed: number }> {
  const missing = new Map<Digest, Layer>();
  let needed = 0;
  for (const layer of new Set(layers)) {
    if (!(await target.layout.blobs.has(layer)) && !missing.has(layer.digest)) {
      missing.set(layer.digest, layer);
      needed += layer.size;
    }
    if (unpack && !(await target.layers.serves(layer.diffID))) needed += layer.size * expectedExpansion;
  }
  return { missing: [...missing.values()], needed };
}

/** Refuses before anything is written, rather than filling the node. */
async function requireSpace(directory: string, needed: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize >= needed) return;
  throw new EnvironmentError(
    `the image needs about ${mebibytes(needed)} MiB, the volume has ${mebibytes(bavail * bsize)} MiB free`,
    {
      code: 'E_NO_SPACE',
      where: directory,
      remedy: 'Prune the volume or give it more space.',
    },
  );
}

function mebibytes(bytes: number): number {
  return Math.ceil(bytes / 1024 ** 2);
}

/** One pull of the same image at a time in a process. */
export function pullKey(reference: Reference, platform: Platform, options: PullOptions): string {
  const { unpack = true, refresh = true } = options;
  return [formatReference(reference), formatPlatform(platform), unpack, refresh].join(' ');
}
