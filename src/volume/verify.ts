import { readdir } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import PQueue from 'p-queue';
import { unpackedTreeDigest } from '../layer/index.ts';
import {
  decodeManifest,
  type Descriptor,
  type DiffID,
  type Digest,
  formatReference,
  type Image,
  maximumDocumentSize,
  parseReference,
  type Reference,
} from '../oci/index.ts';
import type { RegistryClient } from '../registry/index.ts';
import { messageOf } from '../support/index.ts';
import { downloadBlob } from './download.ts';
import { Lease } from './leases.ts';
import { refNameAnnotation } from './oci-layout.ts';
import type { VolumeParts } from './parts.ts';
import { isDamage, layersOf, readImage } from './stored-image.ts';
import type { Unpacker } from './unpack.ts';
import { unlessMissing } from './storage.ts';

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
   * has it mounted, so it was left alone; `failed`: it could not be repaired.
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

/** An image of the volume and what it is made of; the documents as far as they can be read. */
interface Listed {
  readonly name: string;
  readonly reference: Reference | undefined;
  readonly descriptor: Descriptor;
  readonly image: Image | undefined;
  /** Of the configuration, when only the manifest can be read. */
  readonly config: Descriptor | undefined;
}

/**
 * Reads everything on a volume that is in use, and compares it with what it should be: blobs with their digests, unpacked
 * layers with the digest in their seal, images with what they need.
 *
 * What is read is leased meanwhile, so no prune takes it away; a blob appears under its name only when it is complete, so
 * nothing half written is taken for damaged.
 */
export async function verifyVolume(parts: VolumeParts, options: VerifyOptions): Promise<VerifyResult> {
  const verification = new Verification(parts, options);
  return verification.run();
}

class Verification {
  readonly #parts: VolumeParts;
  readonly #options: VerifyOptions;
  readonly #queue = new PQueue({ concurrency: availableParallelism() });
  readonly #damages = new Map<string, Damage>();
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
    let images = await this.#images();
    await this.#checkImages(images);
    if (this.#options.repair !== undefined) {
      // The documents first: they say what else an image needs.
      for (const listed of images) await this.#repairDocuments(listed);
      images = await this.#images();
      await this.#checkImages(images);
    }
    for (const damage of this.#damages.values()) {
      const whose = images.filter(
        ({ image, descriptor, config }) =>
          config?.digest === damage.digest || needs(image, descriptor, damage.digest),
      );
      const named = { ...damage, images: whose.map(({ name }) => name) };
      await this.#repair(named, whose);
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
    if (seal === undefined) return;
    if (seal.tree === undefined) {
      this.#unchecked++;
      return;
    }
    if (!(await this.#isTree(diffID, seal.tree))) this.#add('layer', diffID, 'altered');
  }

  async #isTree(diffID: DiffID, expected: Digest): Promise<boolean> {
    const found = await unlessMissing(
      unpackedTreeDigest(this.#parts.layers.tree(diffID), this.#options.signal),
    );
    return found === expected;
  }

  async #images(): Promise<Listed[]> {
    const listed: Listed[] = [];
    for (const descriptor of await this.#parts.layout.readIndex()) {
      const name = descriptor.annotations?.[refNameAnnotation];
      if (name === undefined) continue;
      const image = await this.#documents(descriptor);
      const config = image === undefined ? await this.#configOf(descriptor) : undefined;
      listed.push({ name, reference: referenceOf(name), descriptor, image, config });
    }
    return listed;
  }

  async #documents(descriptor: Descriptor): Promise<Image | undefined> {
    try {
      return await readImage(this.#parts.layout, descriptor);
    } catch (error) {
      if (isDamage(error)) return undefined;
      throw error;
    }
  }

  async #checkImages(images: readonly Listed[]): Promise<void> {
    const { blobs } = this.#parts.layout;
    for (const { descriptor, image, config } of images) {
      const parts = image === undefined ? [] : [image.manifest.config, ...image.manifest.layers];
      for (const part of [descriptor, ...(config === undefined ? [] : [config]), ...parts])
        if ((await blobs.stat(part.digest)) === undefined && !this.#damages.has(`blob ${part.digest}`))
          this.#add('blob', part.digest, 'missing');
    }
  }

  /** The configuration's descriptor, as far as the manifest can be read. */
  async #configOf(descriptor: Descriptor): Promise<Descriptor | undefined> {
    try {
      const bytes = await this.#parts.layout.blobs.read(descriptor.digest, maximumDocumentSize);
      return decodeManifest(bytes, descriptor.digest).config;
    } catch (error) {
      if (isDamage(error)) return undefined;
      throw error;
    }
  }

  /** Fetches a manifest and a configuration that cannot be read. */
  async #repairDocuments({ reference, descriptor, image }: Listed): Promise<void> {
    const { repair, signal } = this.#options;
    if (repair === undefined || reference === undefined || image !== undefined) return;
    const { blobs } = this.#parts.layout;
    try {
      if ((await blobs.stat(descriptor.digest)) === undefined) {
        const found = await repair.client.source(reference).getManifest(descriptor.digest, signal);
        if (found === undefined) return;
        await blobs.put(descriptor.mediaType, found.bytes);
      }
      const config = await this.#configOf(descriptor);
      if (config !== undefined) await this.#fetch(reference, config, repair.client);
    } catch (error) {
      signal?.throwIfAborted();
      const damage = this.#damages.get(`blob ${descriptor.digest}`);
      if (damage !== undefined) damage.message = messageOf(error);
    }
  }

  async #repair(damage: Damage, images: readonly Listed[]): Promise<void> {
    const { repair, signal } = this.#options;
    if (repair === undefined) return;
    try {
      damage.outcome = await (damage.kind === 'blob'
        ? this.#repairBlob(damage.digest, images, repair.client)
        : this.#repairLayer(damage.digest as DiffID, images, repair));
    } catch (error) {
      signal?.throwIfAborted();
      damage.outcome = 'failed';
      damage.message = messageOf(error);
    }
  }

  async #repairBlob(
    digest: Digest,
    images: readonly Listed[],
    client: RegistryClient,
  ): Promise<Damage['outcome']> {
    const { blobs } = this.#parts.layout;
    // An altered blob was dropped when it was read; another process, or the documents' repair, may have brought it back.
    if (await blobs.verify(digest, this.#options.signal)) return 'repaired';
    let failure: Error | undefined;
    for (const { reference, image, config } of images) {
      const parts = [config ?? [], image?.manifest.config ?? [], image?.manifest.layers ?? []].flat();
      const wanted = parts.find((part) => part.digest === digest);
      if (reference === undefined || wanted === undefined) continue;
      try {
        await this.#fetch(reference, wanted, client);
        return 'repaired';
      } catch (error) {
        this.#options.signal?.throwIfAborted();
        failure = error instanceof Error ? error : new Error(messageOf(error));
      }
    }
    if (failure !== undefined) throw failure;
    return images.length === 0 ? 'removed' : 'failed';
  }

  async #fetch(reference: Reference, descriptor: Descriptor, client: RegistryClient): Promise<void> {
    const { blobs } = this.#parts.layout;
    const source = client.source(reference);
    await downloadBlob(
      blobs,
      descriptor,
      (offset, signal) => source.openBlob(descriptor, signal, offset),
      this.#options.signal,
    );
  }

  /** Unpacks a layer again. A running build that has it mounted keeps what it has: taking it away would only break more. */
  async #repairLayer(
    diffID: DiffID,
    images: readonly Listed[],
    { unpacker }: NonNullable<VerifyOptions['repair']>,
  ): Promise<Damage['outcome']> {
    const { layers, layout } = this.#parts;
    if (!(await layers.remove(diffID))) {
      const seal = await layers.seal(diffID);
      return seal === undefined || (seal.tree !== undefined && (await this.#isTree(diffID, seal.tree)))
        ? 'repaired'
        : 'in_use';
    }
    for (const { image } of images) {
      const layer =
        image === undefined ? undefined : layersOf(layout, image).find((own) => own.diffID === diffID);
      if (layer === undefined) continue;
      await unpacker.ensure(layer, this.#options.signal);
      return 'repaired';
    }
    return 'removed';
  }
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

function referenceOf(name: string): Reference | undefined {
  try {
    const reference = parseReference(name);
    return formatReference(reference) === name ? reference : undefined;
  } catch {
    return undefined; // another tool's name
  }
}

async function namesIn(directory: string): Promise<Digest[]> {
  const names = (await unlessMissing(readdir(directory))) ?? [];
  return names.filter((name) => /^[0-9a-f]{64}$/.test(name)).map((name) => `sha256:${name}` as Digest);
}
