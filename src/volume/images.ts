import { readdir, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { type Layer, blobLayer } from '../layer/index.ts';
import {
  type Descriptor,
  type DiffID,
  type Digest,
  type Image,
  type Platform,
  type Reference,
  decodeConfig,
  decodeManifest,
  formatReference,
  manifestMediaTypes,
  maximumDocumentSize,
  parseReference,
} from '../oci/index.ts';
import { KilnError, systemErrorCode } from '../support/index.ts';
import type { IndexDatabase, ImageRecord } from './index-db.ts';
import type { LayerDirectory, LayerSeal } from './layers.ts';
import { type OciLayout, platformKey, refNameAnnotation } from './oci-layout.ts';
import { unlessMissing } from './storage.ts';

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

/** One line of a list of images. Sizes in bytes. */
export interface StoredImageSummary {
  readonly reference: string;
  readonly platform: string;
  /** Of the manifest. */
  readonly digest: Digest;
  /** Manifest, configuration and compressed layers. */
  readonly size: number;
  /** File content of the layers that are unpacked. */
  readonly unpackedSize: number;
  /** True when every layer is unpacked. */
  readonly unpacked: boolean;
  /** False when a blob is missing or has another size than it should; the next pull brings it back. */
  readonly complete: boolean;
  readonly pulledAt: Date;
  readonly checkedAt: Date;
  /** Undefined when it was never used, or when there is no usable index database. */
  readonly lastUsedAt: Date | undefined;
  readonly uses: number;
  readonly pinned: boolean;
}

export interface StoredLayerDetails {
  readonly digest: Digest;
  readonly diffID: DiffID;
  readonly mediaType: string;
  /** Bytes compressed. */
  readonly size: number;
  readonly present: boolean;
  /** Bytes unpacked; undefined when it is not unpacked. */
  readonly unpackedSize: number | undefined;
  /** References of the other images on the volume that have this layer. */
  readonly sharedWith: readonly string[];
}

export interface StoredImageDetails extends StoredImageSummary {
  readonly image: Image;
  readonly layers: readonly StoredLayerDetails[];
}

/** What lies on the volume. Sizes in bytes; what images share is counted once. */
export interface VolumeUsage {
  readonly images: number;
  readonly blobs: { readonly count: number; readonly bytes: number };
  readonly layers: { readonly count: number; readonly bytes: number };
  /** Unfinished downloads and scratch files at the top of `ingest`. */
  readonly ingest: { readonly count: number; readonly bytes: number };
  /** Compressed bytes that would be needed if no two images shared a blob. */
  readonly unshared: number;
  /** Of the file system. */
  readonly free: number;
  readonly total: number;
}

/** The rooms of a volume, as the functions here need them. */
export interface VolumeParts {
  readonly directory: string;
  readonly layout: OciLayout;
  readonly layers: LayerDirectory;
  readonly index: IndexDatabase;
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
function isDamage(error: unknown): boolean {
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

/** The row of the index database for a descriptor of `index.json`; undefined for one that Kiln did not make. */
export function recordOf(descriptor: Descriptor, size: number): ImageRecord | undefined {
  const reference = descriptor.annotations?.[refNameAnnotation];
  if (reference === undefined) return undefined;
  const { pulledAt, checkedAt } = times(descriptor);
  return {
    reference,
    platform: platformKey(descriptor.platform),
    manifestDigest: descriptor.digest,
    size,
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

interface ListedImage {
  readonly summary: StoredImageSummary;
  readonly image: Image | undefined;
  readonly seals: readonly (LayerSeal | undefined)[];
}

async function listImages(parts: VolumeParts): Promise<ListedImage[]> {
  const [descriptors, rows] = await Promise.all([parts.layout.readIndex(), parts.index.rows()]);
  const used = new Map(rows?.map((row) => [`${row.reference} ${row.platform}`, row]));
  const listed: ListedImage[] = [];
  for (const descriptor of descriptors) {
    const record = recordOf(descriptor, 0);
    if (record === undefined || !manifestMediaTypes.includes(descriptor.mediaType)) continue;
    const row = used.get(`${record.reference} ${record.platform}`);
    const { image, present, seals } = await examine(parts, descriptor);
    listed.push({
      image,
      seals,
      summary: {
        reference: record.reference,
        platform: record.platform,
        digest: descriptor.digest,
        size: image === undefined ? descriptor.size : imageSize(image),
        unpackedSize: seals.reduce((sum, seal) => sum + (seal?.bytes ?? 0), 0),
        unpacked: image !== undefined && !seals.includes(undefined),
        complete: present,
        pulledAt: new Date(record.pulledAt),
        checkedAt: new Date(record.checkedAt),
        lastUsedAt: row?.lastUsedAt == null ? undefined : new Date(row.lastUsedAt),
        uses: row?.uses ?? 0,
        pinned: record.pinned,
      },
    });
  }
  return listed;
}

async function examine(
  { layout, layers }: VolumeParts,
  descriptor: Descriptor,
): Promise<{ image: Image | undefined; present: boolean; seals: (LayerSeal | undefined)[] }> {
  try {
    const image = await readImage(layout, descriptor);
    const [present, seals] = await Promise.all([
      Promise.all(image.manifest.layers.map((layer) => layout.blobs.has(layer))),
      Promise.all(image.config.rootfs.diff_ids.map((diffID) => layers.seal(diffID))),
    ]);
    return { image, present: !present.includes(false), seals };
  } catch (error) {
    if (isDamage(error)) return { image: undefined, present: false, seals: [] };
    throw error;
  }
}

/** All images, in the order of `index.json`. */
export async function summarize(parts: VolumeParts): Promise<StoredImageSummary[]> {
  return (await listImages(parts)).map(({ summary }) => summary);
}

/** The details of a reference in each of its platforms. */
export async function describe(parts: VolumeParts, reference: Reference): Promise<StoredImageDetails[]> {
  const all = await listImages(parts);
  const owners = new Map<Digest, Set<string>>();
  for (const { image, summary } of all)
    for (const layer of image?.manifest.layers ?? []) {
      const known = owners.get(layer.digest) ?? new Set();
      owners.set(layer.digest, known.add(summary.reference));
    }
  const name = formatReference(reference);
  const details: StoredImageDetails[] = [];
  for (const { image, summary, seals } of all) {
    if (image === undefined || summary.reference !== name) continue;
    const layers = image.manifest.layers.map(async (layer, position) => ({
      digest: layer.digest,
      diffID: image.config.rootfs.diff_ids[position] as DiffID,
      mediaType: layer.mediaType,
      size: layer.size,
      present: await parts.layout.blobs.has(layer),
      unpackedSize: seals[position]?.bytes,
      sharedWith: [...(owners.get(layer.digest) ?? [])].filter((other) => other !== name),
    }));
    details.push({ ...summary, image, layers: await Promise.all(layers) });
  }
  return details;
}

/** What lies on the volume, from the directories themselves. */
export async function measure(parts: VolumeParts): Promise<VolumeUsage> {
  const [images, blobs, layers, ingest, fileSystem] = await Promise.all([
    listImages(parts),
    measureFiles(join(parts.directory, 'blobs', 'sha256')),
    measureLayers(parts),
    measureFiles(join(parts.directory, 'ingest')),
    statfs(parts.directory),
  ]);
  return {
    images: images.length,
    blobs,
    layers,
    ingest,
    unshared: images.reduce((sum, { summary }) => sum + summary.size, 0),
    free: fileSystem.bavail * fileSystem.bsize,
    total: fileSystem.blocks * fileSystem.bsize,
  };
}

async function measureFiles(directory: string): Promise<{ count: number; bytes: number }> {
  let count = 0;
  let bytes = 0;
  for (const name of (await unlessMissing(readdir(directory))) ?? []) {
    const found = await unlessMissing(stat(join(directory, name)));
    if (found?.isFile() !== true || name.endsWith('.lock')) continue;
    count += 1;
    bytes += found.size;
  }
  return { count, bytes };
}

async function measureLayers({ directory, layers }: VolumeParts): Promise<{ count: number; bytes: number }> {
  let count = 0;
  let bytes = 0;
  for (const name of (await unlessMissing(readdir(join(directory, 'layers')))) ?? []) {
    const seal = /^[0-9a-f]{64}$/.test(name) ? await layers.seal(`sha256:${name}` as DiffID) : undefined;
    if (seal === undefined) continue;
    count += 1;
    bytes += seal.bytes;
  }
  return { count, bytes };
}

/** The reference that an entry of `index.json` is named by; undefined for a name of another tool. */
export function referenceOf(descriptor: Descriptor): Reference | undefined {
  const name = descriptor.annotations?.[refNameAnnotation];
  if (name === undefined) return undefined;
  try {
    return parseReference(name);
  } catch (error) {
    if (error instanceof KilnError) return undefined;
    throw error;
  }
}

/** True when an entry without platform, or of a matching one, serves what was asked for. */
export function servesPlatform(descriptor: Descriptor, wanted: Platform): boolean {
  return platformKey(descriptor.platform) === platformKey(wanted);
}
