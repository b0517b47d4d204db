import { formatPlatform, formatReference, type Platform } from '../src/oci/index.ts';
import { type CacheKey, type EntryBase, stepKey } from '../src/layercache/index.ts';
import type { BaseResolver } from './bases.ts';
import type { BuildContext, TreeReadings } from './context/index.ts';
import {
  type Dockerfile,
  type Origin,
  type ResolvedStage,
  sourceUsers,
  type StageGraph,
} from '../src/dockerfile/index.ts';
import { definitionOf } from './definitions.ts';
import { interpretStage, stageTitle } from './interpret.ts';
import type { NamedContexts } from './named-contexts.ts';
import { contentOf, type Locate, planFiles, type TreeBase } from './plan-files.ts';
import {
  type CacheRules,
  isLinked,
  type PlannedBase,
  type PlannedStage,
  type PlannedStep,
  sourceStagesOf,
  type StepGround,
} from './planned.ts';
import type { RemoteSources, ResolvedRemote } from './remote/index.ts';
import { noRule } from './step-directives.ts';
import { StageState } from './stage-state.ts';
import { expandTriggers } from './triggers.ts';
import type { InterpretedStage, StageItem, Step } from './steps.ts';

export interface PlanOptions {
  readonly dockerfile: Dockerfile;
  /** What is built, as entries of the cache say it: the image or context, and the Dockerfile. */
  readonly subject: string;
  readonly graph: StageGraph;
  readonly context: BuildContext;
  readonly bases: BaseResolver;
  readonly buildArguments: ReadonlyMap<string, string>;
  readonly platform: Platform;
  /** What names of stages and images mean instead. */
  readonly origins?: ReadonlyMap<string, Origin>;
  /** Several platforms are built, so that steps are told apart by theirs. */
  readonly isOneOfSeveral?: boolean;
  /** What copies take from directories outside, shared by the plans of one build. */
  readonly readings: TreeReadings;
  readonly remotes: RemoteSources;
  readonly contexts: NamedContexts;
  /** Whether keys are wanted: without a cache, files need not be read twice. */
  readonly keyed: boolean;
  readonly rules: CacheRules;
  /** What times in layers are limited to, in seconds since 1970: with another limit they are other layers. */
  readonly clampTime?: number | undefined;
  /** Paths that are in no layer, likewise. */
  readonly ignored?: readonly string[] | undefined;
  readonly consumed: Set<string>;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Resolves all bases at once, interprets every stage, and computes the key of every step. Nothing is unpacked or run.
 *
 * @throws what is wrong with the Dockerfile, its bases or the files it copies.
 */
export async function planBuild(options: PlanOptions): Promise<PlannedStage[]> {
  const stages = await expandTriggers(options, {
    resolve: (needed) => resolveAll(options, needed),
    configOf: async ({ base, platform, stage }) => {
      const found = await locateOrigin(options, platform, new Map(), base, stage.from.line);
      return found.kind === 'image' ? found.image.config.config : undefined;
    },
  });
  const planned = new Map<number, PlannedStage>();
  for (const stage of stages) planned.set(stage.stage.index, await planStage(options, stage, planned));
  return [...planned.values()];
}

interface NamedImage {
  readonly name: string;
  readonly platform: Platform;
  readonly line: number;
}

function imagesOf(stage: ResolvedStage, target: Platform): NamedImage[] {
  const images: NamedImage[] = [];
  if (stage.base.kind === 'image')
    images.push({ name: stage.base.name, platform: stage.platform, line: stage.stage.from.line });
  for (const instruction of stage.stage.instructions)
    for (const { user } of sourceUsers(instruction)) {
      const origin = stage.sources.get(user);
      if (origin?.kind === 'image')
        images.push({ name: origin.name, platform: target, line: instruction.line });
    }
  return images;
}

async function resolveAll(options: PlanOptions, stages: readonly ResolvedStage[]): Promise<void> {
  const { bases, dockerfile, signal } = options;
  await Promise.all(
    stages.flatMap((stage) =>
      imagesOf(stage, options.platform).map(({ name, platform, line }) =>
        bases.resolve(name, platform, `${dockerfile.file}:${line}`, signal),
      ),
    ),
  );
}

async function planStage(
  options: PlanOptions,
  stage: ResolvedStage,
  planned: ReadonlyMap<number, PlannedStage>,
): Promise<PlannedStage> {
  const found = await locateOrigin(options, stage.platform, planned, stage.base, stage.stage.from.line);
  const base: PlannedBase = found.kind === 'tree' ? { kind: 'scratch' } : found;
  const state =
    base.kind === 'stage'
      ? base.stage.interpreted.state.inherit()
      : StageState.fromImage(base.kind === 'image' ? base.image.config : undefined);
  const instructed = interpretStage(options.dockerfile, options.graph, stage, state, {
    ...options,
    ignoredArguments: options.rules.ignoredArguments,
  });
  const interpreted =
    found.kind === 'tree'
      ? { ...instructed, items: [treeStep(options, stage), ...instructed.items] }
      : instructed;
  await resolveAllRemotes(options, interpreted);
  const uncachedStage = uncachedBecause(options.rules, stage);
  let ttlSeconds = base.kind === 'stage' ? base.stage.ttlSeconds : Infinity;
  const steps: PlannedStep[] = [];
  let parentKey = options.keyed ? baseKey(options, base, stage.platform) : undefined;
  let ground = base.kind === 'stage' ? base.stage.ground : { key: parentKey, links: [] as CacheKey[] };
  const locate: Locate = (from, line) => locateOrigin(options, options.platform, planned, from, line);
  for (const item of interpreted.items) {
    if (item.kind !== 'step') continue;
    const { step } = item;
    const linked = parentKey !== undefined && isLinked(step);
    const own = linked ? null : parentKey;
    const files = await planFiles(options, step, locate, { keyed: own !== undefined });
    const remotes = await resolveRemotes(options, step);
    const keyOf = (source: PlannedBase | undefined): CacheKey | undefined =>
      source === undefined ? undefined : baseKey(options, source, options.platform);
    const definition =
      own === undefined
        ? undefined
        : definitionOf(step, {
            parent: own,
            limits: options,
            source: keyOf(files.source),
            content: files.reading?.digest,
            remotes,
            mounts: files.mounts.map((mount) => contentOf(mount, keyOf(mount.source))),
          });
    const key = definition === undefined ? undefined : stepKey(definition);
    const { rule } = step;
    const planned = {
      ...step,
      key,
      definition,
      parentKey: own,
      source: files.source,
      mounts: files.mounts,
      stamp: files.reading?.stamp,
      tree: files.tree,
      remotes,
      files: files.listed,
      uncached: rule.noCache ? '# kiln: no-cache' : uncachedStage,
      ttlSeconds: rule.ttlSeconds,
      ground,
    };
    const sourceTtlSeconds = Math.min(
      Infinity,
      ...sourceStagesOf(planned).map((source) => source.ttlSeconds),
    );
    ttlSeconds = Math.min(ttlSeconds, rule.ttlSeconds ?? Infinity, sourceTtlSeconds);
    steps.push({ ...planned, sourceTtlSeconds });
    if (key !== undefined) ground = groundAbove(ground, linked, key);
    parentKey = linked ? keyAbove(parentKey, key) : key;
  }
  const origin = {
    line: `${options.subject} ${stage.label}`,
    base: entryBase(options, base, stage.platform),
  };
  return {
    index: stage.stage.index,
    label: stage.label,
    platform: stage.platform,
    base,
    interpreted,
    steps,
    finalKey: parentKey,
    origin,
    ground,
    ttlSeconds,
  };
}

function uncachedBecause(
  { noCache, noCacheStages }: CacheRules,
  { stage, label }: ResolvedStage,
): string | undefined {
  if (noCache) return '--no-cache';
  const names = [label, String(stage.index), stage.name];
  const named = noCacheStages.find((name) => names.includes(name.toLowerCase()));
  return named === undefined ? undefined : `--no-cache-filter ${named}`;
}

function groundAbove(ground: StepGround, linked: boolean, key: CacheKey): StepGround {
  return linked ? { ...ground, links: [...ground.links, key] } : { key, links: [] };
}

function entryBase(
  { clampTime, ignored = [] }: PlanOptions,
  base: PlannedBase,
  platform: Platform,
): EntryBase {
  if (base.kind === 'stage') return base.stage.origin.base;
  const facts = {
    platform: formatPlatform(platform),
    ...(clampTime === undefined ? {} : { clampTime }),
    ...(ignored.length === 0 ? {} : { ignored }),
  };
  if (base.kind === 'scratch') return { name: 'scratch', chainID: null, ...facts };
  return { name: formatReference(base.image.reference), chainID: base.image.chainID, ...facts };
}

async function locateOrigin(
  options: PlanOptions,
  platform: Platform,
  planned: ReadonlyMap<number, PlannedStage>,
  origin: Origin,
  line: number,
): Promise<PlannedBase | TreeBase> {
  if (origin.kind === 'scratch') return { kind: 'scratch' };
  if (origin.kind === 'context')
    return options.contexts.open(origin.name, platform, `${options.dockerfile.file}:${line}`);
  if (origin.kind === 'image')
    return {
      kind: 'image',
      image: await options.bases.resolve(
        origin.name,
        platform,
        `${options.dockerfile.file}:${line}`,
        options.signal,
      ),
    };
  const found = planned.get(origin.index);
  if (found === undefined) throw new Error(`stage ${origin.index} is not planned yet`);
  return { kind: 'stage', stage: found };
}

/** A stage FROM a directory has its files as its first layer. */
function treeStep(options: PlanOptions, resolved: ResolvedStage): StageItem {
  const { dockerfile } = options;
  const { stage, base } = resolved;
  const { line } = stage.from;
  const text = `FROM ${base.kind === 'context' ? base.name : stage.from.image}`;
  return {
    kind: 'step',
    step: {
      id: `[${stageTitle(resolved, options)}]`,
      line,
      where: `${dockerfile.file}:${line}`,
      text,
      written: stage.from.original.replace(/\s+/g, ' '),
      rule: noRule,
      operation: {
        kind: 'copy',
        from: base,
        patterns: ['.'],
        remotes: [],
        files: [],
        destination: '/',
        chown: undefined,
        chmod: undefined,
        unpackArchives: false,
        link: false,
        parents: false,
        excludes: [],
      },
      history: { created_by: text },
    },
  };
}

function baseKey(
  { clampTime, ignored }: PlanOptions,
  base: PlannedBase,
  platform: Platform,
): CacheKey | undefined {
  if (base.kind === 'stage') return base.stage.finalKey;
  const chainID = base.kind === 'image' ? base.image.chainID : null;
  return stepKey({ kind: 'base', chainID, platform, clampTime, ignored });
}

/** What stands for everything so far in the keys of the steps that follow one whose own key does not tell of it. */
function keyAbove(below: CacheKey | undefined, key: CacheKey | undefined): CacheKey | undefined {
  return below === undefined || key === undefined
    ? undefined
    : stepKey({ kind: 'link', parent: below, layer: key });
}

/** Asks for everything that a stage takes from elsewhere at once. Nothing is left running when something fails. */
async function resolveAllRemotes(options: PlanOptions, { items }: InterpretedStage): Promise<void> {
  const asked = items.flatMap((item) => (item.kind === 'step' ? [resolveRemotes(options, item.step)] : []));
  for (const result of await Promise.allSettled(asked)) if (result.status === 'rejected') throw result.reason;
}

async function resolveRemotes(options: PlanOptions, { operation, where }: Step): Promise<ResolvedRemote[]> {
  if (operation.kind !== 'copy') return [];
  return Promise.all(
    operation.remotes.map(({ source }) => options.remotes.resolve(source, where, options.signal)),
  );
}
