import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { Command } from 'commander';
import {
  addConfiguration,
  addFlags,
  addKanikoFlags,
  booleanFlag,
  defaultCacheDirectory,
  kanikoNotes,
  listFlag,
  logFlags,
  type LogFlags,
  parseCommandLine,
  parsePairs,
  parseSeconds,
  type PushFlags,
  pushFlags,
  registryFlags,
  type RegistryFlags,
  registryOptions,
  respell,
  valueFlag,
} from '../src/cli/index.ts';
import { parseReference } from '../src/oci/index.ts';
import { RegistryClient } from '../src/registry/index.ts';
import { formatSeconds, Progress, reportTo, TextFiles, version } from '../src/support/index.ts';
import { attestFlag, parseAttestations } from './attest-flags.ts';
import { build } from './build.ts';
import { cacheFlags, type CacheFlags, cacheOptions } from './cache-flags.ts';
import { addCheckCommand, checkErrorFlag } from './check-command.ts';
import { explainCommand } from './explain/command.ts';
import { exportFlags, type ExportFlags, exportOptions } from './export-flags.ts';
import { type IsolationKind, isolationKinds } from './isolation/index.ts';
import { executorFlags } from './kaniko-flags.ts';
import { indexCommand } from './join/command.ts';
import { mountFlags, type MountFlags, mountSources } from './mounts/sources.ts';
import type { BuildOptions } from './options.ts';
import { pushCommand } from './push-command.ts';
import { loginCommand, logoutCommand } from './login-command.ts';
import { baseNameOf, sourceFlags, type SourceFlags, sourceOptions } from './source-flags.ts';
import { traceBuild } from './tracing/index.ts';

interface Flags extends SourceFlags, MountFlags, ExportFlags, CacheFlags, RegistryFlags, PushFlags, LogFlags {
  label: string[];
  singleSnapshot: boolean;
  checkError: boolean;
  attest: string[];
  cacheDir?: string;
  waitForWarmer?: number;
  scratchDir?: string;
  isolation: IsolationKind;
  force: boolean;
  cleanup: boolean;
}

const examples = `
Examples:
  executor --context .                                   build into an OCI layout, cache on the volume
  executor --context . --destination registry.example/app:1 --cache
  executor --context . --destination registry.example/app:1 --cache-repo registry.example/cache --cache
  executor --context . --no-push --tar-path app.tar      for docker load or podman load
  executor --context git://host.example/app.git#refs/heads/main --destination registry.example/app:1
  tar -c . | executor --context tar://stdin --destination registry.example/app:1
  executor --context . --destination registry.example/app:1 --platform linux/amd64,linux/arm64
  executor explain --context . --cache-repo registry.example/cache    why does it miss?
  executor index --help                                  join images for several platforms
  executor check --help                                  look for mistakes without building
  executor check --environment                           where steps run here, and why

Exit codes: 0 done, 1 build failed, 2 usage, 3 environment, 4 registry, 130 and 143 for signals.`;

/** Runs the executor's command line. @returns the exit code. */
export function runExecutor(argv: readonly string[], signal: AbortSignal): Promise<number> {
  return parseCommandLine(executorProgram(signal), respell(argv, executorFlags));
}

/** All commands of the executor, with their flags. */
export function executorProgram(signal: AbortSignal): Command {
  const program: Command = new Command('executor')
    .description('Builds a container image from a Dockerfile, without a daemon.')
    .version(version)
    .addHelpText('after', (): string => `\n${command.helpInformation()}${examples}`);
  const command = program
    .command('build', { isDefault: true })
    .description('build an image (the default command)')
    .allowExcessArguments(false)
    .addHelpText('after', examples);
  addBuildFlags(command);
  command.action(async (flags: Flags) => buildCommand(flags, kanikoNotes(command, executorFlags), signal));
  for (const add of [pushCommand, loginCommand, logoutCommand]) program.addCommand(add(signal));
  program.addCommand(explainCommand(signal));
  program.addCommand(indexCommand(signal));
  addCheckCommand(program, signal);
  addConfiguration(program);
  return program;
}

function addBuildFlags(command: Command): void {
  addFlags(command, [
    ...sourceFlags(),
    ...mountFlags(),
    ...exportFlags(),
    listFlag('--label <name=value>', 'label of the image'),
    booleanFlag('--single-snapshot', 'make one layer of all steps of a stage; no layer cache is used', false),
    checkErrorFlag(),
    attestFlag(),
    ...cacheFlags(),
    valueFlag(
      '--cache-dir <directory>',
      "the cache volume (default: /cache when it is there, otherwise the user's cache directory)",
    ),
    valueFlag(
      '--wait-for-warmer <duration>',
      "wait so long for the node's warmer to have its images ready, then go on",
    ).argParser(parseSeconds),
    valueFlag(
      '--scratch-dir <directory>',
      'where the build keeps its own files (default: on the cache volume)',
    ),
    valueFlag('--isolation <kind>', 'where steps run; auto: on an overlay if that works, otherwise in place')
      .choices(isolationKinds)
      .default('auto'),
    booleanFlag(
      '--force',
      'build in place also outside of a container of Kiln: everything there is removed',
      false,
    ),
    booleanFlag(
      '--cleanup',
      'empty the root after a build in place also when the container ends anyway',
      false,
    ),
    ...registryFlags(),
    ...pushFlags(),
    ...logFlags(),
  ]);
  addKanikoFlags(command, executorFlags);
}

async function buildCommand(flags: Flags, notes: readonly string[], signal: AbortSignal): Promise<void> {
  const started = performance.now();
  const options = buildOptions(flags);
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  for (const note of notes) progress.info(note);
  const files = new TextFiles();
  await using client = new RegistryClient({ ...registryOptions(flags, progress), files });
  const onFirstRun = (): void => {
    // Since the process began, loading included.
    const milliseconds = Math.round(performance.now());
    progress.emit({
      type: 'log',
      level: 'debug',
      message: `first RUN started ${milliseconds} ms after the executor`,
    });
  };
  await using trace = await traceBuild(process.env, options.subject, progress);
  const { output } = await build(options, client, progress, signal, { onFirstRun, files }).catch(
    (error: unknown) => {
      trace?.failed(error);
      throw error;
    },
  );
  const seconds = (performance.now() - started) / 1000;
  progress.emit({
    type: 'result',
    message: `built ${output.descriptor.digest} in ${formatSeconds(seconds)}`,
    fields: { digest: output.descriptor.digest, seconds },
  });
}

/** Checks the flags against each other and fills in what follows from them. @throws UsageError. */
function buildOptions(flags: Flags): BuildOptions {
  const destinations = flags.destination.map(parseReference);
  const source = sourceOptions(flags, destinations);
  const cacheDirectory = resolve(flags.cacheDir ?? defaultCacheDirectory(existsSync));
  const attest = parseAttestations(flags.attest);
  const attests = attest.sbom || attest.provenance !== undefined;
  const outputs = exportOptions(flags, destinations, {
    ...{ cacheDirectory, attests, name: baseNameOf(source.context) },
    platforms: source.platforms.length,
  });
  return {
    ...source,
    labels: parsePairs(flags.label, 'label'),
    singleSnapshot: flags.singleSnapshot,
    mountSources: mountSources(flags, process.env),
    checkError: flags.checkError,
    cacheDirectory,
    waitForWarmerSeconds: flags.waitForWarmer,
    scratchDirectory: flags.scratchDir === undefined ? undefined : resolve(flags.scratchDir),
    isolation: { kind: flags.isolation, force: flags.force, cleanup: flags.cleanup },
    outputs,
    attest,
    // The layers of the cache are of one step each.
    cache: cacheOptions(
      flags.singleSnapshot ? { ...flags, cache: false } : flags,
      destinations,
      cacheDirectory,
    ),
  };
}
