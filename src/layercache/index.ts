import type { Reference } from '../oci/index.ts';
import type { RegistryClient } from '../registry/index.ts';
import type { EntryStore } from './entry-store.ts';
import { CombinedCache } from './combined-cache.ts';
import { LayoutCache } from './layout-cache.ts';
import { LayoutEntries } from './layout-entries.ts';
import type { LayerCache } from './layer-cache.ts';
import { RegistryCache } from './registry-cache.ts';
import { RegistryEntries } from './registry-entries.ts';
import type { CacheTrust } from './signature.ts';
import type { TrustFlags } from './signing-keys.ts';

export { type Difference, differences, type KeyedStep, type StepWords } from './differences.ts';
export { type CacheEntry, decodeEntry, encodeEntry } from './entry.ts';
export { baseKeyOf, type EntryBase, type EntryOrigin } from './entry-origin.ts';
export type { EntryStore } from './entry-store.ts';
export { compareFileLists, decodeFileList, type FileList, foldFileList } from './file-list.ts';
export { EntryForest } from './forest.ts';
export { addHits, encodeHits, type Hits, hitsTag, readHits } from './hits.ts';
export { type CacheInventory, type DamagedEntry, type InventoryEntry, readInventory } from './inventory.ts';
export { type CacheKey, describeKey, type KeyDefinition, keyOfTag, keyTag, stepKey } from './keys.ts';
export { type LastBuild, lastBuildTag, type RememberedStep } from './last-build.ts';
export type { LayerCache, LookupHit, LookupOptions, LookupResult, NewEntry } from './layer-cache.ts';
export { nearestStep, type StoredStep } from './nearest.ts';
export {
  defaultGraceSeconds,
  type EntryPolicy,
  type EntryPrunePlan,
  planEntryPrune,
} from './prune-entries.ts';
export { type EntryPruneResult, pruneEntries } from './prune-store.ts';
export { type CacheTrust, TrustedKeys } from './signature.ts';

/** Reads keys that were named by flags; what that takes is loaded only then. @throws UsageError. */
export async function openTrust(flags: TrustFlags): Promise<CacheTrust> {
  if (flags.signKey === undefined && flags.verifyKeys.length === 0) return {};
  const keys = await import('./signing-keys.ts');
  return keys.openTrust(flags);
}

/**
 * Opens the cache that a user named: `oci:DIR`, or a repository.
 *
 * @param creator recorded with every entry.
 * @param trust who signs what is stored, and whose signature is wanted of what is found (default: nobody).
 * @throws UsageError when it is neither.
 */
export function openLayerCache(
  location: string,
  client: RegistryClient,
  creator: string,
  trust: CacheTrust = {},
): LayerCache {
  return location.startsWith('oci:')
    ? new LayoutCache(location.slice('oci:'.length), creator, trust)
    : new RegistryCache(location, client, creator, trust);
}

/**
 * Opens the caches that a build reads, in their order, and the one that it writes, as one.
 *
 * @param target undefined when nothing is to be stored.
 * @throws UsageError when one is neither.
 */
export function openLayerCaches(
  { sources, target }: { readonly sources: readonly string[]; readonly target: string | undefined },
  client: RegistryClient,
  creator: string,
  trust: CacheTrust,
): LayerCache {
  const opened = new Map<string, LayerCache>();
  for (const location of target === undefined ? sources : [...sources, target])
    if (!opened.has(location)) opened.set(location, openLayerCache(location, client, creator, trust));
  const read = new Set(sources);
  return new CombinedCache(
    [...opened.values()].filter(({ location }) => read.has(location)),
    target === undefined ? undefined : opened.get(target),
  );
}

/**
 * Opens the same for whoever lists or prunes it.
 *
 * @throws UsageError when it is neither.
 */
export function openEntryStore(location: string, client: RegistryClient): EntryStore {
  return location.startsWith('oci:')
    ? new LayoutEntries(location.slice('oci:'.length))
    : new RegistryEntries(location, client);
}

/** The cache repository of a destination when none is given, as kaniko has it: `<destination>/cache`. */
export function inferCacheRepository(destination: Reference): string {
  return `${destination.registry}/${destination.repository}/cache`;
}
