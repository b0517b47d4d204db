import { KilnError } from '../support/index.ts';
import { decodeArtifact } from './artifact.ts';
import type { Artifact, EntryStore } from './entry-store.ts';
import { type CacheKey, keyOfTag, keySchema, keyTag } from './keys.ts';

/**
 * Records of hits, which a node's warmer writes for its builds: one small artifact for each repository, day and node, under
 * `k1-hits-<day>-<node>`. Nobody else writes under that tag, so nothing is ever lost between two writers. Prune folds
 * the records of past days into one.
 */

/** When entries were last taken by a build, in seconds since 1970. */
export type Hits = ReadonlyMap<CacheKey, number>;

const hitsType = 'application/vnd.kiln.cache.hits.v1+json';
const prefix = `${keySchema}-hits-`;
const foldedTag = `${prefix}folded`;
const dayTag = new RegExp(`^${prefix}([0-9]{8})-[a-z0-9]{1,32}$`);
/** Largest record that is read, in bytes. */
const maximumRecord = 16 * 1024 * 1024;
/** Hits longer ago than this are forgotten when records are folded, in seconds. */
const remembered = 400 * 86_400;

/** The tag of a node's record of a day. @param node 1 to 32 small letters and digits, the same for all days. */
export function hitsTag(day: Date, node: string): string {
  return `${prefix}${dayOf(day)}-${node}`;
}

export function isHitsTag(tag: string): boolean {
  return tag === foldedTag || dayTag.test(tag);
}

/** A record as it is stored. */
export function encodeHits(tag: string, hits: Hits): Artifact {
  const sorted = [...hits].sort(([a], [b]) => (a < b ? -1 : 1));
  const content = Buffer.from(JSON.stringify({ version: 1, hits: Object.fromEntries(sorted) }));
  return { tag, type: hitsType, content };
}

/** Adds hits to others, of each entry the latest. */
export function addHits(to: Map<CacheKey, number>, hits: Hits): void {
  for (const [key, time] of hits) if (time > (to.get(key) ?? 0)) to.set(key, time);
}

/** Reads one record; empty when there is none. @throws KilnError `E_CACHE_CORRUPT`, RegistryError. */
export async function readHits(store: EntryStore, tag: string, signal?: AbortSignal): Promise<Hits> {
  const found = await store.readManifest(tag, signal);
  if (found === undefined) return new Map();
  const blob = decodeArtifact(found.bytes, hitsType, `the record of hits ${tag}`);
  return decodeHits(await store.readBlob(blob, maximumRecord, signal), tag);
}

function decodeHits(bytes: Uint8Array, tag: string): Hits {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch (cause) {
    throw new KilnError(`the record of hits ${tag} is not JSON`, {
      code: 'E_CACHE_CORRUPT',
      category: 'registry',
      cause,
    });
  }
  const { hits } = (value ?? {}) as { hits?: unknown };
  const known = new Map<CacheKey, number>();
  // A hit in the future would keep an entry for ever.
  const now = Date.now() / 1000;
  for (const [name, time] of Object.entries((hits ?? {}) as Record<string, unknown>)) {
    const key = keyOfTag(keyTag(name as CacheKey));
    if (key !== undefined && typeof time === 'number' && time > 0) known.set(key, Math.min(time, now));
  }
  return known;
}

/**
 * Folds the records of past days into one and deletes them. The new record is stored and read back before anything is
 * deleted, so that whoever else does the same loses nothing.
 *
 * @returns how many records were folded.
 */
export async function foldHits(
  store: EntryStore,
  tags: readonly string[],
  signal?: AbortSignal,
): Promise<number> {
  // Clocks of nodes differ, and a record of yesterday may be written late.
  const current = [0, 1].map((days) => dayOf(new Date(Date.now() - days * 86_400_000)));
  const past = tags.filter((tag) => {
    const day = dayTag.exec(tag)?.[1];
    return day !== undefined && !current.includes(day);
  });
  if (past.length === 0) return 0;
  const folded = new Map(await readHits(store, foldedTag, signal));
  for (const tag of past) addHits(folded, await readHits(store, tag, signal));
  const oldest = Date.now() / 1000 - remembered;
  for (const [key, time] of folded) if (time < oldest) folded.delete(key);
  await store.putArtifact(encodeHits(foldedTag, folded), signal);
  const stored = await readHits(store, foldedTag, signal);
  const isComplete = [...folded].every(([key, time]) => (stored.get(key) ?? 0) >= Math.floor(time));
  if (!isComplete) return 0;
  let count = 0;
  for (const tag of past) {
    // Two nodes with the same hits have the same manifest: the second finds it gone.
    const found = await store.resolve(tag, signal);
    if (found !== undefined) await store.deleteManifest(found.digest, [tag], signal);
    count += 1;
  }
  return count;
}

function dayOf(date: Date): string {
  return date.toISOString().slice(0, 10).replaceAll('-', '');
}
