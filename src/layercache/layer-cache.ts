import type { Layer } from '../layer/index.ts';
import { formatDuration, isAbortError, KilnError, type LookupOutcome, messageOf } from '../support/index.ts';
import { type CacheEntry, decodeEntry } from './entry.ts';
import type { EntryOrigin } from './entry-origin.ts';
import type { FileList } from './file-list.ts';
import type { CacheKey } from './keys.ts';
import type { LastBuild } from './last-build.ts';

/** What asking for one key gave. */
export type LookupResult =
  | { readonly outcome: 'hit'; readonly entry: CacheEntry; readonly layer: Layer | undefined }
  | { readonly outcome: Exclude<LookupOutcome, 'hit' | 'other-rootfs'>; readonly detail: string };

export interface LookupOptions {
  /** Entries older than this are `expired`; of each key its own, where they differ. */
  readonly maxAgeSeconds?: number | ((key: CacheKey) => number | undefined) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A step's result about to be stored. */
export type NewEntry = Omit<CacheEntry, 'creator' | 'layer' | 'origin'> & {
  readonly origin?: EntryOrigin | undefined;
  /** What a copy took, to explain later misses. */
  readonly files?: FileList | undefined;
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

/** Judges what was found under a key. */
export function judge(
  key: CacheKey,
  bytes: Uint8Array,
  layerOf: (entry: CacheEntry) => Layer | undefined,
  options: LookupOptions,
): LookupResult {
  let entry: CacheEntry;
  try {
    entry = decodeEntry(key, bytes);
  } catch (error) {
    return { outcome: 'corrupt', detail: messageOf(error) };
  }
  const age = (Date.now() - entry.created.getTime()) / 1000;
  const { maxAgeSeconds } = options;
  const longest = typeof maxAgeSeconds === 'function' ? maxAgeSeconds(key) : maxAgeSeconds;
  if (longest !== undefined && age > longest)
    return {
      outcome: 'expired',
      detail: `expired ${formatDuration(age - longest)} ago, made ${entry.created.toISOString()}`,
    };
  return { outcome: 'hit', entry, layer: layerOf(entry) };
}

/** The outcome that an error stands for. @throws the error when it is an abort. */
export function outcomeOf(error: unknown): LookupResult {
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
