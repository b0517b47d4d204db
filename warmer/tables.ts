import { formatAge, formatBytes, formatTable, printable } from '../src/support/index.ts';
import type {
  CacheMount,
  FileCount,
  StoredImageDetails,
  StoredImageSummary,
  VolumeUsage,
} from '../src/volume/index.ts';

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

/** `warmer mounts`. */
export function cacheMountTable(mounts: readonly CacheMount[]): string {
  const rows = mounts.map(({ id, name, files, bytes, createdAt, lastUsedAt }) => [
    id === '' ? '(damaged)' : printable(id),
    name.slice(0, 12),
    String(files),
    formatBytes(bytes),
    formatAge(createdAt),
    formatAge(lastUsedAt),
  ]);
  return formatTable(['ID', 'NAME', 'FILES', 'SIZE', 'CREATED', 'USED'], rows);
}

/** `warmer du`. */
export function usageTable(usage: VolumeUsage): string {
  const { images, blobs, layers, ingest, others, unshared, free, total } = usage;
  const rows: [string, FileCount][] = [
    ['blobs', blobs],
    ['unpacked layers', layers],
    ['unfinished', ingest],
    ...others.map(({ name, ...count }): [string, FileCount] => [nameOfOther(name), count]),
  ];
  const sum = rows.reduce((bytes, [, count]) => bytes + count.bytes, 0);
  return formatTable(
    ['WHAT', 'COUNT', 'SIZE'],
    [
      ['images', String(images), formatBytes(unshared)],
      ...rows.map(([name, { count, bytes }]) => [name, String(count), formatBytes(bytes)]),
      ['total', '', formatBytes(sum)],
      ['saved by sharing', '', formatBytes(Math.max(0, unshared - blobs.bytes))],
      ['free', '', `${formatBytes(free)} of ${formatBytes(total)}`],
    ],
  );
}

function nameOfOther(name: string): string {
  if (name === 'cache-mounts') return 'caches of RUN steps (cache-mounts)';
  if (name === 'images') return 'built images (images)';
  return name === 'layer-cache' ? 'layer cache (layer-cache)' : name;
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
        image.lastUsedAt === undefined
          ? 'never'
          : `${image.lastUsedAt.toISOString()}, ${image.uses} times, ${recentUses(image)} in the last 7 days`,
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

function recentUses({ history }: StoredImageDetails): number {
  const today = Math.floor(Date.now() / (24 * 3600_000));
  return history.filter(({ day }) => day > today - 7).reduce((sum, { uses }) => sum + uses, 0);
}

function shortDigest(digest: string): string {
  return digest.replace(/^sha256:/, '').slice(0, 12);
}
