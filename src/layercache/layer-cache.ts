import type { Layer } from '../layer/index.ts';
import type { Descriptor } from '../oci/index.ts';
import { formatDuration, isAbortError, KilnError, type LookupOutcome, messageOf } from '../support/index.ts';
import { type CacheEntry, decodeEntry, type EncodedEntry, encodeEntry } from './entry.ts';
import type { EntryOrigin } from './entry-origin.ts';
import type { FileList } from './file-list.ts';
import type { CacheKey } from './keys.ts';
import type { LastBuild } from './last-build.ts';
import type { CacheTrust, EntrySigner } from './signature.ts';

/** A cache by its name, and as a place that blobs can be mounted from. */
export type CachePlace = Pick<LayerCache, 'location' | 'origin'>;

/** An entry that was found and may be used, on the rootfs that it was made on. */
export interface LookupHit {
  readonly outcome: 'hit';
  readonly entry: CacheEntry;
  readonly layer: Layer | undefined;
  /** The cache that has it. */
  readonly place: CachePlace;
  /** The id of the key that signed it, where keys were given. */
  readonly signedBy: string | undefined;
  /** What further caches have under the same key, in their order, perhaps made on another rootfs. */
  readonly others: readonly LookupHit[];
}

/** Why there is nothing to be used. */
export interface Missed {
  readonly outcome: Exclude<LookupOutcome, 'hit' | 'other-rootfs'>;
  readonly detail: string;
}

/** What asking for one key gave. */
export type LookupResult = LookupHit | Missed;

export interface LookupOptions {
  /** Entries older than this are `expired`; of each key its own, where they differ. */
  readonly maxAgeSeconds?: number | ((key: CacheKey) => number | undefined) | undefined;
  /** Told once of every cache that could not be asked. */
  readonly onFailure?: (location: string, result: Missed) => void;
  readonly signal?: AbortSignal | undefined;
}

/** A step's result about to be stored. */
export type NewEntry = Omit<CacheEntry, 'creator' | 'layer' | 'origin' | 'signature'> & {
  readonly origin?: EntryOrigin | undefined;
  /** What a copy took, to explain later misses. */
  readonly files?: FileList | undefined;
  /** Repositories that have the layer's blob already. */
  readonly origins?: readonly NonNullable<LayerCache['origin']>[];
};

/** Where results of steps are kept: a repository of a registry, or an OCI layout. */
export interface LayerCache {
  /** As the user named it. */
  readonly location: string;
  /** Where its blobs can be mounted from, when it is a repository. */
  readonly origin: { readonly registry: string; readonly repository: string } | undefined;
  /** Asks for all keys at once. Never throws for what a cache can do wrong; that is an outcome. */
  lookup(keys: readonly CacheKey[], options: LookupOptions): Promise<Map<CacheKey, LookupResult>>;
  /** Stores a result; the layer first, the entry that names it last. */
  store(entry: NewEntry, layer: Layer | undefined, signal?: AbortSignal): Promise<void>;
  /** What the last build of the same thing remembered of itself, by {@link lastBuildTag}. @throws as an {@link EntryStore} does. */
  recall(tag: string, signal?: AbortSignal): Promise<LastBuild | undefined>;
  /** Leaves that for the next one. */
  remember(tag: string, build: LastBuild, signal?: AbortSignal): Promise<void>;
}

/** Judges what was found under a key, in a place. */
export function judge(
  key: CacheKey,
  bytes: Uint8Array,
  { location, origin }: CachePlace,
  layerOf: (entry: CacheEntry) => Layer | undefined,
  { trusted, maxAgeSeconds }: LookupOptions & Pick<CacheTrust, 'trusted'>,
): LookupResult {
  let entry: CacheEntry;
  try {
    entry = decodeEntry(key, bytes);
  } catch (error) {
    return { outcome: 'corrupt', detail: messageOf(error) };
  }
  const signedBy = trusted?.signerOf(entry, entry.signature);
  if (trusted !== undefined && signedBy === undefined)
    return {
      outcome: 'untrusted',
      detail: 'the entry is not signed by a key given with --cache-verify-key',
    };
  const age = (Date.now() - entry.created.getTime()) / 1000;
  const longest = typeof maxAgeSeconds === 'function' ? maxAgeSeconds(key) : maxAgeSeconds;
  if (longest !== undefined && age > longest)
    return {
      outcome: 'expired',
      detail: `expired ${formatDuration(age - longest)} ago, made ${entry.created.toISOString()}`,
    };
  return { outcome: 'hit', entry, layer: layerOf(entry), place: { location, origin }, signedBy, others: [] };
}

/** The outcome that an error stands for. @throws the error when it is an abort. */
export function outcomeOf(error: unknown): Missed {
  if (isAbortError(error)) throw error;
  const code = error instanceof KilnError ? error.code : undefined;
  const outcome =
    code === 'E_REGISTRY_UNAUTHORIZED'
      ? 'unauthorized'
      : code === 'E_BLOB_CORRUPT' || code === 'E_OCI_MALFORMED'
        ? 'corrupt'
        : 'error';
  return { outcome, detail: messageOf(error) };
}

/** What the documents of an entry are made with. */
export interface EntryWriter {
  /** Version of Kiln. */
  readonly creator: string;
  readonly signer: EntrySigner | undefined;
}

/** The documents of a result that is about to be stored, signed where that is wanted. @throws KilnError `E_CACHE_SIGNING`. */
export async function encodeNewEntry(
  { files, origin, ...entry }: NewEntry,
  layer: Layer | undefined,
  { creator, signer }: EntryWriter,
  signal?: AbortSignal,
): Promise<EncodedEntry> {
  const unsigned = {
    ...entry,
    origin,
    creator,
    layer: layer === undefined ? null : { descriptor: layerDescriptor(layer), diffID: layer.diffID },
  };
  return encodeEntry({ ...unsigned, signature: await signer?.sign(unsigned, signal) }, files);
}

/** A layer as a manifest names it. */
export function layerDescriptor({ mediaType, digest, size }: Layer): Descriptor {
  return { mediaType, digest, size };
}
