import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import {
  addFlags,
  booleanFlag,
  defaultCacheDirectory,
  listFlag,
  parsePairs,
  valueFlag,
} from '../src/cli/index.ts';
import {
  addExcerpt,
  type BaseFacts,
  checkDockerfile,
  type CheckResult,
  type Dockerfile,
  parseDockerfile,
  type ResolvedStage,
  resolveStages,
} from '../src/dockerfile/index.ts';
import { hostPlatform, parseReference, type Platform } from '../src/oci/index.ts';
import {
  EnvironmentError,
  KilnError,
  Progress,
  TemporaryDirectory,
  UsageError,
} from '../src/support/index.ts';
import { Volume } from '../src/volume/index.ts';
import { countOf, factsOf, mergeFindings, requireNoFindings } from './checks.ts';
import { type BuildContext, dockerfileName, isIgnoredForCertain } from './context/index.ts';
import type { ContextPlace } from './context/kinds/index.ts';
import { parseBuildContexts } from './named-contexts.ts';
import { openSource } from './open-source.ts';
import {
  buildContextFlag,
  type ContextFlags,
  contextFlags,
  contextOptions,
  platformFlags,
  platformsOf,
  type SourceFlags,
} from './source-flags.ts';
import { ownScratchParent } from './volumes.ts';

/** Flags of `executor check`. */
interface CheckFlags extends ContextFlags, Pick<SourceFlags, 'platform' | 'customPlatform'> {
  readonly buildContext: readonly string[];
  readonly target?: string;
  readonly buildArg: readonly string[];
  readonly cacheDir?: string;
  readonly checkError: boolean;
  readonly output: 'text' | 'json';
  readonly environment: boolean;
  readonly scratchDir?: string;
}

const examples = `
Examples:
  executor check                                  the Dockerfile of this directory
  executor check -f app/Dockerfile --target test  the stages that one target needs
  executor check --check-error -o json            for programs; fails when something is found
  executor check --environment                    where steps would run here, why, and what would be better

Exit codes: 0 nothing found, or warnings only; 1 the Dockerfile is wrong, or something was found and --check-error or
its directive "# check=error=true" says that this is an error; 2 usage; 3 no step can run here.`;

/** Adds `check`, which looks for mistakes in a Dockerfile, or at the environment, without building or asking a registry. */
export function addCheckCommand(program: Command, signal: AbortSignal): void {
  const command = program
    .command('check')
    .description('look for mistakes in a Dockerfile, or at this environment, without building')
    .allowExcessArguments(false)
    .addHelpText('after', examples);
  addFlags(command, [
    ...contextFlags(),
    buildContextFlag(),
    valueFlag('--target <stage>', 'only this stage and what it needs'),
    listFlag('--build-arg <name=value>', 'value of an ARG'),
    ...platformFlags(),
    valueFlag('--cache-dir <directory>', 'the cache volume, where base images are looked at'),
    checkErrorFlag(),
    valueFlag('-o, --output <format>', 'how findings are written').choices(['text', 'json']).default('text'),
    booleanFlag('--environment', 'tell where steps would run here, why, and what would be better', false),
    valueFlag('--scratch-dir <directory>', 'with --environment: where builds would keep their own files'),
  ]);
  command.action((flags: CheckFlags) => checkCommand(flags, command, signal));
}

/** What makes findings of the checks errors. */
export function checkErrorFlag(): ReturnType<typeof booleanFlag> {
  return booleanFlag('--check-error', 'fail when the build checks find something', false);
}

/** Where a context that is elsewhere is put for as long as it is looked at; nothing is made before it is needed. */
class CheckPlace implements AsyncDisposable {
  readonly #signal: AbortSignal;
  readonly #made = new AsyncDisposableStack();

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  async open(): Promise<ContextPlace> {
    const { RegistryClient } = await import('../src/registry/index.ts');
    const client = this.#made.use(new RegistryClient());
    const scratch = this.#made.use(await TemporaryDirectory.create(ownScratchParent(), 'kiln-check-'));
    const { path } = scratch;
    return {
      client,
      scratch: path,
      progress: new Progress(),
      signal: this.#signal,
      environment: process.env,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#made.disposeAsync();
  }
}

async function checkCommand(flags: CheckFlags, command: Command, signal: AbortSignal): Promise<void> {
  requireFitting(flags, command);
  if (flags.environment) {
    const { checkEnvironment } = await import('./environment-command.ts');
    return checkEnvironment(flags);
  }
  const file = dockerfileName(flags.dockerfile);
  await using place = new CheckPlace(signal);
  const options = contextOptions(flags, parsePairs(flags.buildArg, 'build-arg'));
  const { text: source, context } = await openSource(options, () => place.open());
  try {
    const dockerfile = parseDockerfile(source, file);
    const result = await check(dockerfile, context, flags);
    process.stdout.write(flags.output === 'json' ? jsonOf(file, result) : textOf(file, result));
    if (flags.checkError || result.error) requireNoFindings(result, dockerfile);
  } catch (error) {
    const explained = addExcerpt(file, source.split(/\r?\n/), error);
    if (flags.output === 'json' && explained instanceof KilnError && explained.code !== 'E_CHECK_FAILED')
      process.stdout.write(jsonOf(file, { findings: [], error: true }, explained));
    throw explained;
  }
}

async function check(dockerfile: Dockerfile, context: BuildContext, flags: CheckFlags): Promise<CheckResult> {
  const platforms = platformsOf(flags);
  const results: CheckResult[] = [];
  for (const platform of platforms.length === 0 ? [hostPlatform()] : platforms)
    results.push(await checkFor(platform, dockerfile, context, flags));
  return mergeFindings(results);
}

async function checkFor(
  platform: Platform,
  dockerfile: Dockerfile,
  { ignore }: BuildContext,
  flags: CheckFlags,
): Promise<CheckResult> {
  const buildArguments = parsePairs(flags.buildArg, 'build-arg');
  const graph = resolveStages(dockerfile, {
    target: flags.target,
    buildArguments,
    platform,
    contexts: parseBuildContexts(flags.buildContext).origins,
  });
  const directory = resolve(flags.cacheDir ?? defaultCacheDirectory(existsSync));
  const bases = await basesOnVolume(graph.all, directory);
  return checkDockerfile(dockerfile, {
    buildArguments,
    platform,
    baseOf: ({ index }) => bases[index],
    isIgnored: (name) => isIgnoredForCertain(ignore, name),
    stages: flags.target === undefined ? undefined : new Set(graph.stages.map(({ stage }) => stage.index)),
  });
}

/** @throws UsageError for a flag of one of the two kinds of check that is given to the other. */
function requireFitting({ environment }: CheckFlags, command: Command): void {
  const others = environment
    ? ['context', 'contextSubPath', 'git', 'dockerfile', 'target', 'buildArg', 'platform', 'checkError']
    : ['scratchDir'];
  const given = command.options.find(
    (option) =>
      others.includes(option.attributeName()) &&
      command.getOptionValueSource(option.attributeName()) === 'cli',
  );
  if (given === undefined) return;
  throw new UsageError(
    `${given.long ?? ''} says nothing about ${environment ? 'the environment' : 'a Dockerfile'}`,
    {
      remedy: environment
        ? 'Leave it out, or leave out --environment.'
        : 'Leave it out, or say --environment.',
    },
  );
}

/** What the volume knows of the images that stages start from, without asking anybody; undefined where it knows nothing. */
async function basesOnVolume(
  stages: readonly ResolvedStage[],
  directory: string,
): Promise<(BaseFacts | undefined)[]> {
  const volume = await openQuietly(directory);
  if (volume === undefined) return [];
  await using open = volume;
  const found: (BaseFacts | undefined)[] = [];
  for (const { base, platform } of stages) {
    const image = base.kind === 'image' ? await open.find(parseReference(base.name), platform) : undefined;
    found.push(image === undefined ? undefined : factsOf(image.config));
  }
  return found;
}

/** The checks need no volume, so whatever is wrong with it is no fault of the Dockerfile. */
async function openQuietly(directory: string): Promise<Volume | undefined> {
  try {
    return await Volume.open(directory, { access: 'read-only' });
  } catch (error) {
    if (error instanceof EnvironmentError) return undefined;
    throw error;
  }
}

function textOf(file: string, { findings }: CheckResult): string {
  const parts = findings.map(
    ({ rule, message, remedy, page, line, excerpt }) =>
      `${file}:${line}: ${rule}: ${message}\n${excerpt}\n  remedy: ${remedy}\n  see ${page}\n`,
  );
  const summary = findings.length === 0 ? 'nothing found' : countOf(findings.length, 'warning');
  return [...parts, `${file}: ${summary}\n`].join('\n');
}

function jsonOf(file: string, { findings }: CheckResult, error?: KilnError): string {
  const failure =
    error === undefined
      ? {}
      : { error: { code: error.code, message: error.message, where: error.where, remedy: error.remedy } };
  const warnings = findings.map(({ excerpt: _excerpt, ...finding }) => finding);
  return `${JSON.stringify({ dockerfile: file, warnings, ...failure }, undefined, 2)}\n`;
}
