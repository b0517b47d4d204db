import type { CacheEntry, LookupHit, LookupResult } from '../src/layercache/index.ts';
import { type ChainID, extendChain } from '../src/oci/index.ts';
import { isLinked, type PlannedStage, type PlannedStep } from './plan.ts';

/** What the cache said of a step; undefined when it was not asked or its answer may not be used. */
export type ResultOf = (step: PlannedStep) => LookupResult | undefined;

/**
 * What is known of a stage before any of it is built: its first steps up to `certain` are taken from the cache. `chain` is
 * what they end in; undefined when a step after them, or the base, has to be built first.
 */
export interface Forecast {
  readonly certain: number;
  readonly chain: ChainID | null | undefined;
}

/** Follows a stage's lookups as long as each was made on exactly what the ones before it give. */
export function forecast(stage: PlannedStage, resultOf: ResultOf): Forecast {
  let chain = chainBelow(stage, resultOf);
  let certain = 0;
  for (const step of stage.steps) {
    const hit = chain === undefined ? undefined : fittingHit(chain, step, resultOf(step));
    if (hit === undefined) return { certain, chain: undefined };
    if (hit.entry.layer !== null) chain = extendChain(chain ?? undefined, hit.entry.layer.diffID);
    certain++;
  }
  return { certain, chain };
}

/**
 * The stages that steps copy from which are not taken from the cache for certain. A layer that is made on nothing fits
 * whatever comes before it, so one that hits needs no source.
 */
export function wantedSources(stage: PlannedStage, resultOf: ResultOf): PlannedStage[] {
  return stage.steps.slice(forecast(stage, resultOf).certain).flatMap((step) => {
    const hits = isLinked(step) && resultOf(step)?.outcome === 'hit';
    return step.source?.kind === 'stage' && !hits ? [step.source.stage] : [];
  });
}

/**
 * What caches have under a step's key that was made on exactly what is below it in this build; with `--link`, on nothing.
 * When several have such a layer, their order decides.
 */
export function fittingHit(
  chain: ChainID | null,
  step: PlannedStep,
  result: LookupResult | undefined,
): LookupHit | undefined {
  if (result?.outcome !== 'hit') return undefined;
  return [result, ...result.others].find(({ entry }) => fitsOn(chain, step, entry));
}

function fitsOn(
  chain: ChainID | null,
  step: PlannedStep,
  { parentChainID }: Pick<CacheEntry, 'parentChainID'>,
): boolean {
  return parentChainID === (isLinked(step) ? null : chain);
}

function chainBelow({ base }: PlannedStage, resultOf: ResultOf): ChainID | null | undefined {
  if (base.kind === 'stage') return forecast(base.stage, resultOf).chain;
  return base.kind === 'image' ? base.image.chainID : null;
}

/** Whether a stage, or one that it is made from, has such a step. */
export function hasStep(
  stage: PlannedStage,
  isSuch: (step: PlannedStep) => boolean,
  seen = new Set<PlannedStage>(),
): boolean {
  if (seen.has(stage)) return false;
  seen.add(stage);
  const origins = [stage.base, ...stage.steps.map(({ source }) => source)];
  return (
    stage.steps.some(isSuch) ||
    origins.some((origin) => origin?.kind === 'stage' && hasStep(origin.stage, isSuch, seen))
  );
}
