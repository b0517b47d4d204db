import { type LastBuild, lastBuildTag, type LayerCache, type StoredStep } from '../src/layercache/index.ts';
import { isAbortError, messageOf, type Progress } from '../src/support/index.ts';
import { type Evidence, explainPlan, keyedStep } from './explain/explanation.ts';
import type { PlannedStage, PlannedStep } from './plan.ts';

export interface MissReasonsParts {
  readonly cache: LayerCache;
  /** What is built; see {@link SourceOptions}. */
  readonly subject: string;
  readonly stages: readonly PlannedStage[];
  readonly resultOf: Evidence<StoredStep>['resultOf'];
  /** Whether this build leaves something for the next one. */
  readonly remembers: boolean;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

/** How long the end of a step is held back for its reason, in milliseconds: a cache may be slow to answer. */
const patience = 250;

/**
 * Why the steps of a build missed, compared with the last build of the same thing, which left the objects of its keys in
 * the cache. They are fetched while the first step that missed is at work, not while it is got ready: that is what a
 * person waits for. A build that hits throughout asks for nothing.
 */
export class MissReasons {
  readonly #parts: MissReasonsParts;
  #reasons: ReadonlyMap<PlannedStep, string> = new Map();
  #work: Promise<void> | undefined;

  constructor(parts: MissReasonsParts) {
    this.#parts = parts;
  }

  /** Finds the reasons, once however often it is called; resolves when they are known, or cannot be. */
  find(): Promise<void> {
    return (this.#work ??= this.#hasMissed() ? this.#compare() : Promise.resolve());
  }

  /** Why a step missed, in few words; undefined when that is not known, or not within a moment. */
  async of(step: PlannedStep): Promise<string | undefined> {
    if (this.#parts.resultOf(step)?.outcome === 'miss') await within(patience, this.find());
    return this.#reasons.get(step);
  }

  #hasMissed(): boolean {
    const { stages, resultOf } = this.#parts;
    return stages.some(({ steps }) => steps.some((step) => resultOf(step)?.outcome === 'miss'));
  }

  async #compare(): Promise<void> {
    const { cache, subject, remembers, progress, signal } = this.#parts;
    const tag = lastBuildTag(subject);
    try {
      const last = await cache.recall(tag, signal);
      if (last !== undefined) this.#explain(last);
      // After the last one was read: it has the same name.
      if (remembers) await cache.remember(tag, this.#ownSteps(), signal);
    } catch (error) {
      if (isAbortError(error) || signal.aborted) return;
      // Nothing but words is lost; what is wrong with the cache is said elsewhere.
      progress.emit({
        type: 'log',
        level: 'debug',
        message: `why steps missed is not known: ${messageOf(error)}`,
      });
    }
  }

  #explain({ at, steps }: LastBuild): void {
    const { stages, resultOf } = this.#parts;
    const stored = steps.map((step) => ({ ...step, created: at }));
    const explained = explainPlan(stages, { stored, resultOf });
    this.#reasons = new Map(
      explained.flatMap(({ steps: explanations }) =>
        explanations.flatMap(({ step, outcome, reasons: [first, ...others] }) => {
          if (outcome !== 'miss' || first === undefined) return [];
          return [[step, others.length === 0 ? first : `${first}, and ${others.length} more`] as const];
        }),
      ),
    );
  }

  #ownSteps(): LastBuild {
    const { stages } = this.#parts;
    const steps = stages.flatMap((stage) => stage.steps.flatMap((step) => keyedStep(stage, step) ?? []));
    return { at: new Date(), steps };
  }
}

/** Waits for what does not fail, at most so many milliseconds. */
async function within(milliseconds: number, work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, milliseconds)));
  await Promise.race([work, late]);
  clearTimeout(timer);
}
