import { join } from 'node:path';
import PQueue from 'p-queue';
import type { Compression, Layer, LayerSource, UnpackedTree } from '../src/layer/index.ts';
import type { KeyDefinition, LayerCache, LookupOptions, LookupResult } from '../src/layercache/index.ts';
import type { ChainID, Digest } from '../src/oci/index.ts';
import type { RegistryClient } from '../src/registry/index.ts';
import { isAbortError, messageOf, type Progress, randomName } from '../src/support/index.ts';
import type { Volume } from '../src/volume/index.ts';
import type { BaseImage } from './bases.ts';
import { hasStep, type ResultOf } from './forecast.ts';
import type { BlobOrigin, PlacedLayer } from './image.ts';
import type { Isolation, LayerStack } from './isolation/index.ts';
import { LayerDirectories } from './layer-directories.ts';
import { LayerSources } from './layer-sources.ts';
import { MissReasons } from './miss-reasons.ts';
import { newEntryOf } from './new-entry.ts';
import type { PlannedBase, PlannedStage, PlannedStep } from './plan.ts';
import type { StackedLayer, StageResult } from './stack.ts';
import { StageBuilder } from './stage-builder.ts';

/** What a build works with; one for every build. */
export interface SessionParts {
  readonly isolation: Isolation;
  /** Where unpacked layers are looked for, in order; the last one is writable. */
  readonly volumes: readonly Volume[];
  readonly client: RegistryClient;
  /** A directory of the build's own, removed after it. */
  readonly scratch: string;
  readonly cache: LayerCache | undefined;
  readonly cachePush: boolean;
  readonly cacheRunLayers: boolean;
  readonly cacheCopyLayers: boolean;
  /** How old results may be of steps that do not say it themselves. */
  readonly maxAgeSeconds: number;
  readonly lookups: ReadonlyMap<string, LookupResult>;
  /** The targets and the stages below them, whose layers are the images'. */
  readonly exported: ReadonlySet<PlannedStage>;
  /** Stages that steps of other stages copy from. */
  readonly sources: ReadonlySet<PlannedStage>;
  readonly compression: Compression;
  /** No time in a layer is later, in seconds since 1970. */
  readonly clampTime: number | undefined;
  readonly progress: Progress;
  /** Aborts everything that still runs; with a reason when a part of the build failed. */
  readonly controller: AbortController;
  /** What is built; see {@link SourceOptions}. */
  readonly subject: string;
  /** All that are needed. */
  readonly stages: readonly PlannedStage[];
  readonly onFirstRun?: () => void;
}

/** Layers written at the same time: compression already uses all cores. */
const writers = 2;

/** The state of one build that its stages share: results by stage, leases, background work. */
export class BuildSession implements AsyncDisposable {
  readonly #parts: SessionParts;
  readonly #results = new Map<PlannedStage, Promise<StageResult>>();
  readonly #directories: LayerDirectories;
  readonly #sources: LayerSources;
  readonly #pulls = new Map<BaseImage, Promise<void>>();
  readonly #built = new Set<PlannedStage>();
  readonly #writing = new PQueue({ concurrency: writers });
  readonly #background = new Set<Promise<unknown>>();
  readonly #stored = new Set<Digest>();
  readonly #changed = new Set<PlannedStep>();
  #cacheFailures = 0;
  #started = false;
  /** Definitions by content of copies from stages, once their files are there. */
  readonly contentDefinitions = new Map<PlannedStep, KeyDefinition>();
  readonly #reasons: MissReasons | undefined;

  constructor(parts: SessionParts) {
    this.#parts = parts;
    const { volumes, scratch, controller } = parts;
    const pull = (base: BaseImage): Promise<void> => this.#pull(base, { unpack: false });
    this.#directories = new LayerDirectories({
      ...{ volumes, scratch, signal: controller.signal },
      pull: (base) => this.#pull(base),
    });
    this.#sources = new LayerSources({ volumes, pull, signal: controller.signal });
    const { cache, subject, stages, progress, cachePush: remembers } = parts;
    if (cache === undefined) return;
    const { resultFor: resultOf, signal } = this;
    this.#reasons = new MissReasons({ cache, subject, stages, progress, remembers, resultOf, signal });
  }

  /** Why a step that ran was not taken from the cache, in few words, as far as that can be known within a moment. */
  async reasonOf(step: PlannedStep): Promise<string | undefined> {
    return step.uncached ?? this.#reasons?.of(step);
  }

  #findReasons(): void {
    if (this.#reasons !== undefined) this.background(this.#reasons.find());
  }

  get isolation(): Isolation {
    return this.#parts.isolation;
  }
  get progress(): Progress {
    return this.#parts.progress;
  }
  get signal(): AbortSignal {
    return this.#parts.controller.signal;
  }
  get scratch(): string {
    return this.#parts.scratch;
  }
  get cache(): LayerCache | undefined {
    return this.#parts.cache;
  }
  get compression(): Compression {
    return this.#parts.compression;
  }
  /** How a step is looked up by the content of what it copies, which does not grow old with where it is from. */
  lookupOptionsOf({ ttlSeconds }: PlannedStep): LookupOptions {
    return { maxAgeSeconds: ttlSeconds ?? this.#parts.maxAgeSeconds, signal: this.signal };
  }
  get clampTime(): number | undefined {
    return this.#parts.clampTime;
  }

  scratchFile(): string {
    return join(this.scratch, randomName('layer-'));
  }

  /** Whether results of this kind of step are looked up and stored. */
  isCacheable(step: PlannedStep): boolean {
    if (step.operation.kind === 'run') return this.#parts.cacheRunLayers;
    return step.operation.kind === 'workdir' || this.#parts.cacheCopyLayers;
  }

  /** Whether the blob of a step's layer is wanted for certain, by the image or by the cache. */
  needsLayer(stage: PlannedStage, step: PlannedStep): boolean {
    return this.#parts.exported.has(stage) || this.#isStored(step);
  }

  #isStored(step: PlannedStep): boolean {
    const { cache, cachePush } = this.#parts;
    return (
      cache !== undefined &&
      cachePush &&
      step.definition !== undefined &&
      // Whoever finds it would not be told to run it anew.
      !step.rule.noCache &&
      this.isCacheable(step)
    );
  }

  /** What the cache said of a step's key, if it may be used. */
  readonly resultFor: ResultOf = (step) =>
    step.key === undefined || step.uncached !== undefined || !this.isCacheable(step) || this.#isUnknown(step)
      ? undefined
      : this.#parts.lookups.get(step.key);

  /** Whether a copy's source runs anew in every build, so that its key does not tell what is copied. */
  #isUnknown({ source }: PlannedStep): boolean {
    if (source?.kind !== 'stage') return false;
    return hasStep(
      source.stage,
      ({ operation, uncached }) =>
        uncached !== undefined || (operation.kind === 'run' && !this.#parts.cacheRunLayers),
    );
  }

  /**
   * Whether this build made something of a stage itself. What it made need not be what another build did, so a copy of
   * that may not be used beside it: one image would have files of two builds.
   */
  async isMadeHere(stage: PlannedStage): Promise<boolean> {
    const result = await this.#results.get(stage);
    return result?.stack.some(({ files }) => files !== undefined) ?? false;
  }

  /** Builds a stage, once however many need it. */
  stage(stage: PlannedStage): Promise<StageResult> {
    const known = this.#results.get(stage);
    if (known !== undefined) return known;
    const result = new StageBuilder(this, stage).build().then(
      (built) => {
        this.#built.add(stage);
        return built;
      },
      (error: unknown) => {
        // The other stages have no use any more.
        this.#parts.controller.abort(error);
        throw error;
      },
    );
    this.#results.set(stage, result);
    return result;
  }

  isBuilt(stage: PlannedStage): boolean {
    return this.#built.has(stage);
  }

  /** Whether steps of other stages copy from a stage. */
  isSource(stage: PlannedStage): boolean {
    return this.#parts.sources.has(stage);
  }

  /** Builds a stage beside the one that will need it. */
  startStage(stage: PlannedStage): void {
    this.background(this.stage(stage));
  }

  /** The layers that a base or a source of copies has. */
  async stackOf(base: PlannedBase): Promise<readonly StackedLayer[]> {
    if (base.kind === 'scratch') return [];
    if (base.kind === 'stage') return (await this.stage(base.stage)).stack;
    return base.image.layers.map((layer) => ({
      placed: Promise.resolve({ layer, origins: base.image.origins, base: base.image }),
      files: undefined,
      created: undefined,
      lineage: undefined,
    }));
  }

  /** A stack in the forms that a backend may ask for. */
  layersOf(stack: readonly StackedLayer[]): LayerStack {
    return { directories: () => this.#directoriesOf(stack), sources: () => this.#sourcesOf(stack) };
  }

  async #sourcesOf(stack: readonly StackedLayer[]): Promise<LayerSource[]> {
    const sources = await Promise.all(
      stack.map(async ({ files, placed }): Promise<LayerSource | undefined> => {
        if (files?.kind === 'captured')
          return files.layer && { ...files.layer, kind: 'archive', compression: 'none' };
        const layer = await placed;
        return layer && this.#sources.find(layer);
      }),
    );
    return sources.filter((source) => source !== undefined);
  }

  /** The unpacked directories of a stack, lowest first. */
  async #directoriesOf(stack: readonly StackedLayer[]): Promise<string[]> {
    const trees = await Promise.all(
      stack.map(async ({ files, placed }): Promise<UnpackedTree | undefined> => {
        if (files?.kind === 'upper') return { path: files.directory, implied: [] };
        const layer = await placed;
        return layer && this.#directories.find(layer);
      }),
    );
    return this.#directories.stack(trees.filter((tree) => tree !== undefined));
  }

  /** Puts a cold base on the writable volume as an image, so that the next build finds it warm. */
  #pull(base: BaseImage, options: { readonly unpack?: boolean } = {}): Promise<void> {
    const known = this.#pulls.get(base);
    if (known !== undefined) return known;
    const volume = this.#parts.volumes.at(-1);
    const pull =
      volume === undefined
        ? Promise.resolve()
        : volume
            .pull(this.#parts.client, base.reference, base.platform, {
              ...options,
              signal: this.signal,
            })
            .then(() => undefined);
    this.#pulls.set(base, pull);
    return pull;
  }

  /** Writes a layer when a writer is free. A failure ends the build. */
  writing(write: () => Promise<PlacedLayer | undefined>): Promise<PlacedLayer | undefined> {
    const written = this.#writing.add(write).catch((error: unknown) => {
      this.#parts.controller.abort(error);
      throw error;
    });
    this.background(written);
    return written;
  }

  /** Work whose end the build waits for, and whose failure is dealt with where it matters. */
  background(work: Promise<unknown>): void {
    const settled = work.then(
      () => undefined,
      () => undefined,
    );
    this.#background.add(settled);
    void settled.then(() => this.#background.delete(settled));
  }

  /** Keeps a copy out of the cache whose files are no longer those that its key counts. */
  doNotStore(step: PlannedStep): void {
    if (!this.#isStored(step)) return;
    this.#changed.add(step);
    this.progress.warn(
      `the build context changed while it was built; what was copied is not kept in the cache (${step.where})`,
      step.id,
    );
  }

  /** Stores a step's result under its key (and a copy's under its content key) while the build goes on. */
  storeInCache(
    stage: PlannedStage,
    step: PlannedStep,
    parentChainID: ChainID | null,
    layer: Layer | undefined,
    created: Date,
    options: {
      readonly contentKnown?: boolean;
      /** Where the layer's blob lies already. */
      readonly origins?: readonly BlobOrigin[] | undefined;
    } = {},
  ): void {
    const { cache } = this.#parts;
    if (cache === undefined || step.definition === undefined || !this.#isStored(step)) return;
    if (this.#changed.has(step)) return;
    const byContent = options.contentKnown === true ? undefined : this.contentDefinitions.get(step);
    const definitions = [step.definition, ...(byContent === undefined ? [] : [byContent])];
    const made = { parentChainID, created, origins: options.origins ?? [] };
    const stores = definitions.map((definition) =>
      cache.store(newEntryOf(stage, step, definition, made), layer, this.signal),
    );
    this.background(
      Promise.all(stores).then(
        () => {
          if (layer !== undefined) this.#stored.add(layer.digest);
        },
        (error: unknown) => this.#cacheFailed(error),
      ),
    );
  }

  #cacheFailed(error: unknown): void {
    if (isAbortError(error) || this.signal.aborted) return;
    if (this.#cacheFailures++ === 0)
      this.progress.warn(
        `the layer cache ${this.cache?.location ?? ''} could not be written: ${messageOf(error)}`,
      );
  }

  /** Waits for everything in the background; blobs that reached the cache can be mounted from it afterwards. */
  async settle(): Promise<void> {
    this.#findReasons();
    while (this.#background.size > 0) await Promise.all(this.#background);
  }

  /** A layer with all the places its blob is known to be. */
  placedEverywhere(placed: PlacedLayer): PlacedLayer {
    const origin = this.cache?.origin;
    return origin !== undefined && this.#stored.has(placed.layer.digest)
      ? { ...placed, origins: [...placed.origins, origin] }
      : placed;
  }

  /** The process of a RUN step exists. */
  runStarted(): void {
    this.#findReasons();
    if (this.#started) return;
    this.#started = true;
    this.#parts.onFirstRun?.();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    while (this.#background.size > 0) await Promise.all(this.#background);
    await this.#directories[Symbol.asyncDispose]();
    await this.#sources[Symbol.asyncDispose]();
  }
}
