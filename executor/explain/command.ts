import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { Command } from 'commander';
import {
  addFlags,
  booleanFlag,
  defaultCacheDirectory,
  listFlag,
  logFlags,
  type LogFlags,
  outputFlag,
  type OutputFlags,
  pushFlags,
  type PushFlags,
  registryFlags,
  type RegistryFlags,
  registryOptions,
  valueFlag,
} from '../../src/cli/index.ts';
import { addExcerpt, parseDockerfile } from '../../src/dockerfile/index.ts';
import { formatPlatform, parseReference } from '../../src/oci/index.ts';
import { RegistryClient, type WebAnswer, type WebRequest } from '../../src/registry/index.ts';
import {
  EnvironmentError,
  Progress,
  reportTo,
  TemporaryDirectory,
  UsageError,
} from '../../src/support/index.ts';
import { Volume } from '../../src/volume/index.ts';
import { BaseResolver } from '../bases.ts';
import { cacheFlags, type CacheFlags, cacheOptions } from '../cache-flags.ts';
import { dockerfileName, TreeReadings } from '../context/index.ts';
import { type ContextPlace, fetchContext } from '../context/kinds/index.ts';
import { NamedContexts } from '../named-contexts.ts';
import { openSource } from '../open-source.ts';
import type { CacheOptions, SourceOptions } from '../options.ts';
import type { PlannedStage } from '../planned.ts';
import { planPlatforms } from '../platforms/index.ts';
import { GitTrees, HttpFiles, RemoteSources } from '../remote/index.ts';
import { warnOfRules } from '../rule-warnings.ts';
import { sourceFlags, type SourceFlags, sourceOptions } from '../source-flags.ts';
import { explainStages } from './explain.ts';
import { explanationDocument, explanationText } from './report.ts';

interface ExplainFlags extends SourceFlags, CacheFlags, RegistryFlags, PushFlags, LogFlags, OutputFlags {
  readonly destination: readonly string[];
  readonly allStages: boolean;
  readonly cacheDir?: string;
}

const examples = `
Examples:
  executor explain --context . --cache-repo registry.example/team/app/cache
  executor explain --context . --destination registry.example/team/app:1 --build-arg VERSION=2
  executor explain --context . --cache-repo registry.example/cache --all-stages -o json > keys.json

Give it what you give the build. Nothing is built, and nothing is written.

Exit codes: 0 explained, whatever hits or misses; 1 a mistake in the Dockerfile, 2 usage, 3 environment, 4 registry.`;

/** `executor explain`: why each step of a Dockerfile would be taken from the cache, or not. */
export function explainCommand(signal: AbortSignal): Command {
  const command = new Command('explain')
    .description('say for each step whether the cache has it, and if not, what changed')
    .allowExcessArguments(false)
    .addHelpText('after', examples)
    .action((flags: ExplainFlags) => explain(flags, signal));
  return addFlags(command, [
    ...sourceFlags(),
    listFlag(
      '-d, --destination <reference>',
      'where the image is pushed, whose cache is <destination>/cache',
    ),
    booleanFlag('--all-stages', 'also stages that the target does not need', false),
    ...cacheFlags(),
    valueFlag(
      '--cache-dir <directory>',
      "the cache volume (default: /cache when it is there, otherwise the user's cache directory)",
    ),
    ...registryFlags(),
    ...pushFlags(),
    outputFlag(),
    ...logFlags(),
  ]);
}

async function explain(flags: ExplainFlags, signal: AbortSignal): Promise<void> {
  const destinations = flags.destination.map(parseReference);
  const cacheDirectory = resolve(flags.cacheDir ?? defaultCacheDirectory(existsSync));
  const source = sourceOptions(flags, destinations);
  // Whoever asks about the cache means it, without saying --cache.
  const cache = cacheOptions({ ...flags, cache: flags.cache ?? true }, destinations, cacheDirectory);
  const { sources } = cache;
  if (sources.length === 0)
    throw new UsageError('there is no layer cache to explain', {
      remedy:
        flags.cacheTo === undefined ? 'Leave --cache=false out.' : 'Name what builds read with --cache-from.',
    });
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  await using client = new RegistryClient(registryOptions(flags, progress));
  const stages = await plan(source, cache, { client, progress, cacheDirectory, signal }, flags.allStages);
  warnOfRules(cache.rules, stages, progress);
  const explained = await explainStages(stages, cache, client, progress, signal);
  process.stdout.write(
    flags.output === 'json'
      ? `${JSON.stringify(explanationDocument(sources, explained), undefined, 2)}\n`
      : explanationText(sources, explained),
  );
}

interface PlanParts {
  readonly client: RegistryClient;
  readonly progress: Progress;
  readonly cacheDirectory: string;
  readonly signal: AbortSignal;
}

/** Plans as a build does, with what is on the volume where there is one. */
async function plan(
  source: SourceOptions,
  cache: CacheOptions,
  { client, progress, cacheDirectory, signal }: PlanParts,
  allStages: boolean,
): Promise<PlannedStage[]> {
  await using scratch = await TemporaryDirectory.create(tmpdir(), 'kiln-explain-');
  const place: ContextPlace = { client, scratch: scratch.path, progress, signal, environment: process.env };
  const { text, context } = await openSource(source, () => Promise.resolve(place));
  const file = dockerfileName(source.dockerfile);
  const { buildArguments, platforms, subject, sourceDate: clampTime, ignoredPaths: ignored } = source;
  try {
    const dockerfile = parseDockerfile(text, file);
    await using volume = await openVolume(cacheDirectory);
    await using bases = new BaseResolver(volume === undefined ? [] : [volume], client, undefined, progress);
    const repositories = new GitTrees(client, scratch.path);
    const get = (request: WebRequest): Promise<WebAnswer> => client.readWebFile(request);
    // Nothing is written, so it is not remembered what servers say; what a build remembers is not asked for either.
    const files = new HttpFiles({ get, scratch: scratch.path, memory: undefined });
    const remotes = new RemoteSources(files, repositories);
    const contexts = new NamedContexts(source.contexts.sources, (address, where) =>
      fetchContext(address, place, where),
    );
    const targets = allStages ? dockerfile.stages.map(({ index }) => String(index)) : [source.target];
    const readings = new TreeReadings();
    const planned = new Map<string, PlannedStage>();
    for (const target of targets) {
      const { stages } = await planPlatforms({
        dockerfile,
        subject,
        clampTime,
        ignored,
        target,
        origins: source.contexts.origins,
        platforms,
        context,
        bases,
        remotes,
        contexts,
        readings,
        buildArguments,
        keyed: true,
        rules: cache.rules,
        signal,
      });
      for (const stage of stages) planned.set(identityOf(stage), stage);
    }
    return [...planned.values()];
  } catch (error) {
    throw addExcerpt(file, text.split(/\r?\n/), error);
  }
}

/** A stage that several targets need is explained once. */
function identityOf({ index, platform, steps }: PlannedStage): string {
  return JSON.stringify([index, formatPlatform(platform), steps.map(({ id, key }) => [id, key])]);
}

async function openVolume(directory: string): Promise<Volume | undefined> {
  try {
    return await Volume.open(directory, { access: 'read-only' });
  } catch (error) {
    if (error instanceof EnvironmentError && error.code === 'E_VOLUME_NOT_FOUND') return undefined;
    throw error;
  }
}
