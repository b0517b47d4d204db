import { createHash, type Hash } from 'node:crypto';
import { closeSync, constants, lstatSync, openSync, readlinkSync, readSync, type Stats } from 'node:fs';
import { sameContent, sameXattrs, typeOf, type Xattrs } from './entries.ts';
import type { LayerSource } from './layer-source.ts';
import type { TarEntry, TarHandler } from './tar-reader.ts';
import type { Territory } from './territory.ts';
import type { TreeChanges } from './tree-changes.ts';
import { readArchive } from './unpack.ts';
import { imageXattrs, isImageXattr } from './xattrs.ts';

/**
 * Takes those uncertain entries off the changes whose content and attributes are what the layers say: a file that was
 * given the owner it had, or lost one of its names. Their earlier content is in the topmost layer that has their path.
 * Nothing is read when nothing is uncertain.
 *
 * @param layers the layers that made the tree before, lowest first.
 */
export async function clearUnchanged(
  changes: TreeChanges,
  territory: Territory,
  layers: readonly LayerSource[],
): Promise<void> {
  const wanted = new Map([...changes.uncertain()].map(({ index, path }) => [path, index]));
  for (const layer of layers.toReversed()) {
    if (wanted.size === 0) return;
    const same =
      layer.kind === 'directory'
        ? compareWithDirectory(withoutImplied(wanted.keys(), layer.implied), territory, layer.path)
        : await compareWithArchive([...wanted.keys()], territory, layer);
    for (const [path, unchanged] of same) {
      const index = wanted.get(path);
      wanted.delete(path);
      if (unchanged && index !== undefined) changes.clear(index);
    }
  }
  // What no layer describes are directories made for what is in them, and such have no attributes.
  for (const [path, index] of wanted) if (isPlainDirectory(territory.bytes(path))) changes.clear(index);
}

function isPlainDirectory(place: Buffer): boolean {
  return lstatSync(place).isDirectory() && imageXattrs(place).size === 0;
}

/** A directory that is there for what is in it says nothing of how the tree's was. */
function withoutImplied(paths: Iterable<string>, implied: readonly string[]): string[] {
  const undescribed = new Set(implied);
  return [...paths].filter((path) => !undescribed.has(path));
}

/** For each path that a layer has, whether the tree's file is the same. */
type Comparison = Map<string, boolean>;

function compareWithDirectory(paths: Iterable<string>, territory: Territory, root: string): Comparison {
  const found: Comparison = new Map();
  const base = Buffer.from(root).toString('latin1');
  for (const path of paths) {
    const earlier = statInLayer(base, path);
    if (earlier === undefined) continue;
    found.set(path, sameAsFile(territory.bytes(path), Buffer.from(`${base}/${path}`, 'latin1'), earlier));
  }
  return found;
}

/** What a layer has under a path, no link on the way being followed. */
function statInLayer(root: string, path: string): Stats | undefined {
  for (let slash = path.indexOf('/'); slash >= 0; slash = path.indexOf('/', slash + 1)) {
    const parent = Buffer.from(`${root}/${path.slice(0, slash)}`, 'latin1');
    if (lstatSync(parent, { throwIfNoEntry: false })?.isDirectory() !== true) return undefined;
  }
  return lstatSync(Buffer.from(`${root}/${path}`, 'latin1'), { throwIfNoEntry: false });
}

function sameAsFile(place: Buffer, earlierPlace: Buffer, earlier: Stats): boolean {
  const now = lstatSync(place);
  if ((now.mode & constants.S_IFMT) !== (earlier.mode & constants.S_IFMT)) return false;
  if (!sameXattrs(imageXattrs(place), imageXattrs(earlierPlace))) return false;
  if (now.isSymbolicLink()) return readlinkSync(place, 'buffer').equals(readlinkSync(earlierPlace, 'buffer'));
  return !now.isFile() || sameContent(place, earlierPlace);
}

/** What an archive says of one of the paths looked for. */
interface ArchivedEntry {
  readonly entry: TarEntry;
  /** Of a file. */
  content: string;
}

async function compareWithArchive(
  paths: readonly string[],
  territory: Territory,
  source: Extract<LayerSource, { kind: 'archive' }>,
): Promise<Comparison> {
  const reader = new EntryCollector(new Set(paths));
  await readArchive(source, reader);
  const targets = reader.linkTargets();
  // The content of a further name is in the entry that it links to, which comes before it.
  const linked = new EntryCollector(targets);
  if (targets.size > 0) await readArchive(source, linked);
  const found: Comparison = new Map();
  for (const [path, archived] of reader.found) {
    const file =
      archived.entry.type === 'hardlink' ? linked.found.get(entryPath(archived.entry.link)) : archived;
    found.set(path, file !== undefined && sameAsEntry(territory.bytes(path), file));
  }
  return found;
}

function sameAsEntry(place: Buffer, { entry, content }: ArchivedEntry): boolean {
  if (typeOf(lstatSync(place).mode) !== entry.type) return false;
  const kept: Xattrs = new Map([...entry.xattrs].filter(([name]) => isImageXattr(name)));
  if (!sameXattrs(imageXattrs(place), kept)) return false;
  if (entry.type === 'symlink') return readlinkSync(place, 'buffer').equals(entry.link);
  return entry.type !== 'file' || contentHash(place) === content;
}

function contentHash(place: Buffer): string {
  const hash = createHash('sha256');
  const chunk = Buffer.allocUnsafe(1 << 16);
  const fd = openSync(place, 'r');
  try {
    for (let length = readSync(fd, chunk); length > 0; length = readSync(fd, chunk))
      hash.update(chunk.subarray(0, length));
  } finally {
    closeSync(fd);
  }
  return hash.digest('hex');
}

function entryPath(path: Buffer): string {
  return path
    .toString('latin1')
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .join('/');
}

const zeros = Buffer.alloc(1 << 16);

/** Remembers the entries of some paths, and the digests of their content. */
class EntryCollector implements TarHandler {
  readonly found = new Map<string, ArchivedEntry>();
  readonly #wanted: ReadonlySet<string>;
  #current: { readonly archived: ArchivedEntry; readonly hash: Hash } | undefined;

  constructor(wanted: ReadonlySet<string>) {
    this.#wanted = wanted;
  }

  entry(entry: TarEntry): void {
    const path = entryPath(entry.path);
    if (!this.#wanted.has(path)) return;
    const archived = { entry, content: '' };
    this.found.set(path, archived);
    this.#current = { archived, hash: createHash('sha256') };
  }

  data(chunk: Buffer): void {
    this.#current?.hash.update(chunk);
  }

  hole(length: number): void {
    for (let left = length; left > 0; left -= zeros.length) this.data(zeros.subarray(0, left));
  }

  end(): void {
    if (this.#current !== undefined) this.#current.archived.content = this.#current.hash.digest('hex');
    this.#current = undefined;
  }

  linkTargets(): Set<string> {
    const links = [...this.found.values()].filter(({ entry }) => entry.type === 'hardlink');
    return new Set(links.map(({ entry }) => entryPath(entry.link)));
  }
}
