import { fileLayer } from '../src/layer/index.ts';
import { type LookupResult, stepKey } from '../src/layercache/index.ts';
import { BuildError, isAbortError, KilnError, messageOf } from '../src/support/index.ts';
import { fittingHit, wantedSources } from './forecast.ts';
import type { PlacedLayer } from './image.ts';
import type { LayerStack, Rootfs } from './isolation/index.ts';
import {
  isLinked,
  type PlannedBase,
  type PlannedStage,
  type PlannedStep,
  sourcesOf,
  sourceStagesOf,
} from './planned.ts';
import type { BuildSession } from './session.ts';
import { chainOf, type Reused, reusedOf, type StackedLayer, type StageResult } from './stack.ts';
import { contentDefinition, executeStep, type StepStage } from './step-work.ts';

/** Builds one stage: reuses what hits on exactly this rootfs, runs the rest, hands every new layer to the cache. */
export class StageBuilder {
  readonly #session: BuildSession;
  readonly #stage: PlannedStage;
  readonly #stack: StackedLayer[] = [];
  readonly #made: StackedLayer[] = [];
  /** Why a step is not taken from the cache, when that shows at once. */
  readonly #outcomes = new Map<PlannedStep, string>();
  #rootfs: Rootfs | undefined;
  readonly #access: StepStage = {
    openRootfs: (step) => this.#openRootfs(step),
    layersOf: (source) => this.#sourceLayers(source),
    chainOf: async (source) => chainOf(await this.#session.stackOf(source)),
  };

  constructor(session: BuildSession, stage: PlannedStage) {
    this.#session = session;
    this.#stage = stage;
  }

  async build(): Promise<StageResult> {
    this.#startSources();
    this.#stack.push(...(await this.#session.stackOf(this.#stage.base)));
    try {
      await this.#awaitSources();
      for (const step of this.#stage.steps) {
        const layer = await this.#perform(step);
        this.#stack.push(layer);
        this.#made.push(layer);
      }
    } finally {
      await this.#leave();
    }
    return { stack: this.#stack, steps: this.#made };
  }

  /**
   * Starts the stages that steps copy from or mount which are not taken from the cache for certain, so that they run beside this
   * one, and so that every stage that is built is known before anything is taken from the cache.
   */
  #startSources(): void {
    for (const source of this.#wantedSources()) this.#session.startStage(source);
  }

  /** Where stages share one root they cannot run beside this one, so they come before it. */
  async #awaitSources(): Promise<void> {
    if (!this.#session.isolation.isExclusive) return;
    for (const source of this.#wantedSources()) await this.#session.stage(source);
  }

  #wantedSources(): PlannedStage[] {
    return wantedSources(this.#stage, this.#session.resultFor);
  }

  async #perform(step: PlannedStep): Promise<StackedLayer> {
    const { progress, signal } = this.#session;
    signal.throwIfAborted();
    progress.emit({ type: 'step-start', step: step.id, text: step.text, line: step.line });
    const started = performance.now();
    const seconds = (): number => (performance.now() - started) / 1000;
    try {
      const reused = await this.#reuseByKey(step);
      if (reused !== undefined) return this.#cached(step, reused, seconds());
      const byContent = await this.#reuseByContent(step);
      if (byContent !== undefined) return this.#cached(step, byContent, seconds());
      // What is made on nothing has a root file system of its own, and what comes after it one with its layer.
      if (this.#isApart(step)) await this.#leave();
      await executeStep(this.#session, step, this.#access);
      const layer = await this.#layerAfter(step);
      if (this.#isApart(step)) await this.#leave();
      const detail = this.#outcomes.get(step) ?? (await this.#session.reasonOf(step));
      progress.emit({
        type: 'step-end',
        step: step.id,
        outcome: 'ran',
        seconds: seconds(),
        ...(detail === undefined ? {} : { detail }),
      });
      return layer;
    } catch (error) {
      if (!signal.aborted)
        progress.emit({ type: 'step-end', step: step.id, outcome: 'failed', seconds: seconds() });
      throw atStep(error, step);
    }
  }

  /** What the cache has under a step's key, unless it was made with another build of a stage that this one built too. */
  async #reuseByKey(step: PlannedStep): Promise<Reused | undefined> {
    const result = this.#session.resultFor(step);
    if (result?.outcome === 'hit')
      for (const source of sourceStagesOf(step))
        if (await this.#session.isMadeHere(source)) {
          this.tellLookup(step, 'other-rootfs', 'its source was built anew');
          return undefined;
        }
    return this.#reuse(step, result);
  }

  /** The layer of a hit, when it was made on exactly the rootfs that this build has here. */
  async #reuse(step: PlannedStep, result: LookupResult | undefined): Promise<Reused | undefined> {
    if (result === undefined || step.key === undefined) return undefined;
    const tell = (outcome: Parameters<typeof this.tellLookup>[1], detail?: string): void =>
      this.tellLookup(step, outcome, detail);
    if (result.outcome !== 'hit') {
      tell(result.outcome, result.detail);
      return undefined;
    }
    const hit = fittingHit(await chainOf(this.#stack), step, result);
    if (hit === undefined) {
      tell('other-rootfs', 'its layer was made on another rootfs');
      return undefined;
    }
    this.tellLookup(step, 'hit', undefined, hit.place.location);
    return reusedOf(hit, [result, ...result.others]);
  }

  /** Tells the listeners what a lookup gave. */
  tellLookup(
    step: PlannedStep,
    outcome: 'hit' | 'other-rootfs' | LookupResult['outcome'],
    detail?: string,
    location?: string,
  ): void {
    // A cache that cannot be asked is warned of once.
    if (['expired', 'other-rootfs', 'corrupt', 'untrusted'].includes(outcome))
      this.#outcomes.set(step, detail ?? outcome);
    this.#session.progress.emit({
      type: 'cache',
      step: step.id,
      key: step.key ?? '',
      outcome,
      ...(location === undefined ? {} : { location }),
      ...(detail === undefined ? {} : { detail }),
    });
  }

  #cached(step: PlannedStep, reused: Reused, seconds: number): StackedLayer {
    const size = reused.placed?.layer.size;
    this.#session.progress.emit({
      type: 'step-end',
      step: step.id,
      outcome: 'cached',
      seconds,
      ...(size === undefined ? {} : { bytes: size }),
    });
    // The mounted tree lacks this layer; a later step that runs opens a new one.
    if (this.#rootfs !== undefined) this.#session.background(this.#leave());
    const { placed, created, hit } = reused;
    const lineage = { step, stage: this.#stage.label, hit };
    return { placed: Promise.resolve(placed), files: undefined, created, lineage };
  }

  /** A step may have been given the same files by another build of a stage that it copies from or mounts. */
  async #reuseByContent(step: PlannedStep): Promise<Reused | undefined> {
    const { cache } = this.#session;
    if (
      cache === undefined ||
      step.key === undefined ||
      step.uncached !== undefined ||
      !this.#session.isCacheable(step) ||
      sourcesOf(step).length === 0
    )
      return undefined;
    const definition = await contentDefinition(this.#session, step, this.#access);
    if (definition === undefined) return undefined;
    this.#session.contentDefinitions.set(step, definition);
    const key = stepKey(definition);
    const results = await cache.lookup([key], this.#session.lookupOptionsOf(step));
    const result = results.get(key);
    if (result?.outcome !== 'hit') return undefined;
    const reused = await this.#reuse(step, result);
    // Next time the first key finds it, before the source stage exists.
    if (reused !== undefined)
      this.#session.storeInCache(
        this.#stage,
        step,
        await chainOf(this.#below(step)),
        reused.placed?.layer,
        reused.created,
        { contentKnown: true, origins: reused.placed?.origins },
      );
    return reused;
  }

  /** What another stage or an image has. Where stages share one root, this one lets others have it while it waits. */
  async #sourceLayers(source: PlannedBase): Promise<LayerStack> {
    const { isolation } = this.#session;
    if (isolation.isExclusive && source.kind === 'stage' && !this.#session.isBuilt(source.stage))
      await this.#leave();
    return this.#session.layersOf(await this.#session.stackOf(source));
  }

  async #openRootfs(step: PlannedStep): Promise<Rootfs> {
    if (this.#rootfs !== undefined) return this.#rootfs;
    const { scratch, signal } = this.#session;
    const { clampTime, ignored = [] } = this.#session.limits;
    this.#rootfs = await this.#session.isolation.openRootfs(this.#session.layersOf(this.#below(step)), {
      scratch,
      isSource: this.#session.isSource(this.#stage),
      isMergeable: this.#isApart(step),
      clampTime,
      ignored,
      signal,
    });
    return this.#rootfs;
  }

  /** What a step's layer is made on: everything so far, or with `--link` nothing. */
  #below(step: PlannedStep): StackedLayer[] {
    return this.#isApart(step) ? [] : [...this.#stack];
  }

  /** Whether a step's layer is made on nothing. */
  #isApart(step: PlannedStep): boolean {
    return isLinked(step) && !this.#session.singleSnapshot;
  }

  /** What a step gave; with a single snapshot the last step of a stage has what all of them did. */
  async #layerAfter(step: PlannedStep): Promise<StackedLayer> {
    if (!this.#session.singleSnapshot || step === this.#stage.steps.at(-1)) return this.#seal(step);
    const lineage = { step, stage: this.#stage.label, hit: undefined };
    return { placed: Promise.resolve(undefined), files: undefined, created: new Date(), lineage };
  }

  /** Closes the root file system; a later step that needs one opens it again. */
  async #leave(): Promise<void> {
    const open = this.#rootfs;
    this.#rootfs = undefined;
    await open?.[Symbol.asyncDispose]();
  }

  /** Ends the step's layer: its directory serves the next step at once, its blob is written meanwhile. */
  async #seal(step: PlannedStep): Promise<StackedLayer> {
    const rootfs = await this.#openRootfs(step);
    const sealed = await rootfs.seal();
    const below = this.#below(step);
    const created = new Date();
    const write = async (): Promise<PlacedLayer | undefined> => {
      const output = this.#session.scratchFile();
      const { compression, signal } = this.#session;
      const facts = await sealed.write({ output, ...compression }, signal).catch((error: unknown) => {
        throw atStep(error, step);
      });
      const layer = facts === undefined ? undefined : fileLayer(output, facts);
      this.#session.storeInCache(this.#stage, step, await chainOf(below), layer, created);
      return layer === undefined ? undefined : { layer, origins: [] };
    };
    let written: Promise<PlacedLayer | undefined> | undefined;
    const session = this.#session;
    const layer: StackedLayer = {
      get placed() {
        return (written ??= session.writing(write));
      },
      files: sealed.files,
      created,
      lineage: { step, stage: this.#stage.label, hit: undefined },
    };
    // A layer that neither the image nor the cache needs is never written: other stages read its directory.
    if (session.needsLayer(this.#stage, step)) void layer.placed;
    return layer;
  }
}

/** Says at which line a step failed, unless the error knows better or is none of the build's. */
function atStep(error: unknown, { where }: PlannedStep): unknown {
  if (isAbortError(error)) return error;
  if (!(error instanceof KilnError))
    return new BuildError(`the step failed: ${messageOf(error)}`, {
      code: 'E_STEP_FAILED',
      where,
      cause: error,
    });
  if (error.where !== undefined || error.category !== 'build') return error;
  const { code, remedy, cause } = error;
  return new BuildError(error.message, { code, where, remedy, cause });
}
