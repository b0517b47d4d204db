import { existsSync } from 'node:fs';
import { basename, isAbsolute, join, resolve } from 'node:path';
import { Command } from 'commander';
import {
  addFlags,
  booleanFlag,
  defaultCacheDirectory,
  listFlag,
  logFlag,
  type LogFlags,
  parseCommandLine,
  parsePairs,
  parseSeconds,
  type PushFlags,
  pushFlags,
  registryFlags,
  type RegistryFlags,
  registryOptions,
  valueFlag,
} from '../src/cli/index.ts';
import { inferCacheRepository } from '../src/layercache/index.ts';
import {
  formatPlatform,
  hostPlatform,
  parsePlatform,
  parseReference,
  platformMatches,
  type Reference,
} from '../src/oci/index.ts';
import { RegistryClient } from '../src/registry/index.ts';
import { formatSeconds, Progress, reportTo, UsageError, version } from '../src/support/index.ts';
import { build } from './build.ts';
import type { BuildOptions } from './options.ts';

interface Flags extends RegistryFlags, PushFlags, LogFlags {
  context: string;
  contextSubPath?: string;
  dockerfile: string;
  destination: string[];
  target?: string;
  buildArg: string[];
  label: string[];
  platform?: string;
  noPush?: boolean;
  tarPath?: string;
  ociLayoutPath?: string;
  digestFile?: string;
  cache?: boolean;
  cacheRepo?: string;
  cacheTtl: number;
  cacheRunLayers: boolean;
  cacheCopyLayers: boolean;
  noPushCache?: boolean;
  cacheDir?: string;
  waitForWarmer?: number;
  scratchDir?: string;
  compression: 'gzip' | 'zstd';
}

const examples = `
Examples:
  executor --context .                                   build into an OCI layout, cache on the volume
  executor --context . --destination registry.example/app:1 --cache
  executor --context . --destination registry.example/app:1 --cache-repo registry.example/cache --cache
  executor --context . --no-push --tar-path app.tar      for docker load or podman load

Exit codes: 0 done, 1 build failed, 2 usage, 3 environment, 4 registry, 130 and 143 for signals.`;

/** Runs the executor's command line. @returns the exit code. */
export function runExecutor(argv: readonly string[], signal: AbortSignal): Promise<number> {
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
  command.action(async (flags: Flags) => buildCommand(flags, signal));
  return parseCommandLine(program, argv);
}

function addBuildFlags(command: Command): void {
  addFlags(command, [
    valueFlag('-c, --context <directory>', 'the build context').default('.'),
    valueFlag('--context-sub-path <path>', 'build from this directory of the context'),
    valueFlag('-f, --dockerfile <path>', 'the Dockerfile, in the context or anywhere').default('Dockerfile'),
    listFlag('-d, --destination <reference>', 'where to push the image'),
    valueFlag('--target <stage>', 'build this stage and what it needs'),
    listFlag('--build-arg <name=value>', 'value of an ARG'),
    listFlag('--label <name=value>', 'label of the image'),
    valueFlag('--platform <os/arch>', "the image's platform; this machine's only"),
    booleanFlag('--no-push', 'do not push to the destinations'),
    valueFlag('--tar-path <file>', 'also write the image as a tar file for docker load'),
    valueFlag('--oci-layout-path <directory>', 'also write the image to an OCI image layout'),
    valueFlag('--digest-file <file>', 'write the digest of the image to a file'),
    booleanFlag('--cache', 'reuse and store the layers of steps'),
    valueFlag(
      '--cache-repo <repository>',
      'where layers are kept: a repository, or oci:DIR (default: <destination>/cache)',
    ),
    valueFlag('--cache-ttl <duration>', 'layers older than this are made again')
      .argParser(parseSeconds)
      .default(336 * 3600, '336h'),
    booleanFlag('--cache-run-layers', 'cache RUN steps', true),
    booleanFlag('--cache-copy-layers', 'cache COPY and ADD steps', true),
    booleanFlag('--no-push-cache', 'read the layer cache but store nothing'),
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
    valueFlag('--compression <format>', 'compression of new layers')
      .choices(['gzip', 'zstd'])
      .default('gzip'),
    ...registryFlags(),
    ...pushFlags(),
    logFlag(),
  ]);
}

async function buildCommand(flags: Flags, signal: AbortSignal): Promise<void> {
  const started = performance.now();
  const options = buildOptions(flags);
  const progress = new Progress();
  using _reporter = reportTo(progress, flags.logFormat);
  await using client = new RegistryClient(registryOptions(flags, progress));
  const onFirstRun = (): void => {
    // Since the process began, loading included.
    const milliseconds = Math.round(performance.now());
    progress.emit({
      type: 'log',
      level: 'debug',
      message: `first RUN started ${milliseconds} ms after the executor`,
    });
  };
  const { image } = await build(options, client, progress, signal, { onFirstRun });
  const seconds = (performance.now() - started) / 1000;
  progress.emit({
    type: 'result',
    message: `built ${image.descriptor.digest} in ${formatSeconds(seconds)}`,
    fields: { digest: image.descriptor.digest, seconds },
  });
}

/** Checks the flags against each other and fills in what follows from them. @throws UsageError. */
function buildOptions(flags: Flags): BuildOptions {
  const platform = flags.platform === undefined ? hostPlatform() : parsePlatform(flags.platform);
  if (!platformMatches(platform, hostPlatform()))
    throw new UsageError(
      `--platform ${formatPlatform(platform)} is not the platform of this machine (${formatPlatform(hostPlatform())})`,
      { code: 'E_PLATFORM_UNSUPPORTED', remedy: 'Build on a machine of that platform.' },
    );
  const destinations = flags.destination.map(parseReference);
  const push = flags.noPush !== true;
  const cacheDirectory = resolve(flags.cacheDir ?? defaultCacheDirectory(existsSync));
  const directory = flags.context.replace(/^dir:\/\//, '');
  const context = flags.contextSubPath === undefined ? flags.context : join(directory, flags.contextSubPath);
  const plain = destinations.length === 0 && flags.tarPath === undefined && flags.ociLayoutPath === undefined;
  // With nothing said about where to, the image goes to a layout beside the cache.
  const ownLayout =
    plain && push ? join(cacheDirectory, 'images', basename(resolve(directory)).toLowerCase()) : undefined;
  const location = cacheLocation(flags, destinations, cacheDirectory);
  const ociLayoutPath = flags.ociLayoutPath ?? ownLayout;
  const dockerfile = dockerfilePath(flags.dockerfile, context);
  return {
    context,
    dockerfile,
    subject: subjectOf(destinations, directory, dockerfile),
    target: flags.target,
    buildArguments: parsePairs(flags.buildArg, 'build-arg'),
    labels: parsePairs(flags.label, 'label'),
    platform,
    cacheDirectory,
    waitForWarmerSeconds: flags.waitForWarmer,
    scratchDirectory: flags.scratchDir === undefined ? undefined : resolve(flags.scratchDir),
    compression: flags.compression,
    outputs: { destinations, push, tarPath: flags.tarPath, ociLayoutPath, digestFile: flags.digestFile },
    cache: {
      location,
      onVolume: location === embeddedCache(cacheDirectory) && flags.cacheRepo === undefined,
      maxAgeSeconds: flags.cacheTtl,
      push: flags.noPushCache !== true,
      runLayers: flags.cacheRunLayers,
      copyLayers: flags.cacheCopyLayers,
    },
  };
}

/** No tag: versions of an image are one thing. A path of the machine is nobody's business, so of that only the last part. */
function subjectOf(destinations: readonly Reference[], context: string, dockerfile: string): string {
  const [image] = destinations;
  const name = image === undefined ? basename(resolve(context)) : `${image.registry}/${image.repository}`;
  return `${name} ${basename(dockerfile)}`;
}

/** As kaniko looks for it: as given, or else inside the context. */
function dockerfilePath(path: string, context: string): string {
  const inside = join(context, path);
  if (isAbsolute(path) || existsSync(inside) || !existsSync(path)) return isAbsolute(path) ? path : inside;
  return resolve(path);
}

function embeddedCache(cacheDirectory: string): string {
  return `oci:${join(cacheDirectory, 'layer-cache')}`;
}

function cacheLocation(
  flags: Flags,
  destinations: readonly ReturnType<typeof parseReference>[],
  cacheDirectory: string,
): string | undefined {
  const [destination] = destinations;
  if (flags.cache === false) return undefined;
  if (flags.cacheRepo !== undefined) {
    if (flags.cache === undefined)
      throw new UsageError('--cache-repo is given without --cache', { remedy: 'Add --cache.' });
    return flags.cacheRepo;
  }
  if (destination === undefined) return embeddedCache(cacheDirectory);
  return flags.cache === true ? inferCacheRepository(destination) : undefined;
}
