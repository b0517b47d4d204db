import { join } from 'node:path';
import { type LayerCache, type LookupResult, openLayerCaches, openTrust } from '../src/layercache/index.ts';
import { digestOf } from '../src/oci/index.ts';
import type { RegistryClient } from '../src/registry/index.ts';
import { type Progress, TextFiles, version } from '../src/support/index.ts';
import { BaseResolver } from './bases.ts';
import { checkBuild } from './checks.ts';
import { dockerfileName, isIgnoredForCertain, TreeReadings } from './context/index.ts';
import { type ContextPlace, fetchContext } from './context/kinds/index.ts';
import { addExcerpt, parseDockerfile } from '../src/dockerfile/index.ts';
import { exportOutput } from './export/index.ts';
import {
  assembleImage,
  type BuildOutput,
  type BuiltImage,
  outputOf,
  type PlacedLayer,
  requireFormat,
} from './image.ts';
import { openIsolation, singleIdStatement } from './isolation/index.ts';
import { forecast } from './forecast.ts';
import { historyOf, newest } from './history.ts';
import type { MountResources } from './mounts/index.ts';
import { sourcePaths } from './mounts/sources.ts';
import { NamedContexts } from './named-contexts.ts';
import { openNode } from './node.ts';
import { type OpenedSource, openSource } from './open-source.ts';
import { type BuildOptions, givenPaths, type OutputOptions } from './options.ts';
import { lookupsOf, type PlannedStage, type PlannedStep, sourceStagesOf } from './planned.ts';
import { planPlatforms, type PlatformPlan, requireRunnable } from './platforms/index.ts';
import { GitTrees, HttpFiles, RemoteSources } from './remote/index.ts';
import { warnOfRules } from './rule-warnings.ts';
import { withOneCompression } from './recompress.ts';
import { BuildSession } from './session.ts';
import { sourceDateName } from './source-date.ts';
import { keepGitDirName } from './source-flags.ts';
import { proxyArguments } from './stage-state.ts';
import type { StageResult } from './stack.ts';
import { PushCheck } from './push-check.ts';
import { requireSafeSigner, warnOfSigner } from './signer-rules.ts';
import { Workplace } from './workplace.ts';

export const creator = `kiln/${version}`;

/** What one build came to. */
export interface BuildOutcome {
  readonly output: BuildOutput;
  /** Where it was put, as a user would name it. */
  readonly places: readonly string[];
}

/** What a build tells its caller, and shares with it. */
export interface BuildMarks {
  readonly onFirstRun?: () => void;
  /** What the registry client reads its credentials with. */
  readonly files?: TextFiles;
}

/**
 * Builds an image, or one for each of several platforms: parse, resolve, plan, look everything up, build what is missing, export.
 *
 * @throws KilnError of every kind; nothing is left mounted, running or half written.
 */
export async function build(
  options: BuildOptions,
  client: RegistryClient,
  progress: Progress,
  signal: AbortSignal,
  marks: BuildMarks = {},
): Promise<BuildOutcome> {
  using controller = linkedController(signal);
  await using workplace = new Workplace(options, progress, controller.signal);
  const contextPlace = async (): Promise<ContextPlace> => ({
    client,
    scratch: await workplace.scratch(),
    progress,
    signal: controller.signal,
    environment: process.env,
  });
  const source = await openSource(options, contextPlace);
  try {
    return await buildFrom(source, options, client, progress, { controller, workplace, contextPlace }, marks);
  } catch (error) {
    throw addExcerpt(dockerfileName(options.dockerfile), source.text.split(/\r?\n/), error);
  }
}

/** Where a build works, and what ends it. */
interface BuildPlace {
  readonly controller: { readonly controller: AbortController; readonly signal: AbortSignal };
  readonly workplace: Workplace;
  readonly contextPlace: () => Promise<ContextPlace>;
}

async function buildFrom(
  { text, dockerfile: dockerfileFile, context }: OpenedSource,
  options: BuildOptions,
  client: RegistryClient,
  progress: Progress,
  { controller, workplace, contextPlace }: BuildPlace,
  { files = new TextFiles(), ...marks }: BuildMarks,
): Promise<BuildOutcome> {
  const started = new Date();
  const { buildArguments } = options;
  const limits = singleIdStatement();
  if (limits !== undefined) progress.warn(limits);
  await using check = new PushCheck({
    client,
    outputs: options.outputs,
    cache: limits === undefined ? options.cache.target : undefined,
    progress,
    signal: controller.signal,
  });
  const dockerfile = parseDockerfile(text, dockerfileName(options.dockerfile));
  const volumes = await workplace.volumes();
  await using node = openNode(options, volumes, progress, controller.signal);
  await using bases = new BaseResolver(volumes.all, client, node.warmer, progress);
  const { sources, target: written } = options.cache;
  const isCached = sources.length > 0 || written !== undefined;
  const trust = await openTrust(options.cache);
  warnOfSigner(trust, progress);
  const cache = isCached ? openLayerCaches(options.cache, client, creator, trust) : undefined;
  const scratch = await workplace.scratch();
  const repositories = new GitTrees(client, scratch);
  const webFiles = new HttpFiles({
    get: (request) => client.readWebFile(request),
    scratch,
    memory: volumes.shared === undefined ? join(options.cacheDirectory, 'web-files') : undefined,
  });
  const plan = await planPlatforms({
    dockerfile,
    subject: options.subject,
    target: options.target,
    origins: options.contexts.origins,
    platforms: options.platforms,
    context,
    bases,
    buildArguments,
    readings: new TreeReadings(),
    remotes: new RemoteSources(webFiles, repositories),
    contexts: new NamedContexts(options.contexts.sources, async (address, where) =>
      fetchContext(address, await contextPlace(), where),
    ),
    keyed: cache !== undefined,
    rules: options.cache.rules,
    clampTime: options.sourceDate,
    ignored: options.ignoredPaths,
    signal: controller.signal,
  });
  const { stages } = plan;
  checkBuild(
    dockerfile,
    plan.platforms,
    { buildArguments, isIgnored: (path) => isIgnoredForCertain(context.ignore, path) },
    { failing: options.checkError, progress },
  );
  const targets = plan.platforms.map(({ target }) => target);
  for (const target of targets) requireOutputs(target, options.outputs);
  node.presence?.begin(() => bases.outcomes);
  warnUnused(buildArguments, plan.consumed, progress);
  warnOfRules(options.cache.rules, stages, progress);
  warnLate(options.sourceDate, progress);
  const lookups = await lookUpAll(stages, cache, options, progress, controller.signal);
  const mountParts = await openMountParts(options, stages);
  await using isolation = await openIsolation({
    ...options.isolation,
    given: givenPaths(options, dockerfileFile),
    secrets: sourcePaths(options.mountSources),
    scratch,
    progress,
    files,
  });
  if (isolation.isExclusive) requireSafeSigner(trust, progress);
  await using session = new BuildSession({
    isolation,
    volumes: volumes.all,
    client,
    scratch,
    cache,
    lookups,
    progress,
    controller: controller.controller,
    subject: options.subject,
    stages,
    // What others would take for theirs must have the owners that theirs has.
    cachePush:
      written !== undefined && (options.cache.onVolume ? volumes.shared === undefined : limits === undefined),
    cacheRunLayers: options.cache.runLayers,
    cacheCopyLayers: options.cache.copyLayers,
    maxAgeSeconds: options.cache.maxAgeSeconds,
    compression: options.outputs.compression,
    limits: { clampTime: options.sourceDate, ignored: options.ignoredPaths },
    singleSnapshot: options.singleSnapshot,
    exported: exportedStages(targets),
    sources: sourceStages(stages),
    mountParts,
    ...(marks.onFirstRun === undefined ? {} : { onFirstRun: marks.onFirstRun }),
  });
  await requireRunnable(targets, session.resultFor, scratch, controller.signal);
  if (stages.some((stage) => forecast(stage, session.resultFor).certain < stage.steps.length))
    await check.allowed;
  if (isolation.isExclusive) await fetchAhead(stages, session);
  const results = await firstFailure(buildAll(targets, session), controller.controller);
  const images: BuiltImage[] = [];
  const attestations: BuiltImage[] = [];
  for (const [index, result] of results.entries()) {
    const built = plan.platforms[index];
    if (built === undefined) continue;
    const image = await assemble(built, result, session, options);
    images.push(image);
    const facts = { source: text, started, stages: built.stages };
    attestations.push(...(await attestationsOf(image, result, facts, options, session)));
  }
  const output = outputOf([...images, ...attestations], options.outputs.annotations.index);
  const places = await exportOutput(output, options.outputs, client, progress, controller.signal);
  if (node.presence !== undefined) node.presence.succeeded = true;
  return { output, places };
}

/** Builds all targets beside each other; where stages share one root, one after the other. */
async function buildAll(targets: readonly PlannedStage[], session: BuildSession): Promise<StageResult[]> {
  if (!session.isolation.isExclusive) return Promise.all(targets.map((target) => session.stage(target)));
  const results: StageResult[] = [];
  for (const target of targets) results.push(await session.stage(target));
  return results;
}

/** What was asked to be said of the image, if anything; what that takes is loaded only then. */
async function attestationsOf(
  image: BuiltImage,
  { stack }: StageResult,
  facts: {
    readonly source: string;
    readonly started: Date;
    readonly stages: readonly PlannedStage[];
  },
  options: BuildOptions,
  session: BuildSession,
): Promise<BuiltImage[]> {
  const { attest: wanted, target, buildArguments, sourceDate, outputs } = options;
  if (wanted.provenance === undefined && !wanted.sbom) return [];
  const { attest } = await import('./attest/index.ts');
  const placed = await Promise.all(stack.map((layer) => layer.placed));
  const { source, started, stages } = facts;
  return [
    await attest(
      {
        image,
        layers: stack.filter((_, index) => placed[index] !== undefined),
        stages,
        dockerfile: { path: dockerfileName(options.dockerfile), digest: digestOf(source) },
        ...{ target, buildArguments, sourceDate, started },
        destinations: outputs.push ? outputs.destinations : [],
      },
      wanted,
      session.progress,
      session.signal,
    ),
  ];
}

/** Secrets and agents for the steps that use them. Most Dockerfiles have none, and are not held up. */
async function openMountParts(
  { mountSources }: BuildOptions,
  stages: readonly PlannedStage[],
): Promise<Pick<MountResources, 'secrets' | 'agents'> | undefined> {
  const steps = stages.flatMap((stage) => stage.steps);
  const isMounting = ({ operation }: PlannedStep): boolean =>
    operation.kind === 'run' && (operation.mounts.length > 0 || operation.script !== undefined);
  if (!steps.some(isMounting)) return undefined;
  const { openSources } = await import('./mounts/index.ts');
  return openSources(mountSources, steps);
}

/**
 * Brings what ADD takes from elsewhere before the first step: where steps have the executor's own root, its git is gone afterwards, and
 * that of an image must not be trusted with credentials.
 */
async function fetchAhead(stages: readonly PlannedStage[], session: BuildSession): Promise<void> {
  for (const stage of stages) {
    const { certain } = forecast(stage, session.resultFor);
    for (const { remotes } of stage.steps.slice(certain))
      await Promise.all(remotes.map((remote) => remote.fetch()));
  }
}

/** A controller that the signal aborts too, and that lets go of the signal when disposed. */
function linkedController(
  signal: AbortSignal,
): Disposable & { controller: AbortController; signal: AbortSignal } {
  const controller = new AbortController();
  const abort = (): void => controller.abort(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  return {
    controller,
    signal: controller.signal,
    [Symbol.dispose]: () => signal.removeEventListener('abort', abort),
  };
}

function exportedStages(targets: readonly PlannedStage[]): Set<PlannedStage> {
  const exported = new Set(targets);
  // A set gives what is added meanwhile, too.
  for (const { base } of exported) if (base.kind === 'stage') exported.add(base.stage);
  return exported;
}

/** What the image cannot be is said before anything is built. */
function requireOutputs(target: PlannedStage, { format, forceCompression }: OutputOptions): void {
  const [lowest] = [...exportedStages([target])].slice(-1);
  if (lowest?.base.kind === 'image' && !forceCompression) requireFormat(lowest.base.image.layers, format);
}

function sourceStages(stages: readonly PlannedStage[]): Set<PlannedStage> {
  return new Set(stages.flatMap(({ steps }) => steps.flatMap(sourceStagesOf)));
}

/** Waits for the targets; when another part of the build failed and stopped it, that part's error is the one to tell. */
async function firstFailure<Result>(building: Promise<Result>, controller: AbortController): Promise<Result> {
  try {
    return await building;
  } catch (error) {
    throw controller.signal.aborted && controller.signal.reason instanceof Error
      ? controller.signal.reason
      : error;
  }
}

/** Build arguments that mean something without an ARG. */
const speaksToBuilder = new Set([sourceDateName, keepGitDirName]);

function warnUnused(
  buildArguments: ReadonlyMap<string, string>,
  consumed: ReadonlySet<string>,
  progress: Progress,
): void {
  const unused = [...buildArguments.keys()].filter(
    (name) => !consumed.has(name) && !proxyArguments.has(name) && !speaksToBuilder.has(name),
  );
  if (unused.length > 0) progress.warn(`no ARG of the stages that are built declares ${unused.join(', ')}`);
}

/** Files made before that date keep their times, which are others in the next build. */
function warnLate(sourceDate: number | undefined, progress: Progress): void {
  if (sourceDate !== undefined && sourceDate > Date.now() / 1000)
    progress.warn(`${sourceDateName} is in the future, so that the image will not be the same another time`);
}

async function lookUpAll(
  stages: readonly PlannedStage[],
  cache: LayerCache | undefined,
  options: BuildOptions,
  progress: Progress,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, LookupResult>> {
  if (cache === undefined) return new Map();
  const { keys, maxAgeSeconds } = lookupsOf(stages, options.cache.maxAgeSeconds);
  return cache.lookup(keys, {
    maxAgeSeconds,
    signal,
    onFailure: (location, { outcome, detail }) =>
      progress.warn(`the layer cache ${location} cannot be read (${outcome}): ${detail}`),
  });
}

async function assemble(
  { target, imagePlatform: platform }: PlatformPlan,
  result: StageResult,
  session: BuildSession,
  options: BuildOptions,
): Promise<BuiltImage> {
  const stack = await Promise.all(result.stack.map(({ placed }) => placed));
  await session.settle();
  session.signal.throwIfAborted();
  const made = stack
    .filter((layer): layer is PlacedLayer => layer !== undefined)
    .map((layer) => session.placedEverywhere(layer));
  const layers = options.outputs.forceCompression ? await withOneCompression(made, session) : made;
  const { state } = target.interpreted;
  for (const [name, value] of options.labels) state.labels.set(name, value);
  const date = options.sourceDate === undefined ? undefined : new Date(options.sourceDate * 1000);
  const history = await historyOf(target, result, (stage) => session.stage(stage), date);
  return assembleImage({
    format: options.outputs.format,
    annotations: options.outputs.annotations.manifest(platform),
    platform,
    config: state.containerConfig(),
    author: state.author,
    history,
    layers,
    created: date ?? newest(history),
  });
}
