import {
  type EntryStore,
  type InventoryEntry,
  type LookupOptions,
  openEntryStore,
  openLayerCaches,
  openTrust,
  readInventory,
} from '../../src/layercache/index.ts';
import type { RegistryClient } from '../../src/registry/index.ts';
import { type Progress, systemErrorCode } from '../../src/support/index.ts';
import type { CacheOptions } from '../options.ts';
import { lookupsOf, type PlannedStage, type PlannedStep } from '../plan.ts';
import { explainPlan, type StageExplanation } from './explanation.ts';
import { nameFiles, type StoredEntry } from './file-reasons.ts';

/**
 * Looks everything up as a build does, and compares what misses with all that is in the caches. They are read whole only
 * when something misses.
 *
 * @throws RegistryError when a cache cannot be read.
 */
export async function explainStages(
  stages: readonly PlannedStage[],
  cache: CacheOptions,
  client: RegistryClient,
  progress: Progress,
  signal: AbortSignal,
): Promise<StageExplanation<StoredEntry>[]> {
  const { keys, maxAgeSeconds } = lookupsOf(stages, cache.maxAgeSeconds);
  const { sources } = cache;
  const trust = await openTrust({ signKey: undefined, verifyKeys: cache.verifyKeys });
  const caches = openLayerCaches({ sources, target: undefined }, client, '', trust);
  const onFailure: LookupOptions['onFailure'] = (location, { outcome, detail }) =>
    progress.warn(`the layer cache ${location} cannot be read (${outcome}): ${detail}`);
  const lookups = await caches.lookup(keys, { maxAgeSeconds, onFailure, signal });
  const isAsked = ({ operation, uncached }: PlannedStep): boolean =>
    uncached === undefined &&
    (operation.kind === 'run' ? cache.runLayers : operation.kind === 'workdir' || cache.copyLayers);
  const misses = [...lookups.values()].some(({ outcome }) => outcome === 'miss');
  const stores = sources.map((location) => openEntryStore(location, client));
  const stored = misses ? (await Promise.all(stores.map(readStored))).flat() : [];
  const explained = explainPlan(stages, {
    stored,
    resultOf: (step) => (step.key === undefined || !isAsked(step) ? undefined : lookups.get(step.key)),
  });
  return Promise.all(
    explained.map(async ({ stage, steps }) => ({
      stage,
      steps: await Promise.all(steps.map((step) => nameFiles(step, progress, signal))),
    })),
  );

  async function readStored(store: EntryStore): Promise<StoredEntry[]> {
    try {
      const { entries } = await readInventory(store, { descriptions: true, progress, signal });
      return entries.flatMap((entry) => storedEntry(store, entry));
    } catch (error) {
      // An OCI layout that no build has made yet.
      if (systemErrorCode(error) === 'E_VOLUME_NOT_FOUND') return [];
      throw error;
    }
  }
}

function storedEntry(store: EntryStore, entry: InventoryEntry): StoredEntry[] {
  const { key, description, instruction, origin, created, config } = entry;
  return description === undefined ? [] : [{ store, key, description, instruction, origin, created, config }];
}
