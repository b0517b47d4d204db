import type { Reference } from '../oci/index.ts';
import type { RegistryClient } from '../registry/index.ts';
import { LayoutCache } from './layout-cache.ts';
import type { LayerCache } from './layer-cache.ts';
import { RegistryCache } from './registry-cache.ts';

export { type CacheEntry, decodeEntry, encodeEntry } from './entry.ts';
export { type CacheKey, describeKey, type KeyDefinition, keyOfTag, keyTag, stepKey } from './keys.ts';
export type { LayerCache, LookupOptions, LookupResult, NewEntry } from './layer-cache.ts';

/**
 * Opens the cache that a user named: `oci:DIR`, or a repository.
 *
 * @param creator recorded with every entry.
 * @throws UsageError when it is neither.
 */
export function openLayerCache(location: string, client: RegistryClient, creator: string): LayerCache {
  return location.startsWith('oci:')
    ? new LayoutCache(location.slice('oci:'.length), creator)
    : new RegistryCache(location, client, creator);
}

/** The cache repository of a destination when none is given, as kaniko has it: `<destination>/cache`. */
export function inferCacheRepository(destination: Reference): string {
  return `${destination.registry}/${destination.repository}/cache`;
}
