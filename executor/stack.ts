import type { LookupHit } from '../src/layercache/index.ts';
import { type ChainID, extendChain } from '../src/oci/index.ts';
import type { BlobOrigin, PlacedLayer } from './image.ts';
import type { StepFiles } from './isolation/index.ts';
import type { PlannedStep } from './plan.ts';

/** One step's layer in a stage: known at once for a hit, written in the background or when asked for for a step that ran. */
export interface StackedLayer {
  /** Undefined when the step changed nothing. Reading it has the layer written, when it is not yet. */
  readonly placed: Promise<PlacedLayer | undefined>;
  /** The files of a step that ran here. */
  readonly files: StepFiles | undefined;
  /** When its step ran, also when that was in another build; undefined for layers of a base. */
  readonly created: Date | undefined;
  /** The step that made it; undefined for layers of a base. */
  readonly lineage: LayerLineage | undefined;
}

/** How a build came by the layer of a step. */
export interface LayerLineage {
  readonly step: PlannedStep;
  readonly stage: string;
  /** What was found in a cache; undefined when the step ran. */
  readonly hit: LookupHit | undefined;
}

/** A result of the cache that a step takes over. */
export interface Reused {
  readonly placed: PlacedLayer | undefined;
  readonly created: Date;
  readonly hit: LookupHit;
}

/** A stage's layers, lowest first. */
export interface StageResult {
  readonly stack: readonly StackedLayer[];
  /** What its own steps made or reused, in order. */
  readonly steps: readonly StackedLayer[];
}

/** The ChainID of a stack, known when all its layers are written. */
export async function chainOf(stack: readonly StackedLayer[]): Promise<ChainID | null> {
  let chain: ChainID | undefined;
  for (const { placed } of stack) {
    const layer = (await placed)?.layer;
    if (layer !== undefined) chain = extendChain(chain, layer.diffID);
  }
  return chain ?? null;
}

/** What a build takes over of a hit. @param hits all that there are under its key. */
export function reusedOf(hit: LookupHit, hits: readonly LookupHit[]): Reused {
  const { layer, entry } = hit;
  return {
    placed: layer === undefined ? undefined : { layer, origins: originsOf(hit, hits), isSizeClaimed: true },
    created: entry.created,
    hit,
  };
}

/** The repositories that have the blob of a hit, its own first. */
function originsOf({ place, layer }: LookupHit, hits: readonly LookupHit[]): BlobOrigin[] {
  const same = hits.filter((hit) => hit.layer !== undefined && hit.layer.digest === layer?.digest);
  return [place, ...same.map((hit) => hit.place)]
    .flatMap(({ origin }) => origin ?? [])
    .filter((origin, index, all) => all.indexOf(origin) === index);
}
