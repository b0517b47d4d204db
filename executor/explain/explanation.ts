import {
  describeKey,
  type Difference,
  differences,
  type KeyedStep,
  type LookupHit,
  type LookupResult,
  nearestStep,
  type StoredStep,
} from '../../src/layercache/index.ts';
import { type ChainID, extendChain, formatReference } from '../../src/oci/index.ts';
import type { LookupOutcome } from '../../src/support/index.ts';
import { fittingHit } from '../forecast.ts';
import { isLinked, originOf, type PlannedStage, type PlannedStep } from '../plan.ts';

/**
 * What a step's lookup came to. `found`: there is an entry, which is used if what runs below it comes out as it did;
 * `not-asked`: it is not to be taken from the cache.
 */
export type StepOutcome = LookupOutcome | 'found' | 'not-asked';

/** Why a step is, or is not, taken from the cache. */
export interface StepExplanation<Stored extends StoredStep = StoredStep> {
  readonly step: PlannedStep;
  readonly outcome: StepOutcome;
  /** Of a hit, or what was found: the entry, and the cache that has it. */
  readonly hit: LookupHit | undefined;
  /** In words, the first one first; empty for a hit. */
  readonly reasons: readonly string[];
  readonly differences: readonly Difference[];
  /** What a miss was compared with. */
  readonly nearest: Stored | undefined;
}

export interface StageExplanation<Stored extends StoredStep = StoredStep> {
  readonly stage: PlannedStage;
  readonly steps: readonly StepExplanation<Stored>[];
}

/** What explanations are made from. */
export interface Evidence<Stored extends StoredStep> {
  /** Steps that were stored, to compare misses with. */
  readonly stored: readonly Stored[];
  /** What the cache said; undefined for a step that is not asked for. */
  readonly resultOf: (step: PlannedStep) => LookupResult | undefined;
}

/** Explains every step of a plan, without building anything. */
export function explainPlan<Stored extends StoredStep>(
  stages: readonly PlannedStage[],
  evidence: Evidence<Stored>,
): StageExplanation<Stored>[] {
  const chains = new Map<PlannedStage, ChainID | null | undefined>();
  return stages.map((stage) => {
    const explainer = new StageExplainer(stage, evidence, chainBelow(stage, chains));
    const steps = stage.steps.map((step) => explainer.explain(step));
    chains.set(stage, explainer.chain);
    return { stage, steps };
  });
}

function chainBelow(
  { base }: PlannedStage,
  chains: ReadonlyMap<PlannedStage, ChainID | null | undefined>,
): ChainID | null | undefined {
  if (base.kind === 'stage') return chains.get(base.stage);
  return base.kind === 'image' ? base.image.chainID : null;
}

class StageExplainer<Stored extends StoredStep> {
  readonly #stage: PlannedStage;
  readonly #evidence: Evidence<Stored>;
  readonly #present: ReadonlySet<string>;
  /** What is below the next step; undefined when a step before it has to run. */
  chain: ChainID | null | undefined;
  /** What the step before was, or was found nearest to. */
  #ground: KeyedStep | undefined;
  /** The first step that is not from the cache. */
  #cause: PlannedStep | undefined;

  constructor(stage: PlannedStage, evidence: Evidence<Stored>, chain: ChainID | null | undefined) {
    this.#stage = stage;
    this.#evidence = evidence;
    this.#present = new Set(stage.steps.map(({ written }) => written));
    this.chain = chain;
  }

  explain(step: PlannedStep): StepExplanation<Stored> {
    const keyed = keyedStep(this.#stage, step);
    const result = this.#evidence.resultOf(step);
    const explanation = this.#judge(step, keyed, result);
    const isHit = explanation.outcome === 'hit';
    const layer = isHit ? explanation.hit?.entry.layer : undefined;
    if (!isHit) this.chain = undefined;
    else if (layer != null && this.chain !== undefined)
      this.chain = extendChain(this.chain ?? undefined, layer.diffID);
    this.#ground = explanation.nearest ?? keyed;
    if (!isHit && explanation.outcome !== 'found') this.#cause ??= step;
    return explanation;
  }

  #judge(
    step: PlannedStep,
    keyed: KeyedStep | undefined,
    result: LookupResult | undefined,
  ): StepExplanation<Stored> {
    const say = (
      outcome: StepOutcome,
      reasons: readonly string[] = [],
      hit?: LookupHit,
    ): StepExplanation<Stored> => ({
      ...{ step, outcome, hit, reasons, differences: [], nearest: undefined },
    });
    if (result === undefined || keyed === undefined)
      return say('not-asked', [step.uncached ?? 'it is not cached']);
    if (result.outcome === 'miss') return this.#explainMiss(step, keyed);
    if (result.outcome !== 'hit') return say(result.outcome, [result.detail]);
    // Made on nothing, it fits whatever comes before it.
    const chain = isLinked(step) ? null : this.chain;
    if (chain === undefined)
      return say('found', [`used if ${this.#causeName()} comes out as it did when this was made`], result);
    const hit = fittingHit(chain, step, result);
    return hit === undefined ? say('other-rootfs', ['made on another rootfs']) : say('hit', [], hit);
  }

  #explainMiss(step: PlannedStep, keyed: KeyedStep): StepExplanation<Stored> {
    const { stored } = this.#evidence;
    const nearest = nearestStep(keyed, stored, this.#ground, this.#present);
    const say = (...reasons: readonly string[]): StepExplanation<Stored> => ({
      ...{ step, outcome: 'miss', hit: undefined, reasons, differences: [], nearest },
    });
    if (stored.length === 0) return say('the cache has nothing yet to compare with');
    if (nearest === undefined) return say('nothing like it is in the cache: the instruction is new');
    if (nearest.key === keyed.key)
      return say('the last build looked for it too: its result was never stored, or was pruned');
    const words = { argumentNames: argumentNames(step), sourceName: sourceName(step) };
    const found = differences(keyed, nearest, words).map((difference) =>
      difference.field === 'parent' ? { ...difference, words: this.#parentWords() } : difference,
    );
    return {
      ...{ step, outcome: 'miss', hit: undefined },
      reasons: found.map(({ words: text }) => text),
      differences: found,
      nearest,
    };
  }

  #parentWords(): string {
    return this.#cause === undefined ? 'what it stands on changed' : `${this.#causeName()} changed`;
  }

  #causeName(): string {
    if (this.#cause !== undefined) return `${this.#cause.id} ${this.#cause.written.split(' ', 1)[0] ?? ''}`;
    const { base } = this.#stage;
    return base.kind === 'stage' ? `stage ${base.stage.label}` : 'what is below it';
  }
}

/** A planned step as it is compared; undefined when it has no key. */
export function keyedStep(stage: PlannedStage, step: PlannedStep): KeyedStep | undefined {
  const { key, definition, written: instruction } = step;
  if (key === undefined || definition === undefined) return undefined;
  return { key, description: describeKey(definition), instruction, origin: originOf(stage, step) };
}

function argumentNames({ operation }: PlannedStep): ReadonlySet<string> {
  return operation.kind === 'run' ? operation.argumentNames : new Set();
}

function sourceName({ source }: PlannedStep): string | undefined {
  if (source?.kind === 'stage') return `stage ${source.stage.label}`;
  return source?.kind === 'image' ? `the content of ${formatReference(source.image.reference)}` : undefined;
}
