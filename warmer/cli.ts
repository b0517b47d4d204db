import { Command, InvalidArgumentError, type Option } from 'commander';
import {
  addFlags,
  addKanikoFlags,
  booleanFlag,
  kanikoNotes,
  listFlag,
  logFlags,
  type LogFlags,
  outputFlag,
  type OutputFlags,
  parseCommandLine,
  parsePairs,
  parseSeconds,
  registryFlags,
  type RegistryFlags,
  registryOptions,
  respell,
  valueFlag,
} from '../src/cli/index.ts';
import { hostPlatform, parsePlatform, parseReference } from '../src/oci/index.ts';
import { RegistryClient } from '../src/registry/index.ts';
import {
  describeError,
  exitCodeOf,
  formatBytes,
  formatSeconds,
  Progress,
  reportTo,
  UsageError,
  version,
} from '../src/support/index.ts';
import { notWarm, Volume } from '../src/volume/index.ts';
import { housekeepingCommands } from './housekeeping.ts';
import { openForReading } from './open-volume.ts';
import { warmerFlags } from './kaniko-flags.ts';
import { collectRequests } from './requests.ts';
import { daemonCommand } from './daemon/command.ts';
import { remoteCommand } from './remote/command.ts';
import { imageDetails, imageTable, usageTable } from './tables.ts';
import { cacheDirFlag, volumeDirectory, type VolumeFlags } from './volume-flags.ts';
import { warmImages, type WarmResult } from './warm.ts';

interface OnceFlags extends VolumeFlags, RegistryFlags, LogFlags, OutputFlags {
  readonly image: readonly string[];
  readonly dockerfile: readonly string[];
  readonly buildArg: readonly string[];
  readonly platform: readonly string[];
  readonly cacheTtl: number;
  readonly concurrency: number;
  readonly downloadOnly: boolean;
}

type ListFlags = VolumeFlags & OutputFlags & LogFlags;

const partlyDone = 3;

const examples = `
Examples:
  warmer --cache-dir /cache --image debian:bookworm --image node:24
  warmer --cache-dir /cache --dockerfile Dockerfile --build-arg VERSION=1.2
  warmer ls --cache-dir /cache -o json
  warmer inspect debian:bookworm
  warmer daemon --config warmer.yaml --cache-dir /cache
  warmer prune --unused-for 30d --dry-run
  warmer remote ls --cache-repo registry.example/team/cache

Exit codes: 0 all done, 1 failed, 2 usage, 3 some images are warm and others failed, or the environment
is at fault, 4 registry, 130 and 143 for signals.`;

/** Runs the warmer's command line. @returns the exit code. */
export async function runWarmer(argv: readonly string[], signal: AbortSignal): Promise<number> {
  let exitCode = 0;
  const program = warmerProgram(signal, (code) => {
    exitCode = code;
  });
  await parseCommandLine(program, respell(argv, warmerFlags));
  return exitCode;
}

/** All commands of the warmer, with their flags. @param onExitCode told when one ends with another code than 0. */
export function warmerProgram(signal: AbortSignal, onExitCode: (code: number) => void): Command {
  const program: Command = new Command('warmer')
    .description('Keeps base images ready on a cache volume that builds mount.')
    .version(version)
    .addHelpText('after', (): string => `\n${once.helpInformation()}${examples}`);
  const once = program
    .command('once', { isDefault: true })
    .description('bring images onto the volume and end (the default command)')
    .allowExcessArguments(false)
    .addHelpText('after', examples)
    .action(async (flags: OnceFlags) => {
      onExitCode(await warmOnce(flags, kanikoNotes(once, warmerFlags), signal));
    });
  addFlags(once, onceFlags());
  addKanikoFlags(once, warmerFlags);
  const list = (name: string, description: string): Command =>
    addFlags(program.command(name).description(description), [cacheDirFlag(), outputFlag(), ...logFlags()]);
  list('ls', 'list the images on the volume').action(listImages);
  list('du', 'show what the volume holds and how much space it takes').action(showUsage);
  list('inspect', 'show an image on the volume with its layers')
    .argument('<image>', 'the reference of the image')
    .action(inspectImage);
  for (const command of housekeepingCommands(signal, onExitCode)) program.addCommand(command);
  program.addCommand(remoteCommand(signal, onExitCode));
  program.addCommand(daemonCommand(signal, onExitCode));
  return program;
}

function onceFlags(): Option[] {
  return [
    cacheDirFlag(),
    listFlag('-i, --image <reference>', 'an image to warm'),
    listFlag('-d, --dockerfile <path>', 'warm every image that this Dockerfile names'),
    listFlag('--build-arg <name=value>', 'value of an ARG of the Dockerfiles'),
    listFlag('--platform <os/arch>', "a platform to warm (default: this machine's)"),
    valueFlag('--cache-ttl <duration>', 'do not ask again for tags that were confirmed less than this ago')
      .argParser(parseSeconds)
      .default(0, '0s'),
    valueFlag('--concurrency <number>', 'images at the same time').argParser(parseCount).default(4),
    booleanFlag('--download-only', 'do not unpack the layers', false),
    ...registryFlags(),
    outputFlag(),
    ...logFlags(),
  ];
}

function parseCount(text: string): number {
  if (!/^[1-9][0-9]{0,3}$/.test(text)) throw new InvalidArgumentError('It must be a number from 1 on.');
  return Number(text);
}

async function warmOnce(flags: OnceFlags, notes: readonly string[], signal: AbortSignal): Promise<number> {
  const requests = await collectRequests({
    images: flags.image,
    dockerfiles: flags.dockerfile,
    buildArguments: parsePairs(flags.buildArg, 'build-arg'),
    platforms: flags.platform.length === 0 ? [hostPlatform()] : flags.platform.map(parsePlatform),
  });
  if (requests.length === 0)
    throw new UsageError('there is nothing to warm', {
      code: 'E_NOTHING_TO_WARM',
      remedy: 'Name images with --image, or a Dockerfile with --dockerfile.',
    });
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  for (const note of notes) progress.info(note);
  await using client = new RegistryClient(registryOptions(flags, progress));
  await using volume = await Volume.open(volumeDirectory(flags), { access: 'read-write', progress });
  const results: WarmResult[] = [];
  const failures: unknown[] = [];
  const onResult = (result: WarmResult, cause?: unknown): void => {
    results.push(result);
    if (cause !== undefined) failures.push(cause);
    if (flags.output === 'table') process.stdout.write(`${describeResult(result)}\n`);
    if (cause !== undefined) process.stderr.write(`${describeError(cause)}\n`);
  };
  const { concurrency, cacheTtl: maxAgeSeconds, downloadOnly } = flags;
  await warmImages(
    volume,
    client,
    requests,
    { concurrency, maxAgeSeconds, unpack: !downloadOnly, signal },
    onResult,
  );
  if (flags.output === 'json') writeJson(results);
  if (failures.length === 0) return 0;
  return failures.length < requests.length ? partlyDone : exitCodeOf(failures[0]);
}

function describeResult({ reference, platform, outcome, bytes, seconds }: WarmResult): string {
  const detail = outcome === 'pulled' ? ` ${formatBytes(bytes)} in ${formatSeconds(seconds)}` : '';
  return `${outcome} ${reference} (${platform})${detail}`;
}

async function listImages(flags: ListFlags): Promise<void> {
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  await using volume = await openForReading(flags, progress);
  const images = await volume.images();
  if (flags.output === 'json') writeJson(images);
  else process.stdout.write(imageTable(images));
}

async function showUsage(flags: ListFlags): Promise<void> {
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  await using volume = await openForReading(flags, progress);
  const usage = await volume.usage();
  if (flags.output === 'json') writeJson(usage);
  else process.stdout.write(usageTable(usage));
}

async function inspectImage(name: string, flags: ListFlags): Promise<void> {
  const reference = parseReference(name);
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  await using volume = await openForReading(flags, progress);
  const images = await volume.inspect(reference);
  if (images.length === 0) throw notWarm(name, volume.directory);
  if (flags.output === 'json')
    writeJson(
      images.map(({ image, ...details }) => ({ ...details, manifest: image.manifest, config: image.config })),
    );
  else process.stdout.write(images.map(imageDetails).join('\n'));
}

function writeJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
}
