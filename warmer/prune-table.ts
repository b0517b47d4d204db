import { formatAge, formatBytes, formatTable, printable } from '../src/support/index.ts';
import type { PruneItem, Skipped } from '../src/volume/index.ts';

/** What goes: images and cache mounts by name, the rest summed up unless `verbose`. Empty when nothing does. */
export function pruneTable(items: readonly PruneItem[], { verbose }: { readonly verbose: boolean }): string {
  if (items.length === 0) return '';
  if (verbose)
    return formatTable(
      ['WHAT', 'NAME', 'DIGEST', 'USED', 'SIZE'],
      items.map((item) => [item.kind, nameOf(item), digestOf(item), ageOf(item), formatBytes(item.bytes)]),
    );
  const rows = items
    .filter((item) => item.kind === 'image' || item.kind === 'cache-mount')
    .map((item) => [nameOf(item), ageOf(item), formatBytes(item.bytes)]);
  for (const [kind, name] of [
    ['layer', 'unpacked layers of no image'],
    ['blob', 'blobs that nothing refers to'],
  ] as const) {
    const those = items.filter((item) => item.kind === kind);
    const bytes = those.reduce((sum, item) => sum + item.bytes, 0);
    if (those.length > 0) rows.push([`${those.length} ${name}`, '', formatBytes(bytes)]);
  }
  return formatTable(['WHAT', 'USED', 'SIZE'], rows);
}

/** What the policy would take and yet stays; empty when there is nothing of that kind. */
export function skippedLine({ in_use, pinned, too_young }: Skipped): string {
  const parts = [
    [in_use, 'in use'],
    [pinned, 'pinned'],
    [too_young, 'too young'],
  ] as const;
  const said = parts.filter(([count]) => count > 0).map(([count, why]) => `${count} ${why}`);
  return said.length === 0 ? '' : `Left: ${said.join(', ')}\n`;
}

function nameOf(item: PruneItem): string {
  if (item.kind === 'image') return `${item.reference} (${item.platform})`;
  if (item.kind === 'cache-mount') return `cache mount ${printable(item.id)}`;
  return '-';
}

function digestOf(item: PruneItem): string {
  if (item.kind === 'cache-mount') return item.name;
  return item.kind === 'layer' ? item.diffID : item.digest;
}

function ageOf(item: PruneItem): string {
  return formatAge(item.kind === 'blob' ? item.changedAt : item.lastUsedAt);
}
