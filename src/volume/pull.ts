import { statfs } from 'node:fs/promises';
import type { Layer } from '../layer/index.ts';
import { type RegistryClient, type Repository, fetchImage } from '../registry/index.ts';
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
import { type StoredImage, type VolumeParts, layersOf, requireDiffIDs } from './images.ts';
import { Lease, LeaseSet } from './leases.ts';
import type { Unpacker } from './unpack.ts';

export interface PullOptions {
  /** Unpack the layers as they arrive. Default true. */
  readonly unpack?: boolean;
  /** Ask the registry whether the tag still names what is stored. Default true; never asked for a digest. */
  readonly refresh?: boolean;
  readonly signal?: AbortSignal;
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
  find(reference: Reference, platform: Platform): Promise<StoredImage | undefined>;
  /** True when the stored image is what `target` names: that manifest, or one chosen from that index. */
  isTarget(image: StoredImage, target: Digest): Promise<boolean>;
  markChecked(image: StoredImage, platform: Platform): Promise<StoredImage>;
  commit(reference: Reference, platform: Platform, image: Image, target: Digest): Promise<StoredImage>;
}

/**
 * Brings an image onto the volume. Order of writes: layer blobs (each unpacked as it arrives), configuration, manifest,
 * `index.json`, index database; so whatever is interrupted, nothing refers to what is not there.
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
    if (unpack) await unpackStored(target, client, stored, signal);
    return { image: stored, outcome: 'fresh', bytes: 0 };
  }
  const digest = reference.digest ?? (await resolve(client, reference, signal));
  if (stored !== undefined && (await target.isTarget(stored, digest))) {
    if (unpack) await unpackStored(target, client, stored, signal);
    return { image: await target.markChecked(stored, platform), outcome: 'fresh', bytes: 0 };
  }
  // By digest, so that a tag that moves meanwhile cannot mix two images.
  const image = await fetchImage(client, { ...reference, digest }, platform, signal);
  if (image === undefined) throw notFound(reference);
  requireDiffIDs(image, formatReference(reference));
  await using transfer = new Transfer(target, client.repository(reference), signal);
  await transfer.run(layersOf(target.layout, image), image.manifest.layers, unpack);
  await target.layout.blobs.put(image.manifest.config.mediaType, image.configBytes);
  const committed = await target.commit(reference, platform, image, digest);
  return { image: committed, outcome: 'pulled', bytes: transfer.fetched };
}

async function resolve(client: RegistryClient, reference: Reference, signal?: AbortSignal): Promise<Digest> {
  const head = await client.repository(reference).headManifest(referenceTarget(reference), signal);
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

/** Unpacks what is on the volume; a blob that turns out to be damaged is fetched again. */
async function unpackStored(
  target: PullTarget,
  client: RegistryClient,
  image: StoredImage,
  signal: AbortSignal | undefined,
): Promise<void> {
  await using transfer = new Transfer(target, client.repository(image.reference), signal);
  await transfer.run(image.layers, image.manifest.layers, true);
}

/** The layers of one pull on their way: fetched, leased so that no prune takes them before they are referred to, unpacked. */
class Transfer implements AsyncDisposable {
  fetched = 0;
  readonly #target: PullTarget;
  readonly #repository: Repository;
  readonly #leases = new LeaseSet();
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;

  constructor(target: PullTarget, repository: Repository, signal: AbortSignal | undefined) {
    this.#target = target;
    this.#repository = repository;
    this.#signal = signal === undefined ? this.#stop.signal : AbortSignal.any([signal, this.#stop.signal]);
  }

  /** All layers at once; the first failure stops the others, and is what is thrown. */
  async run(layers: readonly Layer[], descriptors: readonly Descriptor[], unpack: boolean): Promise<void> {
    await requireSpace(this.#target, layers, unpack);
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

  async #layer(layer: Layer, descriptor: Descriptor, unpack: boolean): Promise<void> {
    const bytes = await this.#blob(descriptor);
    if (!unpack) return;
    try {
      await this.#target.unpacker.ensure(layer, this.#signal);
    } catch (error) {
      // What has just been fetched and verified does not get better by fetching it again.
      if (bytes > 0 || systemErrorCode(error) !== 'E_BLOB_CORRUPT') throw error;
      await this.#blob(descriptor);
      await this.#target.unpacker.ensure(layer, this.#signal);
    }
    const lease = await this.#target.layers.lease(layer.diffID);
    if (lease !== undefined) this.#leases.add(lease);
  }

  /** Makes sure that a blob is there and stays. @returns bytes that were fetched for it. */
  async #blob(descriptor: Descriptor): Promise<number> {
    const { blobs } = this.#target.layout;
    let fetched = 0;
    for (;;) {
      const lease = await Lease.tryAcquire(blobs.path(descriptor.digest));
      if (lease !== undefined) this.#leases.add(lease);
      if (lease !== undefined && (await blobs.has(descriptor))) return fetched;
      const source = (offset: number, signal: AbortSignal | undefined): ReturnType<Repository['openBlob']> =>
        this.#repository.openBlob(descriptor, signal, offset);
      const bytes = await downloadBlob(blobs, descriptor, source, this.#signal);
      fetched += bytes;
      this.fetched += bytes;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#leases[Symbol.asyncDispose]();
  }
}

/** Compressed layers grow about this much; only to refuse early what cannot fit. */
const expectedExpansion = 2;

/** Refuses before anything is written, rather than filling the node. */
async function requireSpace(target: PullTarget, layers: readonly Layer[], unpack: boolean): Promise<void> {
  let needed = 0;
  for (const layer of layers) {
    if (!(await target.layout.blobs.has(layer))) needed += layer.size;
    if (unpack && !(await target.layers.serves(layer.diffID))) needed += layer.size * expectedExpansion;
  }
  if (needed === 0) return;
  const { bavail, bsize } = await statfs(target.directory);
  if (bavail * bsize >= needed) return;
  throw new EnvironmentError(
    `the image needs about ${mebibytes(needed)} MiB, the volume has ${mebibytes(bavail * bsize)} MiB free`,
    {
      code: 'E_NO_SPACE',
      where: target.directory,
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
