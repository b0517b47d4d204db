import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type LayerCache, type LookupResult, openLayerCache } from '../src/layercache/index.ts';
import { formatReference } from '../src/oci/index.ts';
import type { RegistryClient } from '../src/registry/index.ts';
import { type Progress, TextFiles, version } from '../src/support/index.ts';
import { BaseResolver } from './bases.ts';
import { checkBuild } from './checks.ts';
import { type ContextPlace, dockerfileName, fetchContext, isIgnoredForCertain } from './context/index.ts';
import { addExcerpt, parseDockerfile, resolveStages } from '../src/dockerfile/index.ts';
import { destinationWithDigest, pushImage, writeArchive, writeLayout } from './export/index.ts';
import { assembleImage, type BuiltImage, type PlacedLayer } from './image.ts';
import { openIsolation, singleIdStatement } from './isolation/index.ts';
import { forecast } from './forecast.ts';
import { historyOf, newest } from './history.ts';
import { NamedContexts } from './named-contexts.ts';
import { openNode } from './node.ts';
import { type OpenedSource, openSource } from './open-source.ts';
import { type BuildOptions, givenPaths } from './options.ts';
import { lookupsOf, type PlannedStage, planBuild } from './plan.ts';
import { GitTrees, HttpFiles, RemoteSources } from './remote/index.ts';
import { warnOfRules } from './rule-warnings.ts';
import { BuildSession } from './session.ts';
import { sourceDateName } from './source-date.ts';
import { keepGitDirName } from './source-flags.ts';
import { proxyArguments } from './stage-state.ts';
import type { StageResult } from './stage-builder.ts';
import { Workplace } from './workplace.ts';

export const creator = `kiln/${version}`;

/** What one build came to. */
export interface BuildOutcome {
  readonly image: BuiltImage;
  /** Where the image was put, as a user would name it. */
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
  const { platform, buildArguments } = options;
  const limits = singleIdStatement();
  if (limits !== undefined) progress.warn(limits);
  const dockerfile = parseDockerfile(text, dockerfileName(options.dockerfile));
  const graph = resolveStages(dockerfile, {
    target: options.target,
    buildArguments,
    platform,
    contexts: options.contexts.origins,
  });
  const volumes = await workplace.volumes();
  await using node = openNode(options, volumes, progress, controller.signal);
  await using bases = new BaseResolver(volumes.all, client, node.warmer, progress);
  const cache =
    options.cache.location === undefined
      ? undefined
      : openLayerCache(options.cache.location, client, creator);
  const scratch = await workplace.scratch();
  const repositories = new GitTrees(client, scratch);
  const webFiles = new HttpFiles({
    get: (request) => client.readWebFile(request),
    scratch,
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
    contexts: new NamedContexts(options.contexts.sources, async (address, where) =>
      fetchContext(address, await contextPlace(), where),
    ),
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
  const target = stages.at(-1);
  if (target === undefined) throw new Error('no stage is needed');
  await using isolation = await openIsolation({
    ...options.isolation,
    given: givenPaths(options, dockerfileFile),
    scratch,
    progress,
    files,
  });
  await using session = new BuildSession({
    isolation,
    volumes: volumes.all,
    client,
    platform,
    scratch,
    cache,
    lookups,
    progress,
    controller: controller.controller,
    subject: options.subject,
    stages,
    // What others would take for theirs must have the owners that theirs has.
    cachePush:
      options.cache.push && (options.cache.onVolume ? volumes.shared === undefined : limits === undefined),
    cacheRunLayers: options.cache.runLayers,
    cacheCopyLayers: options.cache.copyLayers,
    maxAgeSeconds: options.cache.maxAgeSeconds,
    compression: options.compression,
    clampTime: options.sourceDate,
    exported: exportedStages(target),
    sources: sourceStages(stages),
    ...(marks.onFirstRun === undefined ? {} : { onFirstRun: marks.onFirstRun }),
  });
  if (isolation.isExclusive) await fetchAhead(stages, session);
  const result = await firstFailure(session.stage(target), controller.controller);
  const image = await assemble(target, result, session, options);
  const places = await exportImage(image, options, client, progress, controller.signal);
  if (node.presence !== undefined) node.presence.succeeded = true;
  return { image, places };
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
  const sources = stages.flatMap(({ steps }) => steps.map(({ source }) => source));
  return new Set(sources.flatMap((source) => (source?.kind === 'stage' ? [source.stage] : [])));
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
  const lookups = await cache.lookup(keys, { maxAgeSeconds, signal });
  const failed = [...lookups.values()].find(
    ({ outcome }) => outcome === 'error' || outcome === 'unauthorized',
  );
  if (failed !== undefined && failed.outcome !== 'hit')
    progress.warn(`the layer cache ${cache.location} cannot be read (${failed.outcome}): ${failed.detail}`);
  return lookups;
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

async function exportImage(
  image: BuiltImage,
  options: BuildOptions,
  client: RegistryClient,
  progress: Progress,
  signal: AbortSignal,
): Promise<string[]> {
  const { outputs } = options;
  const places: string[] = [];
  const names = outputs.destinations.map(formatReference);
  if (outputs.tarPath !== undefined) {
    await writeArchive(image, outputs.tarPath, names, signal);
    places.push(outputs.tarPath);
  }
  if (outputs.ociLayoutPath !== undefined) {
    const name = outputs.destinations[0]?.tag ?? 'latest';
    await writeLayout(image, outputs.ociLayoutPath, name, signal);
    places.push(`oci:${outputs.ociLayoutPath}:${name}`);
  }
  if (outputs.push) {
    await Promise.all(
      outputs.destinations.map((destination) => pushImage(client, image, destination, signal)),
    );
    places.push(...outputs.destinations.map((destination) => destinationWithDigest(destination, image)));
  }
  if (outputs.digestFile !== undefined) {
    await mkdir(dirname(outputs.digestFile), { recursive: true });
    await writeFile(outputs.digestFile, image.descriptor.digest);
  }
  for (const place of places)
    progress.emit({
      type: 'result',
      message: `wrote ${place}`,
      fields: { place, digest: image.descriptor.digest },
    });
  return places;
}
