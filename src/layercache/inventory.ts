import PQueue from 'p-queue';
import { type ChainID, type Descriptor, type Digest, type DiffID } from '../oci/index.ts';
import { type CanonicalValue, isAbortError, messageOf, type Progress } from '../support/index.ts';
import { type CacheEntry, decodeStoredEntry } from './entry.ts';
import { baseKeyOf, type EntryOrigin } from './entry-origin.ts';
import type { EntryStore } from './entry-store.ts';
import { addHits, isHitsTag, readHits } from './hits.ts';
import { isLastBuildTag } from './last-build.ts';
import { type CacheKey, keyOfTag, keyTag } from './keys.ts';
import type { TrustedKeys } from './signature.ts';

/** An entry of a cache, as far as listing and pruning need it. */
export interface InventoryEntry {
  readonly key: CacheKey;
  readonly kind: string;
  /** The key below it: of another entry, or of a base; copies with `--link` may lie between them. */
  readonly parent: CacheKey;
  /** Copies with `--link` right below it, lowest first. */
  readonly links: readonly CacheKey[];
  /** A copy with `--link`, whose layer is made on nothing. */
  readonly linked: boolean;
  /** Of a copy from a stage or image, the key of what was copied from. */
  readonly source: CacheKey | undefined;
  /** The instruction as written. */
  readonly instruction: string;
  readonly created: Date;
  readonly creator: string;
  /** When a build last took it; undefined when no such hit was recorded. */
  readonly usedAt: Date | undefined;
  readonly origin: EntryOrigin | undefined;
  /** Undefined when it is not signed, or not in a way that is known. */
  readonly signature: SignatureState | undefined;
  readonly parentChainID: ChainID | null;
  readonly diffID: DiffID | undefined;
  /** Of its manifest. */
  readonly digest: Digest;
  /** Manifest, configuration and layer. */
  readonly blobs: readonly Blob[];
  /** Bytes of its layer. */
  readonly size: number;
  /** Of its configuration, which may say what a copy took. */
  readonly config: Descriptor;
  /** What the key is the hash of; only when that was asked for. */
  readonly description: CanonicalValue | undefined;
}

/** Who signed an entry, as far as that is known. */
export interface SignatureState {
  /** The id of a key: of one that was given and did sign it, or else what the entry itself says. */
  readonly keyID: string | undefined;
  /** Undefined when no keys were given. */
  readonly valid: boolean | undefined;
}

interface Blob {
  readonly digest: Digest;
  readonly size: number;
}

/** A tag of an entry's form whose manifest is none. */
export interface DamagedEntry {
  readonly tag: string;
  readonly digest: Digest | undefined;
  readonly why: string;
}

/** What is in a cache. */
export interface CacheInventory {
  readonly entries: readonly InventoryEntry[];
  readonly damaged: readonly DamagedEntry[];
  /** Tags of records of hits. */
  readonly hitRecords: readonly string[];
  /** Tags of what builds remember of themselves. */
  readonly lastBuilds: readonly string[];
  /** Tags of others: images, caches of other tools and versions. */
  readonly alien: readonly string[];
}

export interface InventoryOptions {
  /** Keeps the objects of the keys too. */
  readonly descriptions?: boolean;
  /** Keys that signatures are verified with. */
  readonly trusted?: TrustedKeys | undefined;
  readonly progress?: Progress | undefined;
  readonly signal?: AbortSignal | undefined;
}

const requestsAtOnce = 8;
/** Entries that are read at most; a registry that lists more is not believed. */
const maximumTags = 200_000;

/**
 * Reads a whole cache: its tags by page, and the manifest of every entry, some at a time.
 *
 * @throws RegistryError, `E_VOLUME_NOT_FOUND` for a layout that is not there; an entry that is no good is no error.
 */
export async function readInventory(
  store: EntryStore,
  { descriptions = false, trusted, progress, signal }: InventoryOptions = {},
): Promise<CacheInventory> {
  const tags = await listAll(store, signal);
  const entries: InventoryEntry[] = [];
  const damaged: DamagedEntry[] = [];
  const hits = new Map<CacheKey, number>();
  const hitRecords = tags.filter(isHitsTag);
  const keys = tags.flatMap((tag) => keyOfTag(tag) ?? []);
  let done = 0;
  const tell = (): void =>
    progress?.emit({
      type: 'count',
      id: `read ${store.location}`,
      label: `reading ${store.location}`,
      count: done,
      total: keys.length,
      done: done === keys.length,
    });
  await forEach(hitRecords, signal, async (tag) => {
    try {
      addHits(hits, await readHits(store, tag, signal));
    } catch (error) {
      if (isAbortError(error)) throw error;
      progress?.warn(`a record of hits is not used: ${messageOf(error)}`);
    }
  });
  await forEach(keys, signal, async (key) => {
    const found = await store.readManifest(keyTag(key), signal);
    // Gone since it was listed.
    if (found !== undefined) {
      const { digest } = found.descriptor;
      try {
        entries.push(describe(key, found, hits.get(key), { descriptions, trusted }));
      } catch (error) {
        damaged.push({ tag: keyTag(key), digest, why: messageOf(error) });
      }
    }
    done += 1;
    if (done % 50 === 0 || done === keys.length) tell();
  });
  return {
    entries: entries.sort((a, b) => (a.key < b.key ? -1 : 1)),
    damaged,
    hitRecords,
    lastBuilds: tags.filter(isLastBuildTag),
    alien: tags.filter((tag) => keyOfTag(tag) === undefined && !isHitsTag(tag) && !isLastBuildTag(tag)),
  };
}

/** All tags of a cache, each once. */
export async function listAll(store: EntryStore, signal?: AbortSignal): Promise<string[]> {
  const tags = new Set<string>();
  for await (const tag of store.listTags(signal)) if (tags.size < maximumTags) tags.add(tag);
  return [...tags];
}

/** Does something with every item, some at a time; the first failure ends it. */
export async function forEach<T>(
  items: readonly T[],
  signal: AbortSignal | undefined,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const queue = new PQueue({ concurrency: requestsAtOnce });
  let failed = false;
  let failure: unknown;
  for (const item of items) {
    // Few wait at a time, so that thousands of tags are not thousands of promises.
    await queue.onSizeLessThan(requestsAtOnce * 2);
    if (failed) break;
    signal?.throwIfAborted();
    void queue.add(async () => {
      try {
        if (!failed) await work(item);
      } catch (error) {
        if (!failed) failure = error;
        failed = true;
      }
    });
  }
  await queue.onIdle();
  if (failed) throw failure;
}

function describe(
  key: CacheKey,
  { descriptor, bytes, usedAt }: NonNullable<Awaited<ReturnType<EntryStore['readManifest']>>>,
  hit: number | undefined,
  { descriptions = false, trusted }: InventoryOptions,
): InventoryEntry {
  const { entry, config } = decodeStoredEntry(key, bytes);
  const { origin } = entry;
  const { kind, parent, source } = entry.description as Record<string, unknown>;
  const layer = entry.layer?.descriptor;
  // A layout knows a time for everything; that of its making is no use.
  const seen =
    usedAt !== undefined && usedAt.getTime() - entry.created.getTime() > 60_000 ? usedAt : undefined;
  const used = Math.max((hit ?? 0) * 1000, seen?.getTime() ?? 0);
  return {
    key,
    kind: String(kind),
    // What is made on nothing is shown on the base that it was first used with.
    parent: parentOf(parent, origin),
    links: parent === null ? [] : (origin?.ground?.links ?? []),
    linked: parent === null,
    source: typeof source === 'string' ? (source as CacheKey) : undefined,
    instruction: entry.createdBy,
    created: entry.created,
    creator: entry.creator,
    usedAt: used === 0 ? undefined : new Date(used),
    origin,
    signature: signatureOf(entry, trusted),
    parentChainID: entry.parentChainID,
    diffID: entry.layer?.diffID,
    digest: descriptor.digest,
    blobs: [descriptor, config, ...(layer === undefined ? [] : [layer])].map(({ digest, size }) => ({
      digest,
      size,
    })),
    size: layer?.size ?? 0,
    config,
    description: descriptions ? entry.description : undefined,
  };
}

function signatureOf(entry: CacheEntry, trusted: TrustedKeys | undefined): SignatureState | undefined {
  const { signature } = entry;
  if (signature === undefined) return undefined;
  const signer = trusted?.signerOf(entry, signature);
  return { keyID: signer ?? signature.keyID, valid: trusted && signer !== undefined };
}

function parentOf(parent: unknown, origin: EntryOrigin | undefined): CacheKey {
  if (typeof parent === 'string') return origin?.ground?.key ?? (parent as CacheKey);
  return origin === undefined ? noParent : baseKeyOf(origin.base);
}

const noParent = '' as CacheKey;
