import { text } from 'node:stream/consumers';
import { Command } from 'commander';
import {
  addFlags,
  booleanFlag,
  logFlags,
  type LogFlags,
  pushFlags,
  type PushFlags,
  registryFlags,
  type RegistryFlags,
  registryOptions,
  valueFlag,
} from '../src/cli/index.ts';
import { parseReference } from '../src/oci/index.ts';
import { LoginFile, RegistryClient } from '../src/registry/index.ts';
import { Progress, reportTo, UsageError } from '../src/support/index.ts';

interface LoginFlags extends RegistryFlags, PushFlags, LogFlags {
  readonly username?: string;
  readonly password?: string;
  readonly passwordStdin: boolean;
}

const examples = `
Examples:
  executor login registry.example -u ci --password-stdin < password
  executor login registry.example/team -u robot --password-stdin < token    for the repositories below it alone
  executor logout registry.example

The login is tried first, and then kept where Docker keeps it: in $DOCKER_CONFIG/config.json, otherwise in the file that
REGISTRY_AUTH_FILE names or in ~/.docker/config.json; or by the credential helper that this file names for the registry.

Exit codes: 0 done, 2 usage, 3 environment, 4 the registry did not take it.`;

/** `executor login`: keeps a login to a registry, once the registry took it. */
export function loginCommand(signal: AbortSignal): Command {
  const command = new Command('login')
    .description('log in to a registry')
    .argument('[registry]', 'host, or a path below it', 'docker.io')
    .allowExcessArguments(false)
    .addHelpText('after', examples)
    .action((registry: string, flags: LoginFlags) => {
      const seen = command.getOptionValueSource('password') === 'cli';
      return login(parsePlace(registry), flags, seen, signal);
    });
  return addFlags(command, [
    valueFlag('-u, --username <name>', 'who logs in'),
    valueFlag('-p, --password <password>', 'password or token; others can see it in the list of processes'),
    booleanFlag('--password-stdin', 'read the password from standard input', false),
    ...registryFlags(),
    ...pushFlags(),
    ...logFlags(),
  ]);
}

/** `executor logout`: forgets a login. */
export function logoutCommand(signal: AbortSignal): Command {
  const command = new Command('logout')
    .description('forget a login to a registry')
    .argument('[registry]', 'host, or a path below it', 'docker.io')
    .allowExcessArguments(false)
    .action(async (registry: string, flags: LogFlags) => {
      const place = parsePlace(registry);
      const progress = new Progress();
      using _reporter = reportTo(progress, flags);
      const file = new LoginFile(process.env);
      const known = await file.erase(place, signal);
      if (known) tell(progress, `logged out of ${place}`, place);
      else progress.warn(`${file.path} has no login to ${place}`);
    });
  return addFlags(command, logFlags());
}

async function login(place: string, flags: LoginFlags, seen: boolean, signal: AbortSignal): Promise<void> {
  const { username } = flags;
  if (username === undefined || username === '' || username.includes(':'))
    throw new UsageError('there is no user name, or it has a colon', { remedy: 'Give it with --username.' });
  const password = await readPassword(flags);
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  if (seen)
    progress.warn(
      '--password is seen by all who can list processes, and kept by shells; use --password-stdin',
    );
  await using client = new RegistryClient(registryOptions(flags, progress));
  const [registry = place] = place.split('/', 1);
  if (!(await client.checkLogin(registry, { username, password }, signal)))
    progress.warn(`${registry} asks for no login, so whether this one is right is not known`);
  const kept = await new LoginFile(process.env).store(place, { username, password }, signal);
  tell(progress, `logged in to ${place} as ${username}; kept in ${kept}`, place);
}

async function readPassword({ password, passwordStdin }: LoginFlags): Promise<string> {
  if (password !== undefined && passwordStdin)
    throw new UsageError('there are both --password and --password-stdin', { remedy: 'Leave out one.' });
  const given = passwordStdin ? (await text(process.stdin)).replace(/\r?\n$/, '') : password;
  if (given === undefined || given === '')
    throw new UsageError('there is no password', { remedy: 'Pipe it in: --password-stdin < FILE.' });
  return given;
}

/** @throws UsageError when it is no registry. */
function parsePlace(written: string): string {
  const bare = written.replace(/^https?:\/\//, '').replace(/\/(?:v[12]\/?)?$/, '');
  const [host = '', ...path] = bare.split('/');
  // The rules are those of references; a port keeps a name without a dot from being taken for a repository.
  parseReference(`${/[.:]/.test(host) ? host : `${host}:443`}/${path.length === 0 ? 'any' : path.join('/')}`);
  const name = /^(?:index|registry-1)\.docker\.io$/.test(host) ? 'docker.io' : host;
  return [name, ...path].join('/');
}

function tell(progress: Progress, message: string, registry: string): void {
  progress.emit({ type: 'result', message, fields: { registry } });
}
