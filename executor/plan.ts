import { type Digest, formatPlatform, formatReference, type Platform } from '../src/oci/index.ts';
import {
  type CacheKey,
  type EntryBase,
  type EntryOrigin,
  type KeyDefinition,
  stepKey,
} from '../src/layercache/index.ts';
import type { BaseImage, BaseResolver } from './bases.ts';
import { type BuildContext, readTree, type TreeReading } from './context/index.ts';
import type { Dockerfile, Origin, ResolvedStage, StageGraph } from '../src/dockerfile/index.ts';
import { interpretStage } from './interpret.ts';
import { StageState } from './stage-state.ts';
import type { InterpretedStage, Operation, Step } from './steps.ts';

/** Where a planned stage's files come from. */
export type PlannedBase =
  | { readonly kind: 'stage'; readonly stage: PlannedStage }
  | { readonly kind: 'image'; readonly image: BaseImage }
  | { readonly kind: 'scratch' };

export interface PlannedStep extends Step {
  /** Undefined, as the definition is, when nothing is looked up and nothing stored. */
  readonly key: CacheKey | undefined;
  readonly definition: KeyDefinition | undefined;
  /** Null for a layer that does not depend on what is below it. */
  readonly parentKey: CacheKey | null | undefined;
  readonly source: PlannedBase | undefined;
  /** Of the files of the context that a copy's key counts, to tell whether they have changed when they are copied. */
  readonly stamp: string | undefined;
  /** Of the same files, what counts of each; see {@link TreeReading}. */
  readonly files: TreeReading['files'];
  /** Why it is not looked up, in words; undefined when it is. */
  readonly uncached: string | undefined;
  /** How old its result may be; undefined: as old as that of any step. */
  readonly ttlSeconds: number | undefined;
  /** The steps that are below it. */
  readonly ground: StepGround;
  /** How old it may be because of what it copies from. */
  readonly sourceTtlSeconds: number;
}

export interface PlannedStage {
  readonly index: number;
  readonly label: string;
  readonly base: PlannedBase;
  readonly interpreted: InterpretedStage;
  readonly steps: readonly PlannedStep[];
  readonly finalKey: CacheKey | undefined;
  readonly origin: EntryOrigin;
  /** What is below a step of a stage that is made from this one. */
  readonly ground: StepGround;
  /** The shortest time that a step of it, or of what it is made from, says its result may be used; Infinity for none. */
  readonly ttlSeconds: number;
}

/** What is below a step: a step or base, and upon it copies with `--link`, which stand on nothing themselves. */
interface StepGround {
  readonly key: CacheKey | undefined;
  readonly links: readonly CacheKey[];
}

/** What a build is told not to take from the cache, and what counts in no key. */
export interface CacheRules {
  readonly noCache: boolean;
  /** Names of stages that are built anew. */
  readonly noCacheStages: readonly string[];
  readonly ignoredArguments: ReadonlySet<string>;
}

export const noCacheRules: CacheRules = { noCache: false, noCacheStages: [], ignoredArguments: new Set() };

export interface PlanOptions {
  readonly dockerfile: Dockerfile;
  /** What is built, as entries of the cache say it: the image or context, and the Dockerfile. */
  readonly subject: string;
  readonly graph: StageGraph;
  readonly context: BuildContext;
  readonly bases: BaseResolver;
  readonly buildArguments: ReadonlyMap<string, string>;
  readonly platform: Platform;
  /** Whether keys are wanted: without a cache, files need not be read twice. */
  readonly keyed: boolean;
  readonly rules: CacheRules;
  /** What times in layers are limited to, in seconds since 1970: with another limit they are other layers. */
  readonly clampTime?: number | undefined;
  readonly consumed: Set<string>;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Resolves all bases at once, interprets every stage, and computes the key of every step. Nothing is unpacked or run.
 *
 * @throws what is wrong with the Dockerfile, its bases or the files it copies.
 */
export async function planBuild(options: PlanOptions): Promise<PlannedStage[]> {
  await resolveAll(options);
  const planned = new Map<number, PlannedStage>();
  for (const stage of options.graph.stages)
    planned.set(stage.stage.index, await planStage(options, stage, planned));
  return [...planned.values()];
}

function imageNames(stage: ResolvedStage): { name: string; line: number }[] {
  const names: { name: string; line: number }[] = [];
  if (stage.base.kind === 'image') names.push({ name: stage.base.name, line: stage.stage.from.line });
  for (const [instruction, origin] of stage.sources)
    if (origin.kind === 'image')
      names.push({ name: origin.name, line: (instruction as { line: number }).line });
  return names;
}

async function resolveAll(options: PlanOptions): Promise<void> {
  const { graph, bases, dockerfile, signal } = options;
  await Promise.all(
    graph.stages.flatMap((stage) =>
      imageNames(stage).map(({ name, line }) =>
        bases.resolve(name, stage.platform, `${dockerfile.file}:${line}`, signal),
      ),
    ),
  );
}

async function planStage(
  options: PlanOptions,
  stage: ResolvedStage,
  planned: ReadonlyMap<number, PlannedStage>,
): Promise<PlannedStage> {
  const locate = (origin: Origin, line: number): Promise<PlannedBase> =>
    locateOrigin(options, stage, planned, origin, line);
  const base = await locate(stage.base, stage.stage.from.line);
  const state =
    base.kind === 'stage'
      ? base.stage.interpreted.state.inherit()
      : StageState.fromImage(base.kind === 'image' ? base.image.config : undefined);
  const interpreted = interpretStage(options.dockerfile, options.graph, stage, state, {
    ...options,
    ignoredArguments: options.rules.ignoredArguments,
  });
  const uncachedStage = uncachedBecause(options.rules, stage);
  let ttlSeconds = base.kind === 'stage' ? base.stage.ttlSeconds : Infinity;
  const steps: PlannedStep[] = [];
  let parentKey = options.keyed ? baseKey(options, base, stage.platform) : undefined;
  let ground = base.kind === 'stage' ? base.stage.ground : { key: parentKey, links: [] as CacheKey[] };
  for (const item of interpreted.items) {
    if (item.kind !== 'step') continue;
    const { operation } = item.step;
    const source =
      operation.kind === 'copy' && operation.from !== undefined
        ? await locate(operation.from, item.step.line)
        : undefined;
    const sourceKey = source === undefined ? undefined : baseKey(options, source, stage.platform);
    const reading =
      parentKey === undefined || source !== undefined ? undefined : await readContext(options, item.step);
    const own = parentKey === undefined || !isLinked(item.step) ? parentKey : null;
    const definition =
      own === undefined ? undefined : definitionOf(item.step, own, sourceKey, reading?.digest);
    const key = definition === undefined ? undefined : stepKey(definition);
    const { rule } = item.step;
    const sourceTtlSeconds = source?.kind === 'stage' ? source.stage.ttlSeconds : Infinity;
    ttlSeconds = Math.min(ttlSeconds, rule.ttlSeconds ?? Infinity, sourceTtlSeconds);
    steps.push({
      ...item.step,
      key,
      definition,
      parentKey: own,
      source,
      stamp: reading?.stamp,
      files: reading?.files,
      uncached: rule.noCache ? '# kiln: no-cache' : uncachedStage,
      ttlSeconds: rule.ttlSeconds,
      sourceTtlSeconds,
      ground,
    });
    if (key !== undefined && own !== undefined) ground = groundAbove(ground, own, key);
    parentKey = keyAbove(parentKey, own, key);
  }
  const origin = {
    line: `${options.subject} ${stage.label}`,
    base: entryBase(options, base, stage.platform),
  };
  return {
    index: stage.stage.index,
    label: stage.label,
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

/** Keys of what is looked up, and how old each may be. @param maxAgeSeconds of steps that say nothing. */
export function lookupsOf(
  stages: readonly PlannedStage[],
  maxAgeSeconds: number,
): { readonly keys: CacheKey[]; readonly maxAgeSeconds: (key: CacheKey) => number } {
  const ages = new Map<CacheKey, number>();
  for (const { steps } of stages)
    for (const { key, uncached, ttlSeconds = maxAgeSeconds, sourceTtlSeconds } of steps)
      if (key !== undefined && uncached === undefined) {
        // The same step in two stages may say two things.
        const age = Math.min(ttlSeconds, sourceTtlSeconds, ages.get(key) ?? Infinity);
        ages.set(key, age);
      }
  return { keys: [...ages.keys()], maxAgeSeconds: (key) => ages.get(key) ?? maxAgeSeconds };
}

function groundAbove(ground: StepGround, own: CacheKey | null, key: CacheKey): StepGround {
  return own === null ? { ...ground, links: [...ground.links, key] } : { key, links: [] };
}

/** What an entry says of where it was made. A key that stands on copies with `--link` does not name them, so they are named. */
export function originOf({ origin }: PlannedStage, { ground }: PlannedStep): EntryOrigin {
  const { key, links } = ground;
  return links.length === 0 || key === undefined ? origin : { ...origin, ground: { key, links } };
}

function entryBase({ clampTime }: PlanOptions, base: PlannedBase, platform: Platform): EntryBase {
  if (base.kind === 'stage') return base.stage.origin.base;
  const facts = {
    platform: formatPlatform(platform),
    ...(clampTime === undefined ? {} : { clampTime }),
  };
  if (base.kind === 'scratch') return { name: 'scratch', chainID: null, ...facts };
  return { name: formatReference(base.image.reference), chainID: base.image.chainID, ...facts };
}

async function locateOrigin(
  options: PlanOptions,
  stage: ResolvedStage,
  planned: ReadonlyMap<number, PlannedStage>,
  origin: Origin,
  line: number,
): Promise<PlannedBase> {
  if (origin.kind === 'scratch') return { kind: 'scratch' };
  if (origin.kind === 'image')
    return {
      kind: 'image',
      image: await options.bases.resolve(
        origin.name,
        stage.platform,
        `${options.dockerfile.file}:${line}`,
        options.signal,
      ),
    };
  const found = planned.get(origin.index);
  if (found === undefined) throw new Error(`stage ${origin.index} is not planned yet`);
  return { kind: 'stage', stage: found };
}

function baseKey({ clampTime }: PlanOptions, base: PlannedBase, platform: Platform): CacheKey | undefined {
  if (base.kind === 'stage') return base.stage.finalKey;
  const chainID = base.kind === 'image' ? base.image.chainID : null;
  return stepKey({ kind: 'base', chainID, platform, clampTime });
}

/** Whether a step's layer is made on nothing, so that it fits on anything. */
export function isLinked({ operation }: Step): boolean {
  return operation.kind === 'copy' && operation.link;
}

/** What stands for everything so far in the keys of the steps that follow. */
function keyAbove(
  below: CacheKey | undefined,
  own: CacheKey | null | undefined,
  key: CacheKey | undefined,
): CacheKey | undefined {
  if (own !== null || below === undefined || key === undefined) return key;
  return stepKey({ kind: 'link', parent: below, layer: key });
}

function definitionOf(
  { operation }: Step,
  parent: CacheKey | null,
  source: CacheKey | undefined,
  content: Digest | undefined,
): KeyDefinition {
  if (operation.kind === 'copy') {
    if (source === undefined) return copyContentDefinition(operation, parent, content ?? null);
    const { patterns, destination, chown = null } = operation;
    const chmod = chmodText(operation);
    return {
      kind: 'copy-from',
      parent,
      source,
      patterns,
      destination,
      chown,
      chmod,
      ...copyFlags(operation),
    };
  }
  if (parent === null) throw new Error('only copies are made on nothing');
  if (operation.kind === 'run') {
    const { argv, keyedEnv, user, workingDirectory } = operation;
    return { kind: 'run', parent, argv, env: keyedEnv, user, workingDirectory };
  }
  return { kind: 'workdir', parent, path: operation.path, user: operation.user };
}

type CopyOperation = Extract<Operation, { kind: 'copy' }>;

function chmodText({ chmod }: CopyOperation): string | null {
  return typeof chmod === 'number' ? chmod.toString(8) : (chmod ?? null);
}

/** Copies without these flags have the keys that they would have if there were no such flags. */
function copyFlags({ parents, excludes }: CopyOperation): { parents?: true; excludes?: readonly string[] } {
  return { ...(parents ? { parents } : {}), ...(excludes.length === 0 ? {} : { excludes }) };
}

/** What a copy's key is made of by the content of what it copies, wherever that is from. */
export function copyContentDefinition(
  operation: CopyOperation,
  parent: CacheKey | null,
  content: Digest | null,
): KeyDefinition {
  return {
    kind: 'copy',
    parent,
    destination: operation.destination,
    chown: operation.chown ?? null,
    chmod: chmodText(operation),
    content,
    files: operation.files,
    unpackArchives: operation.unpackArchives,
    keepOwners: operation.from !== undefined,
    ...copyFlags(operation),
  };
}

/** Reads what a copy takes from the context; undefined for other steps, and when all its sources are here-documents. */
async function readContext(options: PlanOptions, step: Step): Promise<TreeReading | undefined> {
  const { operation } = step;
  if (operation.kind !== 'copy' || operation.patterns.length === 0) return undefined;
  const { directory, ignore } = options.context;
  return readTree(
    {
      root: directory,
      patterns: operation.patterns,
      excludes: operation.excludes,
      parents: operation.parents,
      ignore,
      where: step.where,
      treeName: 'the build context',
    },
    { owners: false, modes: typeof operation.chmod !== 'number', signal: options.signal },
  );
}
