import {
  type Descriptor,
  type Digest,
  type Image,
  type Platform,
  type Reference,
  formatReference,
  normalizePlatform,
} from '../oci/index.ts';
import { UsageError } from '../support/index.ts';
import { type OciLayout, refNameAnnotation } from './oci-layout.ts';
import { type StoredImage, annotations, layersOf, servesPlatform } from './stored-image.ts';

/** The references of a volume: which image each names. `index.json` has them. */
export class ImageReferences {
  readonly #layout: OciLayout;

  constructor(layout: OciLayout) {
    this.#layout = layout;
  }

  /** The entries that a reference names: by its name, or for a digest by content under whatever name. */
  async candidates(reference: Reference, platform: Platform): Promise<Descriptor[]> {
    const { digest } = reference;
    const named =
      digest === undefined
        ? await this.#layout.descriptorsNamed(formatReference(reference))
        : (await this.#layout.readIndex()).filter(
            (entry) => entry.digest === digest || entry.annotations?.[annotations.target] === digest,
          );
    return named.filter((descriptor) => servesPlatform(descriptor, platform));
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

  /**
   * Enters an image whose blobs are on the volume and leased, in place of what the reference named before; a pin stays.
   *
   * @param target what the reference resolved to.
   */
  async commit(
    reference: Reference,
    platform: Platform,
    image: Image,
    target: Digest,
  ): Promise<{ readonly image: StoredImage; readonly descriptor: Descriptor }> {
    const now = new Date();
    const descriptor = await this.#layout.putManifest(image.descriptor.mediaType, image.manifestBytes, {
      name: formatReference(reference),
      // Without whatever else the object has: it may be an image configuration.
      platform: normalizePlatform(platform),
      annotations: (previous) => ({
        [annotations.pulledAt]: now.toISOString(),
        [annotations.checkedAt]: now.toISOString(),
        [annotations.target]: target,
        ...pin(previous?.annotations?.[annotations.pinned] === 'true'),
      }),
    });
    const stored: StoredImage = {
      ...image,
      descriptor: { ...image.descriptor, platform: normalizePlatform(platform) },
      reference,
      layers: layersOf(this.#layout, image),
      pulledAt: now,
      checkedAt: now,
    };
    return { image: stored, descriptor };
  }

  /** Notes that the registry confirmed an image. @returns undefined when it was pruned meanwhile. */
  async markChecked(image: StoredImage, platform: Platform): Promise<StoredImage | undefined> {
    const checkedAt = new Date();
    const name = formatReference(image.reference);
    const changed = await this.#annotate(
      (entry) =>
        entry.annotations?.[refNameAnnotation] === name &&
        entry.digest === image.descriptor.digest &&
        servesPlatform(entry, platform),
      (before) => ({ ...before, [annotations.checkedAt]: checkedAt.toISOString() }),
    );
    return changed.length === 0 ? undefined : { ...image, checkedAt };
  }

  /**
   * Pins an image, or unpins it: prune leaves pinned ones alone, also after they were pulled anew.
   *
   * @param platform undefined: every platform of the reference.
   * @returns the entries that are now as asked for.
   * @throws UsageError `E_IMAGE_NOT_WARM` when the reference is not on the volume.
   */
  async setPinned(
    reference: Reference,
    platform: Platform | undefined,
    pinned: boolean,
  ): Promise<Descriptor[]> {
    const name = formatReference(reference);
    const changed = await this.#annotate(
      (entry) =>
        entry.annotations?.[refNameAnnotation] === name &&
        (platform === undefined || servesPlatform(entry, platform)),
      ({ [annotations.pinned]: _before, ...others }) => ({ ...others, ...pin(pinned) }),
    );
    if (changed.length === 0) throw notWarm(name, this.#layout.directory);
    return changed;
  }

  /** Changes the annotations of some entries. @returns these entries. */
  async #annotate(
    isMeant: (entry: Descriptor) => boolean,
    change: (annotations: Readonly<Record<string, string>>) => Readonly<Record<string, string>>,
  ): Promise<Descriptor[]> {
    let changed: Descriptor[] = [];
    await this.#layout.updateIndex((manifests) => {
      changed = [];
      return manifests.map((entry) => {
        if (!isMeant(entry)) return entry;
        const next = { ...entry, annotations: change(entry.annotations ?? {}) };
        changed.push(next);
        return next;
      });
    });
    return changed;
  }
}

function pin(pinned: boolean): Readonly<Record<string, string>> {
  return pinned ? { [annotations.pinned]: 'true' } : {};
}

/** The error for an image that is not on a volume. */
export function notWarm(name: string, directory: string): UsageError {
  return new UsageError(`${name} is not on the volume`, {
    code: 'E_IMAGE_NOT_WARM',
    where: directory,
    remedy: 'See warmer ls; warm it with warmer --image.',
  });
}
