import { readdirSync, statSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Descriptor, DiffID, Digest } from '../oci/index.ts';
import { type Contents, readContents } from './contents.ts';
import type { ImageRow } from './index-db.ts';
import type { LeaseProbe } from './leases.ts';
import type { VolumeParts } from './parts.ts';
import type { Space } from './prune-policy.ts';
import { annotations, recordOf } from './stored-image.ts';

/** An image that Kiln brought onto the volume. Times in milliseconds since the epoch. */
export interface InventoryImage {
  readonly descriptor: Descriptor;
  readonly reference: string;
  readonly platform: string;
  readonly pulledAt: number;
  /** When it was last used or, if never, pulled. */
  readonly lastUsedAt: number;
  readonly pinned: boolean;
  readonly contents: Contents;
}

/** Everything that lies on a volume, and what refers to it. */
export interface Inventory {
  readonly images: readonly InventoryImage[];
  /** What entries of `index.json` that other tools made refer to: it stays. */
  readonly alien: readonly Contents[];
  readonly blobs: ReadonlySet<Digest>;
  /** Unpacked layers. */
  readonly layers: ReadonlySet<DiffID>;
}

/**
 * Takes stock of a volume.
 *
 * @throws EnvironmentError `E_INDEX_DAMAGED` when `index.json` is damaged or missing, since then nothing would seem referred to.
 */
export async function takeInventory(parts: VolumeParts, signal?: AbortSignal): Promise<Inventory> {
  const { directory, layout, index } = parts;
  const [entries, rows] = await Promise.all([layout.readSoundIndex(), index.rows()]);
  const used = new Map(rows?.map((row) => [`${row.reference} ${row.platform}`, row]));
  const images: InventoryImage[] = [];
  const alien: Contents[] = [];
  for (const descriptor of entries) {
    signal?.throwIfAborted();
    const contents = await readContents(layout, descriptor);
    const image = inventoryImage(descriptor, contents, used);
    if (image === undefined) alien.push(contents);
    else images.push(image);
  }
  const names = (path: string): Digest[] =>
    readdirSync(join(directory, path)).flatMap((name) =>
      /^[0-9a-f]{64}$/.test(name) ? [`sha256:${name}` as Digest] : [],
    );
  return {
    images,
    alien,
    blobs: new Set(names('blobs/sha256')),
    layers: new Set(names('layers') as DiffID[]),
  };
}

/** Undefined for an entry that Kiln did not make. */
function inventoryImage(
  descriptor: Descriptor,
  contents: Contents,
  used: ReadonlyMap<string, ImageRow>,
): InventoryImage | undefined {
  const record = recordOf(descriptor, 0);
  if (record === undefined || descriptor.annotations?.[annotations.pulledAt] === undefined) return undefined;
  const { reference, platform, pulledAt, pinned } = record;
  const lastUsedAt = used.get(`${reference} ${platform}`)?.lastUsedAt ?? 0;
  return {
    descriptor,
    reference,
    platform,
    pulledAt,
    lastUsedAt: Math.max(lastUsedAt, pulledAt),
    pinned,
    contents,
  };
}

/** The space of a volume, given what its blobs and layers take. */
export async function measureSpace(directory: string, used: number): Promise<Space> {
  const { bavail, blocks, bsize } = await statfs(directory);
  return { used, free: bavail * bsize, total: blocks * bsize };
}

/** Size in bytes and time of the last change of a file, in milliseconds; undefined when it is gone. */
export function fileFacts(path: string): { readonly size: number; readonly changedAt: number } | undefined {
  const found = statSync(path, { throwIfNoEntry: false });
  return found === undefined
    ? undefined
    : { size: found.size, changedAt: Math.max(found.mtimeMs, found.ctimeMs) };
}

/** A build that uses an image has all its layers leased, each as a tree or as a blob. */
export function isInUse({ layout, layers }: VolumeParts, contents: Contents, isLeased: LeaseProbe): boolean {
  const [, , ...blobs] = contents.blobs;
  return (
    blobs.length > 0 &&
    blobs.every(({ digest }, position) => {
      const diffID = contents.diffIDs[position];
      return (diffID !== undefined && isLeased(layers.path(diffID))) || isLeased(layout.blobs.path(digest));
    })
  );
}
