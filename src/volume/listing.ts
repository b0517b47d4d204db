import {
  type Descriptor,
  type DiffID,
  type Digest,
  type Image,
  type Reference,
  formatReference,
  manifestMediaTypes,
} from '../oci/index.ts';
import type { LayerSeal } from './layers.ts';
import type { VolumeParts } from './parts.ts';
import { imageSize, isDamage, readImage, recordOf } from './stored-image.ts';

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
