import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Database } from 'better-sqlite3';
import { type Descriptor, type DiffID, type Digest, digestHex, manifestMediaTypes } from '../oci/index.ts';
import { type Contents, readContents } from './contents.ts';
import { type FileState, type FileTable, FileTableBuilder } from './file-table.ts';
import { keepUsesOf } from './index-uses.ts';
import { Inventory, type InventoryImage, type PackedParts } from './inventory.ts';
import { decodeInventory, encodeInventory } from './inventory-codec.ts';
import type { IndexState } from './oci-layout.ts';
import type { VolumeParts } from './parts.ts';
import { annotations, recordOf } from './stored-image.ts';

/** Documents that are read at the same time. */
const readers = 16;
/** Milliseconds. A directory's time says nothing of changes that follow within one tick of the clock. */
const clockTick = 25;

/**
 * Takes stock of a volume. What the index database has is taken as it is if `index.json` and the directories are those
 * that it was made from; otherwise what follows from digests is still taken from it, and the rest from the files.
 *
 * @param readIndex how `index.json` is read when it has to be.
 */
export async function takeInventory(
  parts: VolumeParts,
  readIndex: () => Promise<IndexState>,
  signal?: AbortSignal,
): Promise<Inventory> {
  const snapshot = await parts.index.read(loadSnapshot);
  const identity = await parts.layout.indexIdentity();
  if (snapshot !== undefined && isCurrent(parts, snapshot.identities, identity)) return snapshot.inventory;
  return (await survey(parts, await readIndex(), snapshot?.inventory, signal)).inventory;
}

/** Brings the index database up to date with the files, for readers to be quick. Failures are warned of. */
export async function refreshIndex(parts: VolumeParts, signal?: AbortSignal): Promise<void> {
  if (!parts.layout.writable) return;
  try {
    await refresh(parts, signal);
  } catch (error) {
    signal?.throwIfAborted();
    parts.index.warnOf(error);
  }
}

async function refresh(parts: VolumeParts, signal: AbortSignal | undefined): Promise<void> {
  const snapshot = await parts.index.read(loadSnapshot);
  const identity = await parts.layout.indexIdentity();
  if (snapshot !== undefined && isCurrent(parts, snapshot.identities, identity)) return;
  // What this process did itself must be a tick ago.
  await delay(clockTick);
  const index = await parts.layout.indexState();
  const { inventory, identities } = await survey(parts, index, snapshot?.inventory, signal);
  await parts.index.change((connection) => saveSnapshot(connection, identities, inventory));
  await keepUsesOf(parts.index, inventory.images);
}

/** What a snapshot was made from; undefined: it changed just then, so nobody can tell whether it did so again. */
interface Identities {
  readonly index: string | undefined;
  readonly blobs: string | undefined;
  readonly layers: string | undefined;
}

interface Snapshot {
  readonly identities: Identities;
  readonly inventory: Inventory;
}

function loadSnapshot(connection: Database): Snapshot | undefined {
  const row = connection
    .prepare('SELECT index_identity, blobs_identity, layers_identity, inventory FROM snapshot')
    .raw()
    .get() as [string, string, string, Buffer] | undefined;
  if (row === undefined) return undefined;
  const [index, blobs, layers, bytes] = row;
  const inventory = decodeInventory(bytes);
  return inventory === undefined ? undefined : { identities: { index, blobs, layers }, inventory };
}

function saveSnapshot(connection: Database, identities: Identities, inventory: Inventory): void {
  connection.prepare('DELETE FROM snapshot').run();
  connection
    .prepare('INSERT INTO snapshot VALUES (?, ?, ?, ?)')
    .run(identities.index ?? '', identities.blobs ?? '', identities.layers ?? '', encodeInventory(inventory));
}

function isCurrent(parts: VolumeParts, known: Identities, index: string | undefined): boolean {
  return (
    index !== undefined &&
    known.index === index &&
    known.blobs === directoryIdentity(parts, 'blobs') &&
    known.layers === directoryIdentity(parts, 'layers')
  );
}

type Directory = 'blobs' | 'layers';
const paths: Readonly<Record<Directory, string>> = { blobs: 'blobs/sha256', layers: 'layers' };

/** Changes with every file that comes or goes. */
function directoryIdentity({ directory }: VolumeParts, name: Directory): string | undefined {
  const found = statSync(join(directory, paths[name]), { bigint: true, throwIfNoEntry: false });
  if (found === undefined || Date.now() - Number(found.ctimeMs) < clockTick) return undefined;
  return `${found.ino} ${found.mtimeNs} ${found.ctimeNs}`;
}

/** Looks at the files, and into those of which the digest says nothing that `before` knew already. */
async function survey(
  parts: VolumeParts,
  index: IndexState,
  before: Inventory | undefined,
  signal: AbortSignal | undefined,
): Promise<Snapshot> {
  const contents = await contentsOfAll(parts, index.entries, before, signal);
  // Before the names are read: what changes after that shows in the times.
  const identities = {
    index: index.identity,
    blobs: directoryIdentity(parts, 'blobs'),
    layers: directoryIdentity(parts, 'layers'),
  };
  const blobs = new FileTableBuilder();
  const layers = new FileTableBuilder();
  const manifests = [...contents].map(([digest, { blobs: files, diffIDs, known }]) => ({
    digest,
    known,
    blobs: files.map((blob) => blobs.add(digestHex(blob.digest), blob.size)),
    layers: diffIDs.map((diffID) => layers.add(digestHex(diffID), 0)),
  }));
  list(parts, 'blobs', blobs, before?.blobs, (name) => blobFacts(parts, name));
  list(parts, 'layers', layers, before?.layers, (name) => layerFacts(parts, name));
  const numbers = new Map(manifests.map(({ digest }, number) => [digest, number]));
  const inventory = new Inventory({
    ...arrange(index.entries, numbers),
    digests: Buffer.from(manifests.map(({ digest }) => digestHex(digest)).join(''), 'hex'),
    known: Uint8Array.from(manifests, ({ known }) => (known ? 1 : 0)),
    manifestBlobs: pack(manifests.map((manifest) => manifest.blobs)),
    manifestLayers: pack(manifests.map((manifest) => manifest.layers)),
    blobs: blobs.build(),
    layers: layers.build(),
  });
  return { identities, inventory };
}

/** What each entry refers to, from the inventory before or else from its documents. */
async function contentsOfAll(
  { layout }: VolumeParts,
  entries: readonly Descriptor[],
  before: Inventory | undefined,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<Digest, Contents>> {
  const contents = before === undefined ? new Map<Digest, Contents>() : rememberedContents(before);
  const needed = new Map<Digest, Contents>();
  const missing: Descriptor[] = [];
  for (const entry of entries) {
    const known = contents.get(entry.digest);
    if (known === undefined) missing.push(entry);
    else needed.set(entry.digest, known);
  }
  for (let start = 0; start < missing.length; start += readers) {
    signal?.throwIfAborted();
    const read = missing.slice(start, start + readers).map(async (entry) => {
      needed.set(entry.digest, await readContents(layout, entry));
    });
    await Promise.all(read);
  }
  return needed;
}

function rememberedContents(before: Inventory): Map<Digest, Contents> {
  const { blobs, layers } = before;
  const contents = new Map<Digest, Contents>();
  for (const manifest of before.entries()) {
    // One that could not be read may have been mended.
    if (!before.isKnown(manifest)) continue;
    contents.set(before.digest(manifest), {
      blobs: Array.from(before.blobsOf(manifest), (id) => ({
        digest: `sha256:${blobs.name(id)}` as Digest,
        size: blobs.size(id),
      })),
      diffIDs: Array.from(before.layersOf(manifest), (id) => `sha256:${layers.name(id)}` as DiffID),
      known: true,
    });
  }
  return contents;
}

interface FoundFile {
  readonly size: number;
  readonly state: FileState;
}

/** Enters what lies in a directory. Finished files never change, so only new ones are looked at. */
function list(
  { directory }: VolumeParts,
  name: Directory,
  table: FileTableBuilder,
  before: FileTable | undefined,
  look: (name: string) => FoundFile | undefined,
): void {
  for (const found of readdirSync(join(directory, paths[name]))) {
    if (!/^[0-9a-f]{64}$/.test(found)) continue;
    const id = before?.id(found);
    const known = before !== undefined && id !== undefined && before.isPresent(id);
    const facts: FoundFile | undefined = known ? { size: before.size(id), state: 'present' } : look(found);
    if (facts !== undefined) table.setState(found, facts.size, facts.state);
  }
}

function blobFacts({ layout }: VolumeParts, name: string): FoundFile | undefined {
  const facts = fileFacts(layout.blobs.path(`sha256:${name}` as Digest));
  return facts === undefined ? undefined : { size: facts.size, state: 'present' };
}

function layerFacts({ layers }: VolumeParts, name: string): FoundFile | undefined {
  const facts = layers.facts(`sha256:${name}` as DiffID);
  return facts === undefined
    ? undefined
    : { size: facts.bytes, state: facts.sealed ? 'present' : 'unsealed' };
}

function arrange(
  entries: readonly Descriptor[],
  numbers: ReadonlyMap<Digest, number>,
): { images: InventoryImage[]; others: number[] } {
  const images: InventoryImage[] = [];
  const others: number[] = [];
  for (const entry of entries) {
    const manifest = numbers.get(entry.digest) ?? -1;
    const record = manifestMediaTypes.includes(entry.mediaType) ? recordOf(entry) : undefined;
    if (record === undefined) others.push(manifest);
    else images.push({ ...record, manifest, ours: entry.annotations?.[annotations.pulledAt] !== undefined });
  }
  return { images, others };
}

function pack(lists: readonly (readonly number[])[]): PackedParts {
  const starts = new Int32Array(lists.length + 1);
  for (const [number, { length }] of lists.entries()) starts[number + 1] = (starts[number] ?? 0) + length;
  return { starts, ids: Int32Array.from(lists.flat()) };
}

/** Size in bytes and time of the last change of a file, in milliseconds; undefined when it is gone. */
export function fileFacts(path: string): { readonly size: number; readonly changedAt: number } | undefined {
  const found = statSync(path, { throwIfNoEntry: false });
  return found === undefined
    ? undefined
    : { size: found.size, changedAt: Math.max(found.mtimeMs, found.ctimeMs) };
}
