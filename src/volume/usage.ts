import { readdir, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { DiffID } from '../oci/index.ts';
import { summarize } from './listing.ts';
import type { VolumeParts } from './parts.ts';
import { unlessMissing } from './storage.ts';

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

/** What lies on the volume, from the directories themselves. */
export async function measure(parts: VolumeParts): Promise<VolumeUsage> {
  const [images, blobs, layers, ingest, fileSystem] = await Promise.all([
    summarize(parts),
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
    unshared: images.reduce((sum, { size }) => sum + size, 0),
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
