import { fileLayer } from '../src/layer/index.ts';
import type { LookupResult } from '../src/layercache/index.ts';
import { BuildError, isAbortError, KilnError, messageOf } from '../src/support/index.ts';
import type { CopyRequest, FetchedSource, SourceQuery } from './context/index.ts';
import { fittingHit, wantedSources } from './forecast.ts';
import type { PlacedLayer } from './image.ts';
import type { CopySource, LayerStack, Rootfs, RunStep } from './isolation/index.ts';
import {
  copyContentDefinition,
  isLinked,
  type PlannedBase,
  type PlannedStage,
  type PlannedStep,
} from './plan.ts';
import type { BuildSession } from './session.ts';
import { chainOf, type Reused, reusedOf, type StackedLayer, type StageResult } from './stack.ts';
import type { Operation } from './steps.ts';
import { stepKey } from '../src/layercache/index.ts';

type CopyOperation = Extract<Operation, { kind: 'copy' }>;

/** Builds one stage: reuses what hits on exactly this rootfs, runs the rest, hands every new layer to the cache. */
export class StageBuilder {
  readonly #session: BuildSession;
  readonly #stage: PlannedStage;
  readonly #stack: StackedLayer[] = [];
  readonly #made: StackedLayer[] = [];
  /** Why a step is not taken from the cache, when that shows at once. */
  readonly #outcomes = new Map<PlannedStep, string>();
  #rootfs: Rootfs | undefined;

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
   * Starts the stages that steps copy from which are not taken from the cache for certain, so that they run beside this
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
      const byContent =
        step.operation.kind === 'copy' ? await this.#reuseByContent(step, step.operation) : undefined;
      if (byContent !== undefined) return this.#cached(step, byContent, seconds());
      // What is made on nothing has a root file system of its own, and what comes after it one with its layer.
      if (isLinked(step)) await this.#leave();
      await this.#execute(step);
      const layer = await this.#seal(step);
      if (isLinked(step)) await this.#leave();
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

  /** What the cache has under a step's key, unless that is a copy from another build of a stage that this one built too. */
  async #reuseByKey(step: PlannedStep): Promise<Reused | undefined> {
    const result = this.#session.resultFor(step);
    const { source } = step;
    if (
      result?.outcome === 'hit' &&
      source?.kind === 'stage' &&
      (await this.#session.isMadeHere(source.stage))
    ) {
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

  /** A copy from a stage may have been made from another build of it that gave the same files. */
  async #reuseByContent(step: PlannedStep, operation: CopyOperation): Promise<Reused | undefined> {
    const { cache } = this.#session;
    if (
      cache === undefined ||
      step.parentKey === undefined ||
      step.source === undefined ||
      step.key === undefined ||
      step.uncached !== undefined ||
      !this.#session.isCacheable(step)
    )
      return undefined;
    const layers = await this.#sourceLayers(step.source);
    const query = this.#query(step, operation, '/');
    const content = await this.#session.isolation.digestSources(
      layers,
      query,
      { modes: typeof operation.chmod !== 'number' },
      this.#session.scratch,
      this.#session.signal,
    );
    const definition = copyContentDefinition(operation, step.parentKey, content, this.#session.clampTime);
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

  async #execute(step: PlannedStep): Promise<void> {
    const { operation } = step;
    const { signal } = this.#session;
    if (operation.kind === 'copy') return this.#copy(step, operation);
    const rootfs = await this.#openRootfs(step);
    if (operation.kind === 'workdir')
      return rootfs.makeDirectory(operation.path, operation.user, step.where, signal);
    return this.#run(rootfs, step, { ...operation, where: step.where });
  }

  async #run(rootfs: Rootfs, step: PlannedStep, run: RunStep): Promise<void> {
    const { progress, signal } = this.#session;
    const result = await rootfs.run(run, {
      onOutput: (stream, data) => progress.emit({ type: 'output', step: step.id, stream, data }),
      onStarted: () => this.#session.runStarted(),
      signal,
    });
    if (result.exitCode === 0 && result.signal === null) return;
    const how =
      result.signal === null ? `ended with exit code ${result.exitCode}` : `was ended by ${result.signal}`;
    throw new BuildError(`the command ${how}: ${step.text}`, {
      code: 'E_RUN_FAILED',
      where: step.where,
      remedy:
        result.signal === 'SIGKILL'
          ? 'It may have run out of memory.'
          : (result.hint ?? 'Its output above says why.'),
    });
  }

  async #copy(step: PlannedStep, operation: CopyOperation): Promise<void> {
    let source: CopySource = { kind: 'directory' };
    if (step.source !== undefined) source = { kind: 'layers', layers: await this.#sourceLayers(step.source) };
    const request: CopyRequest = {
      query:
        operation.patterns.length === 0 ? undefined : this.#query(step, operation, step.tree.tree.directory),
      fetched: await this.#fetch(step, operation),
      excludes: operation.excludes,
      files: operation.files,
      destination: operation.destination,
      chown: operation.chown,
      chmod: operation.chmod,
      keepOwners: step.source !== undefined,
      unpackArchives: operation.unpackArchives,
      where: step.where,
    };
    const rootfs = await this.#openRootfs(step);
    const stamp = await rootfs.copy(source, request, this.#session.signal);
    if (step.stamp !== undefined && step.stamp !== stamp) this.#session.doNotStore(step);
  }

  /** Brings here what ADD takes from elsewhere. */
  #fetch(step: PlannedStep, { remotes }: CopyOperation): Promise<FetchedSource[]> {
    return Promise.all(
      step.remotes.map(async (remote, at): Promise<FetchedSource> => {
        const { source, after = 0, unpack = false } = remotes[at] ?? {};
        const path = await remote.fetch();
        return { path, name: source?.kind === 'http' ? source.name : undefined, after, unpack };
      }),
    );
  }

  /** What another stage or an image has. Where stages share one root, this one lets others have it while it waits. */
  async #sourceLayers(source: PlannedBase): Promise<LayerStack> {
    const { isolation } = this.#session;
    if (isolation.isExclusive && source.kind === 'stage' && !this.#session.isBuilt(source.stage))
      await this.#leave();
    return this.#session.layersOf(await this.#session.stackOf(source));
  }

  #query(step: PlannedStep, operation: CopyOperation, root: string): SourceQuery {
    const { source } = step;
    const treeName =
      source === undefined
        ? step.tree.name
        : source.kind === 'stage'
          ? `stage ${source.stage.label}`
          : 'the image';
    return {
      root,
      patterns: operation.patterns,
      excludes: operation.excludes,
      parents: operation.parents,
      ignore: source === undefined ? step.tree.tree.ignore : [],
      where: step.where,
      treeName,
    };
  }

  async #openRootfs(step: PlannedStep): Promise<Rootfs> {
    if (this.#rootfs !== undefined) return this.#rootfs;
    const { scratch, clampTime, signal } = this.#session;
    this.#rootfs = await this.#session.isolation.openRootfs(this.#session.layersOf(this.#below(step)), {
      scratch,
      isSource: this.#session.isSource(this.#stage),
      isMergeable: isLinked(step),
      clampTime,
      signal,
    });
    return this.#rootfs;
  }

  /** What a step's layer is made on: everything so far, or with `--link` nothing. */
  #below(step: PlannedStep): StackedLayer[] {
    return isLinked(step) ? [] : [...this.#stack];
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
