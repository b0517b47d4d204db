import {
  type Descriptor,
  type DiffID,
  type Digest,
  type Image,
  type Reference,
  formatReference,
} from '../oci/index.ts';
import { type DailyUses, type UsesByImage, keyOf, loadDailyUses, loadUses } from './index-uses.ts';
import type { Inventory, InventoryImage } from './inventory.ts';
import type { VolumeParts } from './parts.ts';
import { isDamage, readImage } from './stored-image.ts';
import { takeInventory } from './take-inventory.ts';

/** One line of a list of images. Sizes in bytes. */
export interface StoredImageSummary {
  readonly reference: string;
  readonly platform: string;
  /** Of the manifest. */
  readonly digest: Digest;
  /** Manifest, configuration and compressed layers. */
  readonly size: number;
  /** What the layers that are unpacked take. */
  readonly unpackedSize: number;
  /** True when every layer is unpacked. */
  readonly unpacked: boolean;
  /** False when a blob is missing, or the manifest cannot be read; the next pull brings it back. */
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
  /** Uses by day in the last months, oldest first. */
  readonly history: readonly DailyUses[];
}

/** All images, in the order of `index.json`. */
export async function summarize(parts: VolumeParts): Promise<StoredImageSummary[]> {
  const { inventory, uses } = await load(parts);
  return inventory.images.map((image) => summaryOf(inventory, image, uses));
}

async function load(parts: VolumeParts): Promise<{ inventory: Inventory; uses: UsesByImage }> {
  const inventory = await takeInventory(parts, () => parts.layout.indexState());
  return { inventory, uses: (await parts.index.read(loadUses)) ?? new Map() };
}

function summaryOf(inventory: Inventory, image: InventoryImage, uses: UsesByImage): StoredImageSummary {
  const { manifest, reference, platform, pinned } = image;
  const { blobs, layers } = inventory;
  const known = inventory.isKnown(manifest);
  let unpackedSize = 0;
  let unpacked = known;
  for (const id of inventory.layersOf(manifest)) {
    if (layers.isPresent(id)) unpackedSize += layers.size(id);
    else unpacked = false;
  }
  let complete = known;
  for (const id of inventory.blobsOf(manifest)) complete &&= blobs.isPresent(id);
  const used = uses.get(keyOf(image));
  return {
    reference,
    platform,
    digest: inventory.digest(manifest),
    size: compressedSize(inventory, manifest),
    unpackedSize,
    unpacked,
    complete,
    pulledAt: new Date(image.pulledAt),
    checkedAt: new Date(image.checkedAt),
    lastUsedAt: used === undefined ? undefined : new Date(used.lastUsedAt),
    uses: used?.uses ?? 0,
    pinned,
  };
}

/** Bytes of manifest, configuration and compressed layers. */
export function compressedSize(inventory: Inventory, manifest: number): number {
  let sum = 0;
  for (const id of inventory.blobsOf(manifest)) sum += inventory.blobs.size(id);
  return sum;
}

/** What the inventory says about one layer. */
type LayerFacts = Omit<StoredLayerDetails, 'digest' | 'diffID' | 'mediaType' | 'size'>;

/** The details of a reference in each of its platforms; those whose manifest cannot be read are left out. */
export async function describe(parts: VolumeParts, reference: Reference): Promise<StoredImageDetails[]> {
  const name = formatReference(reference);
  const [{ inventory, uses }, entries] = await Promise.all([
    load(parts),
    parts.layout.descriptorsNamed(name),
  ]);
  const details: StoredImageDetails[] = [];
  for (const found of inventory.images.filter((image) => image.reference === name)) {
    const summary = summaryOf(inventory, found, uses);
    const entry = entries.find(({ digest }) => digest === summary.digest);
    const image = entry === undefined ? undefined : await tryRead(parts, entry);
    if (image === undefined) continue;
    const history = (await parts.index.read((connection) => loadDailyUses(connection, found))) ?? [];
    const facts = layerFacts(inventory, found);
    const layers = image.manifest.layers.map(({ digest, mediaType, size }, position) => ({
      digest,
      diffID: image.config.rootfs.diff_ids[position] as DiffID,
      mediaType,
      size,
      ...(facts[position] ?? { present: false, unpackedSize: undefined, sharedWith: [] }),
    }));
    details.push({ ...summary, image, history, layers });
  }
  return details;
}

async function tryRead(parts: VolumeParts, entry: Descriptor): Promise<Image | undefined> {
  try {
    return await readImage(parts.layout, entry);
  } catch (error) {
    if (isDamage(error)) return undefined;
    throw error;
  }
}

function layerFacts(inventory: Inventory, image: InventoryImage): LayerFacts[] {
  const blobs = inventory.blobsOf(image.manifest);
  return Array.from(inventory.layersOf(image.manifest), (layer, position) => {
    // Manifest and configuration come before the layers.
    const blob = blobs[position + 2] ?? -1;
    const owners = inventory.images.filter(({ manifest }) => inventory.blobsOf(manifest).includes(blob));
    return {
      present: inventory.blobs.isPresent(blob),
      unpackedSize: inventory.layers.isPresent(layer) ? inventory.layers.size(layer) : undefined,
      sharedWith: [...new Set(owners.map(({ reference }) => reference))].filter(
        (other) => other !== image.reference,
      ),
    };
  });
}
