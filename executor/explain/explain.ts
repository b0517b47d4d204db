import {
  type InventoryEntry,
  openEntryStore,
  openLayerCache,
  readInventory,
} from '../../src/layercache/index.ts';
import type { RegistryClient } from '../../src/registry/index.ts';
import { type Progress, systemErrorCode } from '../../src/support/index.ts';
import type { CacheOptions } from '../options.ts';
import { lookupsOf, type PlannedStage, type PlannedStep } from '../planned.ts';
import { explainPlan, type StageExplanation } from './explanation.ts';
import { nameFiles, type StoredEntry } from './file-reasons.ts';

type ExplainedCache = Omit<CacheOptions, 'push' | 'location'> & { readonly location: string };

/**
 * Looks everything up as a build does, and compares what misses with all that is in the cache. The cache is read whole only
 * when something misses.
 *
 * @throws RegistryError when the cache cannot be read.
 */
export async function explainStages(
  stages: readonly PlannedStage[],
  cache: ExplainedCache,
  client: RegistryClient,
  progress: Progress,
  signal: AbortSignal,
): Promise<StageExplanation<StoredEntry>[]> {
  const { keys, maxAgeSeconds } = lookupsOf(stages, cache.maxAgeSeconds);
  const lookups = await openLayerCache(cache.location, client, '').lookup(keys, { maxAgeSeconds, signal });
  const isAsked = ({ operation, uncached }: PlannedStep): boolean =>
    uncached === undefined &&
    (operation.kind === 'run' ? cache.runLayers : operation.kind === 'workdir' || cache.copyLayers);
  const misses = [...lookups.values()].some(({ outcome }) => outcome === 'miss');
  const store = openEntryStore(cache.location, client);
  const stored = misses ? await readStored() : [];
  const explained = explainPlan(stages, {
    stored,
    resultOf: (step) => (step.key === undefined || !isAsked(step) ? undefined : lookups.get(step.key)),
  });
  return Promise.all(
    explained.map(async ({ stage, steps }) => ({
      stage,
      steps: await Promise.all(steps.map((step) => nameFiles(step, store, progress, signal))),
    })),
  );

  async function readStored(): Promise<StoredEntry[]> {
    try {
      const { entries } = await readInventory(store, { descriptions: true, progress, signal });
      return entries.flatMap(storedEntry);
    } catch (error) {
      // An OCI layout that no build has made yet.
      if (systemErrorCode(error) === 'E_VOLUME_NOT_FOUND') return [];
      throw error;
    }
  }
}

function storedEntry(entry: InventoryEntry): StoredEntry[] {
  const { key, description, instruction, origin, created, config } = entry;
  return description === undefined ? [] : [{ key, description, instruction, origin, created, config }];
}
