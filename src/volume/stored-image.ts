import { type Layer, blobLayer } from '../layer/index.ts';
import {
  type Descriptor,
  type DiffID,
  type Image,
  type Platform,
  type Reference,
  decodeConfig,
  decodeManifest,
  manifestMediaTypes,
  maximumDocumentSize,
} from '../oci/index.ts';
import { KilnError, systemErrorCode } from '../support/index.ts';
import type { ImageKey } from './index-db.ts';
import { type OciLayout, platformKey, refNameAnnotation } from './oci-layout.ts';

/** Kiln's own annotations on the descriptors of `index.json`. Times are ISO 8601. */
export const annotations = {
  pulledAt: 'dev.kiln.pulled-at',
  checkedAt: 'dev.kiln.checked-at',
  /** What the reference resolved to: the digest of the multi-platform index, when there is one. */
  target: 'dev.kiln.target-digest',
  /** `true` when prune must leave the image alone. */
  pinned: 'dev.kiln.pinned',
} as const;

/** An image on the volume. */
export interface StoredImage extends Image {
  readonly reference: Reference;
  /** Lowest first. */
  readonly layers: readonly Layer[];
  readonly pulledAt: Date;
  /** When the registry last confirmed that the reference still names this image. */
  readonly checkedAt: Date;
}

/** Reads manifest and configuration from the blobs. @throws KilnError `E_BLOB_NOT_FOUND`, `E_BLOB_CORRUPT`, `E_OCI_MALFORMED`. */
export async function readImage(layout: OciLayout, descriptor: Descriptor): Promise<Image> {
  const manifestBytes = await layout.blobs.read(descriptor.digest, maximumDocumentSize);
  const manifest = decodeManifest(manifestBytes, descriptor.digest);
  const configBytes = await layout.blobs.read(manifest.config.digest, maximumDocumentSize);
  const config = decodeConfig(configBytes, manifest.config.digest);
  requireDiffIDs({ manifest, config }, descriptor.digest);
  const { mediaType, digest, size, platform } = descriptor;
  return {
    descriptor: { mediaType, digest, size, ...(platform == null ? {} : { platform }) },
    manifest,
    manifestBytes,
    config,
    configBytes,
  };
}

/** A manifest and its configuration must agree on the number of layers. */
export function requireDiffIDs(
  { manifest, config }: Pick<Image, 'manifest' | 'config'>,
  where: string,
): void {
  if (manifest.layers.length === config.rootfs.diff_ids.length) return;
  throw new KilnError(
    `malformed image: ${manifest.layers.length} layers but ${config.rootfs.diff_ids.length} diff_ids`,
    { code: 'E_OCI_MALFORMED', category: 'registry', where },
  );
}

/** The image that a descriptor of `index.json` stands for, when all its blobs are there; undefined otherwise. */
export async function loadImage(
  layout: OciLayout,
  reference: Reference,
  descriptor: Descriptor,
): Promise<StoredImage | undefined> {
  if (!manifestMediaTypes.includes(descriptor.mediaType)) return undefined;
  try {
    const image = await readImage(layout, descriptor);
    const present = await Promise.all(image.manifest.layers.map((layer) => layout.blobs.has(layer)));
    if (present.includes(false)) return undefined;
    const { pulledAt, checkedAt } = times(descriptor);
    return { ...image, reference, layers: layersOf(layout, image), pulledAt, checkedAt };
  } catch (error) {
    if (isDamage(error)) return undefined;
    throw error;
  }
}

/** The layers of an image whose blobs are in the layout. */
export function layersOf(layout: OciLayout, image: Pick<Image, 'manifest' | 'config'>): Layer[] {
  return image.manifest.layers.map((layer, position) =>
    blobLayer(layout.blobs, layer, image.config.rootfs.diff_ids[position] as DiffID),
  );
}

/** True for what makes an image on the volume unusable until it is pulled again. */
export function isDamage(error: unknown): boolean {
  const code = systemErrorCode(error) ?? '';
  return ['E_BLOB_NOT_FOUND', 'E_BLOB_CORRUPT', 'E_OCI_MALFORMED'].includes(code);
}

function times(descriptor: Descriptor): { pulledAt: Date; checkedAt: Date } {
  const read = (name: string): Date | undefined => {
    const date = new Date(descriptor.annotations?.[name] ?? '');
    return Number.isNaN(date.getTime()) ? undefined : date;
  };
  const pulledAt = read(annotations.pulledAt) ?? new Date(0);
  return { pulledAt, checkedAt: read(annotations.checkedAt) ?? pulledAt };
}

/** What Kiln says about an entry of `index.json`. Times in milliseconds since the epoch. */
export interface ImageRecord extends ImageKey {
  readonly pulledAt: number;
  readonly checkedAt: number;
  readonly pinned: boolean;
}

/** Undefined for an entry without a name. */
export function recordOf(descriptor: Descriptor): ImageRecord | undefined {
  const reference = descriptor.annotations?.[refNameAnnotation];
  if (reference === undefined) return undefined;
  const { pulledAt, checkedAt } = times(descriptor);
  return {
    reference,
    platform: platformKey(descriptor.platform),
    pulledAt: pulledAt.getTime(),
    checkedAt: checkedAt.getTime(),
    pinned: descriptor.annotations?.[annotations.pinned] === 'true',
  };
}

/** Bytes of manifest, configuration and compressed layers. */
export function imageSize(image: Pick<Image, 'manifest' | 'descriptor'>): number {
  const layers = image.manifest.layers.reduce((sum, layer) => sum + layer.size, 0);
  return image.descriptor.size + image.manifest.config.size + layers;
}

/** True when an entry without platform, or of a matching one, serves what was asked for. */
export function servesPlatform(descriptor: Descriptor, wanted: Platform): boolean {
  return platformKey(descriptor.platform) === platformKey(wanted);
}
