import type { EntryBase, EntryForest, InventoryEntry } from '../../src/layercache/index.ts';
import { formatAge, formatBytes, formatTable, printable, shortenDigests } from '../../src/support/index.ts';
import type { RemoteUsage } from './documents.ts';

const longestInstruction = 70;
const shortKey = 12;

/** `warmer remote ls`: a tree for each base, what stands on an entry below it, branches set in. */
export function entryTrees(forest: EntryForest): string {
  const trees = Map.groupBy(forest.roots(), (root) => nameOfBase(forest.baseOf(root)));
  // A column for those who sign only.
  const signed = forest.entries.some(({ signature }) => signature !== undefined);
  const columns = signed ? [...ownColumns, 'SIGNED BY', ...lastColumns] : [...ownColumns, ...lastColumns];
  return [...trees]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([base, roots]) => `${base}\n${formatTable(columns, rowsOf(forest, roots, signed))}`)
    .join('\n');
}

const ownColumns = ['KEY', 'SIZE', 'MADE', 'LAST HIT', 'STATE', 'CREATOR'];
const lastColumns = ['CHAIN', 'INSTRUCTION'];

function rowsOf(forest: EntryForest, roots: readonly InventoryEntry[], signed: boolean): string[][] {
  const rows: string[][] = [];
  const open = sorted(roots).map((entry) => ({ entry, indent: 0 }));
  open.reverse();
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { entry, indent } = next;
    rows.push(rowOf(forest, entry, indent, signed));
    const children = sorted(forest.children(entry));
    // A chain without branches stays in one column, however long it is.
    const below = children.length > 1 ? indent + 1 : indent;
    open.push(...children.map((child) => ({ entry: child, indent: below })).reverse());
  }
  return rows;
}

function rowOf(forest: EntryForest, entry: InventoryEntry, indent: number, signed: boolean): string[] {
  return [
    entry.key.slice(0, shortKey),
    entry.diffID === undefined ? '-' : formatBytes(entry.size),
    formatAge(entry.created),
    entry.usedAt === undefined ? '-' : formatAge(entry.usedAt),
    stateOf(forest, entry),
    printable(entry.creator).slice(0, 20),
    ...(signed ? [signedBy(entry, shortKey)] : []),
    printable(entry.origin?.line ?? '-').slice(0, longestInstruction),
    `${'  '.repeat(indent)}${shortened(entry.instruction)}`,
  ];
}

export function stateOf(forest: EntryForest, entry: InventoryEntry): string {
  const unreachable = forest.unreachable(entry);
  if (unreachable !== undefined) return `unreachable (${unreachable})`;
  return forest.isAlias(entry) ? 'alias' : 'sound';
}

function signedBy({ signature }: InventoryEntry, digits?: number): string {
  if (signature === undefined) return '-';
  const name = signature.keyID?.slice(0, digits) ?? 'unnamed key';
  if (signature.valid === undefined) return name;
  return signature.valid ? `${name} (verified)` : `${name} (by no key given)`;
}

/** `warmer remote du`. */
export function usageTables(usage: RemoteUsage): string {
  const { layers, documents, unreachable } = usage;
  const all = formatTable(
    ['WHAT', 'COUNT', 'SIZE'],
    [
      ['entries', String(usage.entries), ''],
      ['chains', String(usage.chains), ''],
      ['lines', String(usage.lines), ''],
      ['layers', String(layers.count), formatBytes(layers.bytes)],
      ['manifests and configurations', String(documents.count), formatBytes(documents.bytes)],
      ['total', '', formatBytes(usage.total)],
      ['saved by sharing', '', formatBytes(usage.savedBySharing)],
      ['unreachable', String(unreachable.count), formatBytes(unreachable.bytes)],
      ...(usage.damaged.length === 0 ? [] : [['damaged', String(usage.damaged.length), '']]),
      ['records beside them', String(usage.records), ''],
      ['tags of others', String(usage.alien), ''],
    ],
  );
  const bases = formatTable(
    ['BASE', 'ENTRIES', 'CHAINS', 'SIZE'],
    usage.bases.map(({ base, count, chains, bytes }) => [
      nameOfBase(base ?? undefined),
      String(count),
      String(chains),
      formatBytes(bytes),
    ]),
  );
  return `${all}\n${bases}`;
}

/** `warmer remote inspect`. @param files how many files are recorded of a copy. */
export function entryDetails(forest: EntryForest, entry: InventoryEntry, files: number | undefined): string {
  const facts = formatTable(
    ['INSTRUCTION', printable(entry.instruction)],
    [
      ['KEY', entry.key],
      ['STATE', stateOf(forest, entry)],
      ['LAYER', entry.diffID === undefined ? 'none: it changed nothing' : formatBytes(entry.size)],
      ['MANIFEST', entry.digest],
      ['MADE', `${entry.created.toISOString()} by ${printable(entry.creator)}`],
      ['SIGNED BY', signedBy(entry)],
      ['LAST HIT', entry.usedAt?.toISOString() ?? 'not known'],
      ['CHAIN', printable(entry.origin?.line ?? 'not known')],
      ['BASE', nameOfBase(forest.baseOf(entry))],
      ['MADE ON', entry.parentChainID ?? 'an empty root file system'],
      ...(files === undefined ? [] : [['FILES', `${files} recorded`]]),
    ],
  );
  const below: InventoryEntry[] = [];
  for (let next = forest.get(entry.parent); next !== undefined; next = forest.get(next.parent))
    below.push(next);
  const row = (where: string, other: InventoryEntry): string[] => [
    where,
    other.key.slice(0, shortKey),
    shortened(other.instruction),
  ];
  const rows = [
    ...forest.above(entry).map((other) => row('above', other)),
    ...forest.twins(entry).map((other) => row('same layer', other)),
    ...below.map((other) => row('below', other)),
  ];
  return rows.length === 0 ? facts : `${facts}\n${formatTable(['WHERE', 'KEY', 'INSTRUCTION'], rows)}`;
}

/** What a prune takes. */
export function entryTable(entries: readonly InventoryEntry[], verbose: boolean): string {
  if (entries.length === 0) return '';
  const shown = verbose ? entries : entries.slice(0, 50);
  const rows = shown.map((entry) => [
    verbose ? entry.key : entry.key.slice(0, shortKey),
    formatBytes(entry.size),
    formatAge(entry.created),
    entry.usedAt === undefined ? '-' : formatAge(entry.usedAt),
    shortened(entry.instruction),
  ]);
  const more = entries.length - shown.length;
  const rest = more > 0 ? `… and ${more} more; --verbose names all\n` : '';
  return formatTable(['KEY', 'LAYER', 'MADE', 'LAST HIT', 'INSTRUCTION'], rows) + rest;
}

function nameOfBase(base: EntryBase | undefined): string {
  if (base === undefined) return 'on a base that is not known';
  const chain = base.chainID === null ? '' : ` ${shortenDigests(base.chainID)}`;
  return `${printable(base.name)} (${printable(base.platform)})${chain}`;
}

function sorted(entries: readonly InventoryEntry[]): InventoryEntry[] {
  return [...entries].sort((a, b) => a.created.getTime() - b.created.getTime() || (a.key < b.key ? -1 : 1));
}

function shortened(instruction: string): string {
  const text = printable(instruction).replace(/\s+/g, ' ');
  return text.length > longestInstruction ? `${text.slice(0, longestInstruction - 1)}…` : text;
}
