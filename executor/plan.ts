import { type Digest, formatPlatform, formatReference, type Platform } from '../src/oci/index.ts';
import {
  type CacheKey,
  type EntryBase,
  type EntryOrigin,
  type KeyDefinition,
  stepKey,
} from '../src/layercache/index.ts';
import type { BaseImage, BaseResolver } from './bases.ts';
import { type BuildContext, type TreeReading, type TreeReadings } from './context/index.ts';
import type { Dockerfile, Origin, ResolvedStage, StageGraph } from '../src/dockerfile/index.ts';
import { interpretStage, stageTitle } from './interpret.ts';
import type { NamedContexts } from './named-contexts.ts';
import type { RemoteSources, ResolvedRemote } from './remote/index.ts';
import type { CanonicalValue } from '../src/support/index.ts';
import { noRule } from './step-directives.ts';
import { StageState } from './stage-state.ts';
import { expandTriggers } from './triggers.ts';
import type { InterpretedStage, Operation, StageItem, Step } from './steps.ts';

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
  /** What a copy without another source copies from: the build context, or a named one. */
  readonly tree: CopyTree;
  /** Of ADD, what it takes from elsewhere, as it is now. */
  readonly remotes: readonly ResolvedRemote[];
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

/** A directory outside that is copied from, and how messages call it. */
export interface CopyTree {
  readonly tree: BuildContext;
  readonly name: string;
}

export interface PlannedStage {
  readonly index: number;
  readonly label: string;
  /** What its files are for. */
  readonly platform: Platform;
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
  for (const [instruction, origin] of stage.sources)
    if (origin.kind === 'image')
      images.push({ name: origin.name, platform: target, line: (instruction as { line: number }).line });
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
  for (const item of interpreted.items) {
    if (item.kind !== 'step') continue;
    const { operation } = item.step;
    const from = operation.kind === 'copy' ? operation.from : undefined;
    const copied =
      from === undefined
        ? undefined
        : await locateOrigin(options, options.platform, planned, from, item.step.line);
    const source = copied?.kind === 'tree' ? undefined : copied;
    const tree: CopyTree =
      copied?.kind === 'tree' ? copied : { tree: options.context, name: 'the build context' };
    const sourceKey = source === undefined ? undefined : baseKey(options, source, options.platform);
    const reading =
      parentKey === undefined || source !== undefined
        ? undefined
        : await readFrom(options.readings, tree, item.step, options.signal);
    const remotes = await resolveRemotes(options, item.step);
    const linked = parentKey !== undefined && isLinked(item.step);
    const own = linked ? null : parentKey;
    const definition =
      own === undefined
        ? undefined
        : definitionOf(options, item.step, own, sourceKey, reading?.digest, remotes);
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
      tree,
      remotes,
      files: reading?.files,
      uncached: rule.noCache ? '# kiln: no-cache' : uncachedStage,
      ttlSeconds: rule.ttlSeconds,
      sourceTtlSeconds,
      ground,
    });
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

function groundAbove(ground: StepGround, linked: boolean, key: CacheKey): StepGround {
  return linked ? { ...ground, links: [...ground.links, key] } : { key, links: [] };
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

/** A named context that is a directory, or a checked out repository. */
type TreeBase = CopyTree & { readonly kind: 'tree' };

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

function baseKey({ clampTime }: PlanOptions, base: PlannedBase, platform: Platform): CacheKey | undefined {
  if (base.kind === 'stage') return base.stage.finalKey;
  const chainID = base.kind === 'image' ? base.image.chainID : null;
  return stepKey({ kind: 'base', chainID, platform, clampTime });
}

/** Whether a step's layer is made on nothing, so that it fits on anything. */
export function isLinked({ operation }: Step): boolean {
  return operation.kind === 'copy' && operation.link;
}

/** What stands for everything so far in the keys of the steps that follow one whose own key does not tell of it. */
function keyAbove(below: CacheKey | undefined, key: CacheKey | undefined): CacheKey | undefined {
  return below === undefined || key === undefined
    ? undefined
    : stepKey({ kind: 'link', parent: below, layer: key });
}

function definitionOf(
  { clampTime }: PlanOptions,
  { operation }: Step,
  parent: CacheKey | null,
  source: CacheKey | undefined,
  content: Digest | undefined,
  remotes: readonly ResolvedRemote[],
): KeyDefinition {
  if (operation.kind === 'copy') {
    if (source === undefined)
      return copyContentDefinition(operation, parent, content ?? null, clampTime, remotes);
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
      ...copyFlags(operation, clampTime),
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
function copyFlags(
  { parents, excludes, link }: CopyOperation,
  clampTime: number | undefined,
): { parents?: true; excludes?: readonly string[]; clampTime?: number } {
  return {
    ...(parents ? { parents } : {}),
    ...(excludes.length === 0 ? {} : { excludes }),
    // Other copies have it in the key of their base.
    ...(link && clampTime !== undefined ? { clampTime } : {}),
  };
}

/** What a copy's key is made of by the content of what it copies, wherever that is from. */
export function copyContentDefinition(
  operation: CopyOperation,
  parent: CacheKey | null,
  content: Digest | null,
  clampTime: number | undefined,
  remotes: readonly ResolvedRemote[] = [],
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
    keepOwners: operation.from !== undefined && operation.from.kind !== 'context',
    ...copyFlags(operation, clampTime),
    ...(remotes.length === 0
      ? {}
      : { remotes: remotes.map(({ identity }, at) => describeRemote(operation, identity, at)) }),
  };
}

function describeRemote(
  { remotes }: CopyOperation,
  identity: ResolvedRemote['identity'],
  at: number,
): CanonicalValue {
  return { ...identity, after: remotes[at]?.after ?? 0, unpack: remotes[at]?.unpack ?? false };
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

/** Reads what a copy takes from a directory outside; undefined for other steps, and when it takes nothing from there. */
async function readFrom(
  readings: TreeReadings,
  { tree, name }: CopyTree,
  { operation, where }: Step,
  signal: AbortSignal | undefined,
): Promise<TreeReading | undefined> {
  if (operation.kind !== 'copy' || operation.patterns.length === 0) return undefined;
  return readings.read(
    {
      root: tree.directory,
      patterns: operation.patterns,
      excludes: operation.excludes,
      parents: operation.parents,
      ignore: tree.ignore,
      where,
      treeName: name,
    },
    { owners: false, modes: typeof operation.chmod !== 'number', signal },
  );
}
