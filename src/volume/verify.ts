import { readdir } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import PQueue from 'p-queue';
import { unpackedTreeDigest } from '../layer/index.ts';
import { type Descriptor, type DiffID, type Digest, type Image } from '../oci/index.ts';
import type { RegistryClient } from '../registry/index.ts';
import { messageOf } from '../support/index.ts';
import { FileLock } from './file-lock.ts';
import { Lease } from './leases.ts';
import { type Listed, listImages, loadListed } from './listed.ts';
import type { VolumeParts } from './parts.ts';
import { Repairs } from './repairs.ts';
import { unlessMissing } from './storage.ts';
import type { Unpacker } from './unpack.ts';

/** Something on the volume that is not what it should be. */
export interface Damage {
  readonly kind: 'blob' | 'layer';
  /** Of the blob, or the DiffID of the unpacked layer. */
  readonly digest: Digest;
  /** `altered`: there, with other content; `missing`: an image needs it and it is not there. */
  readonly problem: 'altered' | 'missing';
  /** The images that need it, as `ls` names them. */
  readonly images: readonly string[];
  /**
   * `found`: nothing was done about it; `repaired`; `removed`: nothing needs it and it cannot be had again; `in_use`: a build
   * has it mounted (or another verification reads it), so it was left alone; `failed`: it could not be repaired.
   */
  outcome: 'found' | 'repaired' | 'removed' | 'in_use' | 'failed';
  /** Why it could not be repaired. */
  message?: string;
}

export interface VerifyResult {
  readonly images: number;
  readonly blobs: number;
  readonly layers: number;
  /** Layers sealed by an older version, which cannot be checked. */
  readonly unchecked: number;
  readonly damages: readonly Damage[];
}

export interface VerifyOptions {
  /** Heals what is damaged from the registries that the images came from; undefined: only looks. */
  readonly repair?: { readonly client: RegistryClient; readonly unpacker: Unpacker } | undefined;
  /** Told of each damage once it is known what came of it. */
  readonly onDamage?: (damage: Damage) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Reads everything on a volume that is in use, and compares it with what it should be: blobs with their digests, unpacked
 * layers with the digest in their seal, images with what they need.
 *
 * What is read is leased meanwhile, so no prune takes it away; a blob appears under its name only when it is complete, so
 * nothing half written is taken for damaged. What is not there is missing only if an image needs it still. Of those that
 * repair, one works and the others wait.
 */
export async function verifyVolume(parts: VolumeParts, options: VerifyOptions): Promise<VerifyResult> {
  const verification = new Verification(parts, options);
  if (options.repair === undefined) return verification.run();
  // Two that repair would keep each other from it, as what is read is leased.
  const path = join(parts.layout.blobs.ingestDirectory, 'repair.lock');
  await using _lock = await FileLock.acquire(path, options.signal);
  return await verification.run();
}

class Verification {
  readonly #parts: VolumeParts;
  readonly #options: VerifyOptions;
  readonly #queue = new PQueue({ concurrency: availableParallelism() });
  readonly #damages = new Map<string, Damage>();
  /** What layers were when they were found to be altered. */
  readonly #identities = new Map<Digest, string | undefined>();
  #unchecked = 0;

  constructor(parts: VolumeParts, options: VerifyOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  async run(): Promise<VerifyResult> {
    const { directory } = this.#parts;
    const [blobs, layers] = await Promise.all([
      namesIn(join(directory, 'blobs', 'sha256')),
      namesIn(join(directory, 'layers')),
    ]);
    await Promise.all([
      ...blobs.map((digest) => this.#queue.add(() => this.#checkBlob(digest))),
      ...layers.map((digest) => this.#queue.add(() => this.#checkLayer(digest as DiffID))),
    ]);
    let images = await listImages(this.#parts.layout);
    await this.#checkImages(images);
    const { repair, signal } = this.#options;
    const repairs = repair === undefined ? undefined : new Repairs(this.#parts, repair, signal);
    if (repairs !== undefined) {
      // The documents first: they say what else an image needs.
      for (const listed of images) await this.#repairDocuments(repairs, listed);
      images = await listImages(this.#parts.layout);
      await this.#checkImages(images);
    }
    // Layers are unpacked from blobs.
    const inOrder = [...this.#damages.values()].sort((a, b) => a.kind.localeCompare(b.kind));
    for (const damage of inOrder) {
      const whose = images.filter(
        ({ image, descriptor, config }) =>
          config?.digest === damage.digest || needs(image, descriptor, damage.digest),
      );
      const named = { ...damage, images: whose.map(({ name }) => name) };
      await repairs?.repair(named, whose, this.#identities.get(damage.digest));
      this.#damages.set(keyOf(named), named);
      this.#options.onDamage?.(named);
    }
    return {
      images: images.length,
      blobs: blobs.length,
      layers: layers.length,
      unchecked: this.#unchecked,
      damages: [...this.#damages.values()],
    };
  }

  #add(kind: Damage['kind'], digest: Digest, problem: Damage['problem']): void {
    const damage: Damage = { kind, digest, problem, images: [], outcome: 'found' };
    if (!this.#damages.has(keyOf(damage))) this.#damages.set(keyOf(damage), damage);
  }

  async #checkBlob(digest: Digest): Promise<void> {
    const { blobs } = this.#parts.layout;
    this.#options.signal?.throwIfAborted();
    await using lease = await Lease.tryAcquire(blobs.path(digest));
    // It was pruned meanwhile.
    if (lease === undefined) return;
    if (!(await blobs.verify(digest, this.#options.signal))) this.#add('blob', digest, 'altered');
  }

  async #checkLayer(diffID: DiffID): Promise<void> {
    const { layers } = this.#parts;
    this.#options.signal?.throwIfAborted();
    // What is not sealed counts as nothing, and is replaced when it is needed.
    await using lease = await layers.lease(diffID);
    const seal = lease === undefined ? undefined : await layers.seal(diffID);
    if (lease === undefined || seal === undefined) return;
    if (seal.tree === undefined) {
      this.#unchecked++;
      return;
    }
    const identity = await layers.identity(diffID);
    const found = await unlessMissing(unpackedTreeDigest(layers.tree(diffID), this.#options.signal));
    // While it was read it may have been replaced by one that can be mounted by others too.
    if (found === seal.tree || !(await lease.isCurrent())) return;
    this.#identities.set(diffID, identity);
    this.#add('layer', diffID, 'altered');
  }

  async #checkImages(images: readonly Listed[]): Promise<void> {
    const { layout } = this.#parts;
    const missing = new Map<Digest, Listed[]>();
    for (const listed of images)
      for (const { digest } of partsOf(listed)) {
        if ((await layout.blobs.stat(digest)) !== undefined) continue;
        missing.set(digest, [...(missing.get(digest) ?? []), listed]);
      }
    if (missing.size === 0) return;
    // A prune takes an image out of index.json before it takes its blobs.
    const isStillListed = await loadListed(layout);
    for (const [digest, whose] of missing)
      if (whose.some(isStillListed)) this.#add('blob', digest, 'missing');
  }

  /** Fetches a manifest and a configuration that cannot be read. */
  async #repairDocuments(repairs: Repairs, listed: Listed): Promise<void> {
    try {
      await repairs.repairDocuments(listed);
    } catch (error) {
      this.#options.signal?.throwIfAborted();
      const damage = this.#damages.get(`blob ${listed.descriptor.digest}`);
      if (damage !== undefined) damage.message = messageOf(error);
    }
  }
}

/** The blobs that an image is known to need. */
function partsOf({ descriptor, image, config }: Listed): Descriptor[] {
  const parts = image === undefined ? [] : [image.manifest.config, ...image.manifest.layers];
  return [descriptor, ...(config === undefined ? [] : [config]), ...parts];
}

function keyOf({ kind, digest }: Pick<Damage, 'kind' | 'digest'>): string {
  return `${kind} ${digest}`;
}

function needs(image: Image | undefined, descriptor: Descriptor, digest: Digest): boolean {
  if (descriptor.digest === digest) return true;
  if (image === undefined) return false;
  const { config, layers } = image.manifest;
  return (
    config.digest === digest ||
    layers.some((layer) => layer.digest === digest) ||
    image.config.rootfs.diff_ids.includes(digest as DiffID)
  );
}

async function namesIn(directory: string): Promise<Digest[]> {
  const names = (await unlessMissing(readdir(directory))) ?? [];
  return names.filter((name) => /^[0-9a-f]{64}$/.test(name)).map((name) => `sha256:${name}` as Digest);
}
