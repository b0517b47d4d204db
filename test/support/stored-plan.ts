import { describeKey, foldFileList, type LayerCache } from '../../src/layercache/index.ts';
import { type ChainID, extendChain } from '../../src/oci/index.ts';
import { isLinked, originOf, type PlannedStage } from '../../executor/planned.ts';
import { fakeLayer } from './cache-chains.ts';

/** Stores an entry for every step of a plan, as if it had been built; nothing is run. */
export async function storePlan(
  cache: LayerCache,
  stages: readonly PlannedStage[],
  options: { readonly hoursAgo?: number; readonly results?: string } = {},
): Promise<void> {
  const created = new Date(Date.now() - (options.hoursAgo ?? 1) * 3600_000);
  const chains = new Map<PlannedStage, ChainID | null>();
  for (const stage of stages) {
    let chain = stage.base.kind === 'image' ? stage.base.image.chainID : null;
    if (stage.base.kind === 'stage') chain = chains.get(stage.base.stage) ?? null;
    for (const step of stage.steps) {
      const { key, definition, written, files } = step;
      if (key === undefined || definition === undefined) throw new Error('the plan has no keys');
      const layer = fakeLayer(`${key} ${options.results ?? ''}`);
      await cache.store(
        {
          ...{
            key,
            parentChainID: isLinked(step) ? null : chain,
            created,
            createdBy: written,
            origin: originOf(stage, step),
          },
          description: describeKey(definition),
          files: files === undefined ? undefined : foldFileList(files),
        },
        layer,
      );
      chain = extendChain(chain ?? undefined, layer.diffID);
    }
    chains.set(stage, chain);
  }
}
