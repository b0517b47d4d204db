import { blobLayer, type Layer } from '../src/layer/index.ts';
import {
  type ChainID,
  chainIDs,
  formatReference,
  type ImageConfig,
  layerCompression,
  parseReference,
  type Platform,
  type Reference,
} from '../src/oci/index.ts';
import { fetchImage, type RegistryClient } from '../src/registry/index.ts';
import { KilnError, messageOf, type Progress, SingleFlight } from '../src/support/index.ts';
import type { StoredImage, Volume } from '../src/volume/index.ts';
import type { BlobOrigin } from './image.ts';

/** An image that a stage starts from or copies from. */
export interface BaseImage {
  readonly reference: Reference;
  readonly config: ImageConfig;
  /** Lowest first. */
  readonly layers: readonly Layer[];
  readonly chainID: ChainID | null;
  /** Where its blobs may lie in registries. */
  readonly origins: readonly BlobOrigin[];
  /** True when it lies on a volume, so that nothing need be pulled. */
  readonly warm: boolean;
}

/** Finds base images: on the volumes first, then in the registry; each once a build. */
export class BaseResolver {
  readonly #volumes: readonly Volume[];
  readonly #client: RegistryClient;
  readonly #progress: Progress;
  readonly #found = new SingleFlight<string, BaseImage>();
  readonly #known = new Map<string, BaseImage>();

  constructor(volumes: readonly Volume[], client: RegistryClient, progress: Progress) {
    this.#volumes = volumes;
    this.#client = client;
    this.#progress = progress;
  }

  /**
   * @param where the Dockerfile and line that name the image.
   * @throws KilnError `E_BASE_NOT_FOUND` and the registry's own errors.
   */
  async resolve(name: string, platform: Platform, where: string, signal?: AbortSignal): Promise<BaseImage> {
    const reference = parseReference(name);
    const key = formatReference(reference);
    return (
      this.#known.get(key) ??
      this.#found.run(key, async () => {
        const image = await this.#find(reference, platform, where, signal);
        this.#known.set(key, image);
        return image;
      })
    );
  }

  async #find(
    reference: Reference,
    platform: Platform,
    where: string,
    signal?: AbortSignal,
  ): Promise<BaseImage> {
    for (const volume of this.#volumes) {
      const stored = await volume.find(reference, platform, signal);
      if (
        stored !== undefined &&
        (reference.digest !== undefined ||
          (await this.#isCurrent(volume, stored, reference, platform, signal)))
      )
        return fromStored(stored, this.#client.places(stored.reference));
    }
    return this.#fetch(reference, platform, where, signal);
  }

  /**
   * Whether a tag still names what is stored. A volume that can be written learns the answer; when the registry cannot be
   * asked, what is warm is used, which is what it is there for.
   */
  async #isCurrent(
    volume: Volume,
    stored: StoredImage,
    reference: Reference,
    platform: Platform,
    signal?: AbortSignal,
  ): Promise<boolean> {
    try {
      const current = await this.#client.source(reference).headManifest(reference.tag ?? 'latest', signal);
      if (current === undefined) return true;
      if (await volume.isCurrent(stored, current.digest)) return true;
      this.#progress.info(
        `${formatReference(reference)} has moved since it was warmed (${platform.architecture}); the new image is used`,
      );
      return false;
    } catch (error) {
      if (!(error instanceof KilnError)) throw error;
      this.#progress.warn(
        `${formatReference(reference)}: the registry cannot be asked whether it moved (${messageOf(error)}); the warm image is used`,
      );
      return true;
    }
  }

  async #fetch(
    reference: Reference,
    platform: Platform,
    where: string,
    signal?: AbortSignal,
  ): Promise<BaseImage> {
    const image = await fetchImage(this.#client, reference, platform, signal).catch((error: unknown) => {
      if (!(error instanceof KilnError) || error.where !== undefined) throw error;
      throw new KilnError(`base image ${formatReference(reference)}: ${error.message}`, {
        code: error.code,
        category: error.category,
        remedy: error.remedy,
        cause: error.cause,
        where,
      });
    });
    if (image === undefined)
      throw new KilnError(`the base image ${formatReference(reference)} does not exist`, {
        code: 'E_BASE_NOT_FOUND',
        category: 'registry',
        where,
        remedy: 'Check its name and tag.',
      });
    const source = this.#client.source(reference);
    const layers = image.manifest.layers.map((descriptor, index) => {
      const diffID = image.config.rootfs.diff_ids[index];
      if (diffID === undefined || layerCompression(descriptor.mediaType) === undefined)
        throw new KilnError(
          `${formatReference(reference)} has a layer of the type ${descriptor.mediaType}, which cannot be unpacked`,
          { code: 'E_LAYER_UNSUPPORTED', category: 'registry', where },
        );
      return blobLayer({ open: (_digest, s) => source.openBlob(descriptor, s) }, descriptor, diffID);
    });
    return {
      reference,
      config: image.config,
      layers,
      chainID: chainIDs(image.config.rootfs.diff_ids).at(-1) ?? null,
      origins: this.#client.places(reference),
      warm: false,
    };
  }
}

function fromStored(stored: StoredImage, origins: readonly BlobOrigin[]): BaseImage {
  return {
    reference: stored.reference,
    config: stored.config,
    layers: stored.layers,
    chainID: chainIDs(stored.config.rootfs.diff_ids).at(-1) ?? null,
    origins,
    warm: true,
  };
}
