import { lstat, readdir, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { compressedSize } from './listing.ts';
import type { VolumeParts } from './parts.ts';
import { unlessMissing } from './storage.ts';
import { takeInventory } from './take-inventory.ts';

/** Files that belong together. */
export interface FileCount {
  readonly count: number;
  readonly bytes: number;
}

/** What lies on the volume. Sizes in bytes; what images share is counted once. */
export interface VolumeUsage {
  readonly images: number;
  readonly blobs: FileCount;
  /** Unpacked layers. */
  readonly layers: FileCount;
  /** Unfinished downloads and scratch files in `ingest`. */
  readonly ingest: FileCount;
  /** Whatever else lies there: the layer cache and the images of builds without a registry, the index. */
  readonly others: readonly (FileCount & { readonly name: string })[];
  /** Compressed bytes that would be needed if no two images shared a blob. */
  readonly unshared: number;
  /** Of the file system. */
  readonly free: number;
  readonly total: number;
}

const ownDirectories: readonly string[] = ['blobs', 'layers', 'ingest'];

/** What lies on the volume, from the directories themselves. */
export async function measure(parts: VolumeParts): Promise<VolumeUsage> {
  const { directory, layout } = parts;
  const [inventory, ingest, others, fileSystem] = await Promise.all([
    takeInventory(parts, () => layout.indexState()),
    countTree(join(directory, 'ingest'), (name) => !name.endsWith('.lock')),
    countOthers(directory),
    statfs(directory),
  ]);
  return {
    images: inventory.images.length,
    blobs: inventory.blobs.present,
    layers: inventory.layers.present,
    unshared: inventory.images.reduce((sum, { manifest }) => sum + compressedSize(inventory, manifest), 0),
    ingest,
    others,
    free: fileSystem.bavail * fileSystem.bsize,
    total: fileSystem.blocks * fileSystem.bsize,
  };
}

/** Subdirectories by their names, the files beside them as one. */
async function countOthers(directory: string): Promise<(FileCount & { name: string })[]> {
  const counted: (FileCount & { name: string })[] = [];
  let index: FileCount = { count: 0, bytes: 0 };
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    if (ownDirectories.includes(entry.name)) continue;
    const found = await countTree(join(directory, entry.name));
    if (entry.isDirectory()) counted.push({ name: entry.name, ...found });
    else index = sumOf(index, found);
  }
  return [...counted.sort((a, b) => (a.name < b.name ? -1 : 1)), { name: 'index', ...index }];
}

/** The files below a path, itself included. Those that vanish meanwhile are left out. */
async function countTree(
  path: string,
  isCounted: (name: string) => boolean = () => true,
): Promise<FileCount> {
  const found = await unlessMissing(lstat(path));
  if (found?.isFile() === true) return { count: 1, bytes: found.size };
  if (found?.isDirectory() !== true) return { count: 0, bytes: 0 };
  let sum: FileCount = { count: 0, bytes: 0 };
  for (const name of (await unlessMissing(readdir(path))) ?? [])
    if (isCounted(name)) sum = sumOf(sum, await countTree(join(path, name)));
  return sum;
}

function sumOf(a: FileCount, b: FileCount): FileCount {
  return { count: a.count + b.count, bytes: a.bytes + b.bytes };
}
