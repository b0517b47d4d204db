import { join } from 'node:path';
import { type LayerCache, type LookupResult, openLayerCaches, openTrust } from '../src/layercache/index.ts';
import { digestOf } from '../src/oci/index.ts';
import type { RegistryClient } from '../src/registry/index.ts';
import { type Progress, TextFiles, version } from '../src/support/index.ts';
import { BaseResolver } from './bases.ts';
import { checkBuild } from './checks.ts';
import { dockerfileName, isIgnoredForCertain, openContext, readDockerfile } from './context/index.ts';
import { addExcerpt, parseDockerfile, resolveStages } from '../src/dockerfile/index.ts';
import { exportOutput } from './export/index.ts';
import { assembleImage, type BuildOutput, type BuiltImage, outputOf, type PlacedLayer } from './image.ts';
import { openIsolation, singleIdStatement } from './isolation/index.ts';
import { forecast } from './forecast.ts';
import { historyOf, newest } from './history.ts';
import type { MountResources } from './mounts/index.ts';
import { sourcePaths } from './mounts/sources.ts';
import { NamedContexts } from './named-contexts.ts';
import { openNode } from './node.ts';
import { type BuildOptions, givenPaths } from './options.ts';
import { planBuild } from './plan.ts';
import { lookupsOf, type PlannedStage, type PlannedStep, sourceStagesOf } from './planned.ts';
import { GitTrees, HttpFiles, RemoteSources } from './remote/index.ts';
import { warnOfRules } from './rule-warnings.ts';
import { BuildSession } from './session.ts';
import { sourceDateName } from './source-date.ts';
import { proxyArguments } from './stage-state.ts';
import type { StageResult } from './stack.ts';
import { openVolumes } from './volumes.ts';
import { requireSafeSigner, warnOfSigner } from './signer-rules.ts';
import { waitForWarmer } from './wait-for-warmer.ts';

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
 * Builds an image: parse, resolve, plan, look everything up, build what is missing, export.
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
  const source = await readDockerfile(options.dockerfile);
  try {
    return await buildFrom(source, options, client, progress, signal, marks);
  } catch (error) {
    throw addExcerpt(dockerfileName(options.dockerfile), source.split(/\r?\n/), error);
  }
}

async function buildFrom(
  source: string,
  options: BuildOptions,
  client: RegistryClient,
  progress: Progress,
  signal: AbortSignal,
  { files = new TextFiles(), ...marks }: BuildMarks,
): Promise<BuildOutcome> {
  const started = new Date();
  using controller = linkedController(signal);
  const { platform, buildArguments } = options;
  const limits = singleIdStatement();
  if (limits !== undefined) progress.warn(limits);
  const context = await openContext(options.context, options.dockerfile);
  const dockerfile = parseDockerfile(source, dockerfileName(options.dockerfile));
  const graph = resolveStages(dockerfile, {
    target: options.target,
    buildArguments,
    platform,
    contexts: options.contexts.origins,
  });
  if (options.waitForWarmerSeconds !== undefined)
    await waitForWarmer(options.cacheDirectory, options.waitForWarmerSeconds, progress, controller.signal);
  await using volumes = await openVolumes(options, progress);
  await using node = openNode(options, volumes, progress, controller.signal);
  await using bases = new BaseResolver(volumes.all, client, node.warmer, progress);
  const { sources, target: written } = options.cache;
  const isCached = sources.length > 0 || written !== undefined;
  const trust = await openTrust(options.cache);
  warnOfSigner(trust, progress);
  const cache = isCached ? openLayerCaches(options.cache, client, creator, trust) : undefined;
  await using scratch = await volumes.scratch();
  const repositories = new GitTrees((host) => client.trustOf(host), scratch.path);
  const webFiles = new HttpFiles({
    get: (request) => client.readWebFile(request),
    scratch: scratch.path,
    memory: volumes.shared === undefined ? join(options.cacheDirectory, 'web-files') : undefined,
  });
  const consumed = new Set<string>(graph.globals.keys());
  const stages = await planBuild({
    dockerfile,
    subject: options.subject,
    graph,
    context,
    bases,
    buildArguments,
    platform,
    remotes: new RemoteSources(webFiles, repositories),
    contexts: new NamedContexts(options.contexts.sources, repositories),
    keyed: cache !== undefined,
    rules: options.cache.rules,
    clampTime: options.sourceDate,
    consumed,
    signal: controller.signal,
  });
  checkBuild(
    dockerfile,
    stages,
    { buildArguments, platform, isIgnored: (path) => isIgnoredForCertain(context.ignore, path) },
    { failing: options.checkError, progress },
  );
  node.presence?.begin(() => bases.outcomes);
  warnUnused(buildArguments, consumed, progress);
  warnOfRules(options.cache.rules, stages, progress);
  warnLate(options.sourceDate, progress);
  const lookups = await lookUpAll(stages, cache, options, progress, controller.signal);
  const mountParts = await openMountParts(options, stages);
  const target = stages.at(-1);
  if (target === undefined) throw new Error('no stage is needed');
  await using isolation = await openIsolation({
    ...options.isolation,
    given: givenPaths(options),
    secrets: sourcePaths(options.mountSources),
    scratch: scratch.path,
    progress,
    files,
  });
  if (isolation.isExclusive) requireSafeSigner(trust, progress);
  await using session = new BuildSession({
    isolation,
    volumes: volumes.all,
    client,
    platform,
    scratch: scratch.path,
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
    compression: options.compression,
    clampTime: options.sourceDate,
    exported: exportedStages(target),
    sources: sourceStages(stages),
    mountParts,
    ...(marks.onFirstRun === undefined ? {} : { onFirstRun: marks.onFirstRun }),
  });
  if (isolation.isExclusive) await fetchAhead(stages, session);
  const result = await firstFailure(session.stage(target), controller.controller);
  const image = await assemble(target, result, session, options);
  const attestations = await attestationsOf(image, result, { source, started, stages }, options, session);
  const output = outputOf([image, ...attestations]);
  const places = await exportOutput(output, options.outputs, client, progress, controller.signal);
  if (node.presence !== undefined) node.presence.succeeded = true;
  return { output, places };
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

function exportedStages(target: PlannedStage): Set<PlannedStage> {
  const exported = new Set([target]);
  let stage = target;
  while (stage.base.kind === 'stage') {
    ({ stage } = stage.base);
    exported.add(stage);
  }
  return exported;
}

function sourceStages(stages: readonly PlannedStage[]): Set<PlannedStage> {
  return new Set(stages.flatMap(({ steps }) => steps.flatMap(sourceStagesOf)));
}

/** Waits for the target; when another part of the build failed and stopped it, that part's error is the one to tell. */
async function firstFailure(target: Promise<StageResult>, controller: AbortController): Promise<StageResult> {
  try {
    return await target;
  } catch (error) {
    throw controller.signal.aborted && controller.signal.reason instanceof Error
      ? controller.signal.reason
      : error;
  }
}

function warnUnused(
  buildArguments: ReadonlyMap<string, string>,
  consumed: ReadonlySet<string>,
  progress: Progress,
): void {
  const unused = [...buildArguments.keys()].filter(
    (name) => !consumed.has(name) && !proxyArguments.has(name) && name !== sourceDateName,
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
  target: PlannedStage,
  result: StageResult,
  session: BuildSession,
  options: BuildOptions,
): Promise<BuiltImage> {
  const stack = await Promise.all(result.stack.map(({ placed }) => placed));
  await session.settle();
  session.signal.throwIfAborted();
  const layers = stack
    .filter((layer): layer is PlacedLayer => layer !== undefined)
    .map((layer) => session.placedEverywhere(layer));
  const { state } = target.interpreted;
  for (const [name, value] of options.labels) state.labels.set(name, value);
  const date = options.sourceDate === undefined ? undefined : new Date(options.sourceDate * 1000);
  const history = await historyOf(target, result, (stage) => session.stage(stage), date);
  return assembleImage({
    platform: options.platform,
    config: state.containerConfig(),
    author: state.author,
    history,
    layers,
    created: date ?? newest(history),
  });
}
