import { formatAge, formatBytes, formatTable } from '../src/support/index.ts';
import type { StoredImageDetails, StoredImageSummary, VolumeUsage } from '../src/volume/index.ts';

/** `warmer ls`. */
export function imageTable(images: readonly StoredImageSummary[]): string {
  const rows = images.map((image) => [
    image.reference,
    image.platform,
    shortDigest(image.digest),
    formatBytes(image.size),
    image.unpacked ? formatBytes(image.unpackedSize) : '-',
    stateOf(image),
    formatAge(image.checkedAt),
    image.lastUsedAt === undefined ? 'never' : formatAge(image.lastUsedAt),
  ]);
  return formatTable(['IMAGE', 'PLATFORM', 'DIGEST', 'SIZE', 'UNPACKED', 'STATE', 'CHECKED', 'USED'], rows);
}

function stateOf(image: StoredImageSummary): string {
  const state = !image.complete ? 'incomplete' : image.unpacked ? 'warm' : 'packed';
  return image.pinned ? `${state}, pinned` : state;
}

/** `warmer du`. */
export function usageTable(usage: VolumeUsage): string {
  const shared = usage.unshared - usage.blobs.bytes;
  return formatTable(
    ['WHAT', 'COUNT', 'SIZE'],
    [
      ['images', String(usage.images), formatBytes(usage.unshared)],
      ['blobs', String(usage.blobs.count), formatBytes(usage.blobs.bytes)],
      ['unpacked layers', String(usage.layers.count), formatBytes(usage.layers.bytes)],
      ['unfinished', String(usage.ingest.count), formatBytes(usage.ingest.bytes)],
      ['total', '', formatBytes(usage.blobs.bytes + usage.layers.bytes + usage.ingest.bytes)],
      ['saved by sharing', '', formatBytes(Math.max(0, shared))],
      ['free', '', `${formatBytes(usage.free)} of ${formatBytes(usage.total)}`],
    ],
  );
}

/** `warmer inspect`. */
export function imageDetails(image: StoredImageDetails): string {
  const facts = formatTable(
    ['IMAGE', image.reference],
    [
      ['PLATFORM', image.platform],
      ['DIGEST', image.digest],
      ['STATE', stateOf(image)],
      ['SIZE', formatBytes(image.size)],
      ['PULLED', image.pulledAt.toISOString()],
      ['CHECKED', image.checkedAt.toISOString()],
      [
        'USED',
        image.lastUsedAt === undefined ? 'never' : `${image.lastUsedAt.toISOString()}, ${image.uses} times`,
      ],
    ],
  );
  const layers = formatTable(
    ['LAYER', 'SIZE', 'UNPACKED', 'SHARED WITH'],
    image.layers.map((layer) => [
      layer.digest,
      layer.present ? formatBytes(layer.size) : 'missing',
      layer.unpackedSize === undefined ? '-' : formatBytes(layer.unpackedSize),
      layer.sharedWith.length === 0 ? '-' : layer.sharedWith.join(', '),
    ]),
  );
  return `${facts}\n${layers}`;
}

function shortDigest(digest: string): string {
  return digest.replace(/^sha256:/, '').slice(0, 12);
}
