import { once } from 'node:events';
import { resolve } from 'node:path';
import { Command, type Option } from 'commander';
import { addFlags, booleanFlag, logFormatFlag, type LogFlags, valueFlag } from '../../src/cli/index.ts';
import { Progress, UsageError } from '../../src/support/index.ts';
import { Volume } from '../../src/volume/index.ts';
import { cacheDirFlag, volumeDirectory, type VolumeFlags } from '../volume-flags.ts';
import type { Configuration } from './configuration.ts';
import { formatListenAddress } from './listen-address.ts';

interface DaemonFlags extends VolumeFlags, Pick<LogFlags, 'logFormat'> {
  readonly config?: string;
  readonly check: boolean;
  readonly listen?: string;
  readonly socket?: boolean;
}

const examples = `
Examples:
  warmer daemon --config /etc/kiln/warmer.yaml --cache-dir /cache
  warmer daemon --config warmer.yaml --check
  warmer daemon --config warmer.yaml --listen 127.0.0.1:9456 --log-format json

The configuration is described in docs/warmer-daemon.md. It is read again when it changes, and on SIGHUP.

Exit codes: 0 ended by SIGTERM or SIGINT, or --check found nothing wrong; 2 the configuration or command line is wrong;
3 the volume cannot be used, or another daemon uses it.`;

/** `warmer daemon`. @param onExit is told the exit code. */
export function daemonCommand(signal: AbortSignal, onExit: (code: number) => void): Command {
  const command = new Command('daemon')
    .description('keep the volume of this node warm, as its configuration says')
    .allowExcessArguments(false)
    .addHelpText('after', examples)
    .action(async (flags: DaemonFlags) => onExit(await runDaemon(flags, signal)));
  return addFlags(command, daemonFlags());
}

function daemonFlags(): Option[] {
  return [
    valueFlag('--config <file>', 'the configuration, a warmer.yaml'),
    cacheDirFlag(),
    booleanFlag('--check', 'check the configuration and its Dockerfiles, and end', false),
    valueFlag(
      '--listen <address>',
      'where to serve metrics and the status page, in place of listen.http; or "off"',
    ),
    booleanFlag('--socket', 'serve the builds of this node, in place of listen.socket'),
    logFormatFlag(),
  ];
}

async function runDaemon(flags: DaemonFlags, signal: AbortSignal): Promise<number> {
  if (flags.config === undefined)
    throw new UsageError('there is no configuration', { remedy: 'Name one with --config warmer.yaml.' });
  const { parseConfiguration, readConfigurationText } = await import('./configuration.ts');
  const override = await overrides(flags);
  const path = resolve(flags.config);
  const configuration = override(parseConfiguration(path, await readConfigurationText(path)));
  if (flags.check) return check(configuration);
  return serve(configuration, override, flags, signal);
}

/** What the command line says in place of the file, also after the file has changed. */
async function overrides(flags: DaemonFlags): Promise<(configuration: Configuration) => Configuration> {
  const { parseListenAddress } = await import('./listen-address.ts');
  const { listen, socket } = flags;
  const http = listen === undefined || listen === 'off' ? undefined : parseListenAddress(listen);
  return (configuration) => ({
    ...configuration,
    listen: {
      http: listen === undefined ? configuration.listen.http : http,
      socket: socket ?? configuration.listen.socket,
    },
  });
}

async function check(configuration: Configuration): Promise<number> {
  const { dockerfileWishes, configuredWishes, mergeWishes } = await import('./wishes.ts');
  const named = await Promise.all(configuration.dockerfiles.map(dockerfileWishes));
  const problems = named.flatMap((dockerfile) => ('problem' in dockerfile ? [dockerfile.problem] : []));
  if (problems.length > 0)
    throw new UsageError(`not all Dockerfiles can be used: ${problems.join('; ')}`, {
      code: 'E_CONFIGURATION',
      where: configuration.path,
    });
  const lists = named.map((dockerfile) => ('wishes' in dockerfile ? dockerfile.wishes : []));
  const { size } = mergeWishes(configuredWishes(configuration), ...lists);
  process.stdout.write(
    `${configuration.path} is valid: ${size} images, ${configuration.cacheRepositories.length} cache repositories\n`,
  );
  return 0;
}

async function serve(
  configuration: Configuration,
  override: (configuration: Configuration) => Configuration,
  flags: DaemonFlags,
  signal: AbortSignal,
): Promise<number> {
  const [
    { NodeWarming },
    { Reloader },
    { DaemonLog },
    { readState },
    { systemClock: clock },
    { startServers },
  ] = await Promise.all([
    import('./warming.ts'),
    import('./reload.ts'),
    import('./log.ts'),
    import('./state-file.ts'),
    import('./clock.ts'),
    import('./servers.ts'),
  ]);
  const progress = new Progress();
  using log = new DaemonLog((line) => void process.stderr.write(line), flags.logFormat);
  log.followProgress(progress);
  await using volume = await Volume.open(volumeDirectory(flags), {
    access: 'read-write',
    progress,
  });
  const state = await readState(volume.directory, progress);
  const parts = { volume, configuration, state, clock, random: Math.random, progress };
  await using warming = await NodeWarming.start(parts, (event) => log.event(event));
  const { socket, http } = configuration.listen;
  await using servers = await startServers({
    ...{ warming, directory: volume.directory, socket, progress },
    listen: http === undefined ? [] : [http],
  });
  await using _reloader = new Reloader({ warming, clock, progress, override });
  const places = [servers.socket ?? [], servers.listening.map(formatListenAddress)].flat();
  progress.info(
    `keeping ${volume.directory} warm as ${configuration.path} says; serving at ${places.join(' and ') || 'no address'}`,
  );
  if (!signal.aborted) await once(signal, 'abort');
  progress.info('stopping; what has arrived of running transfers is kept');
  return 0;
}
