import { listFlag } from '../../src/cli/index.ts';
import { UsageError, type ProcessEnvironment } from '../../src/support/index.ts';

/** Where a secret is: a file, or a variable of the executor's environment. */
export type SecretSource =
  { readonly kind: 'file'; readonly path: string } | { readonly kind: 'variable'; readonly name: string };

/** What steps may be given that is in no context: secrets, and agents with keys, by their ids. */
export interface MountSources {
  readonly secrets: ReadonlyMap<string, SecretSource>;
  /** The socket of an agent, or files with keys. */
  readonly agents: ReadonlyMap<string, readonly string[]>;
}

export const noMountSources: MountSources = { secrets: new Map(), agents: new Map() };

/** What the flags of {@link mountFlags} give. */
export interface MountFlags {
  readonly secret: readonly string[];
  readonly ssh: readonly string[];
}

/** `--secret` and `--ssh`, as buildx has them. */
export function mountFlags(): ReturnType<typeof listFlag>[] {
  return [
    listFlag(
      '--secret <id=name,src=file>',
      'a secret for RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE',
    ),
    listFlag(
      '--ssh <id>',
      'an agent for RUN --mount=type=ssh: default (that of SSH_AUTH_SOCK), ID=SOCKET or ID=KEYFILE[,KEYFILE…]',
    ),
  ];
}

/** @throws UsageError `E_SECRET_FLAG`, `E_SSH_FLAG`. */
export function mountSources({ secret, ssh }: MountFlags, environment: ProcessEnvironment): MountSources {
  return {
    secrets: byId(
      secret.map((value) => parseSecret(value, environment)),
      '--secret',
      'E_SECRET_FLAG',
    ),
    agents: byId(
      ssh.map((value) => parseAgent(value, environment)),
      '--ssh',
      'E_SSH_FLAG',
    ),
  };
}

function byId<Value>(
  entries: readonly (readonly [string, Value])[],
  flag: string,
  code: `E_${string}`,
): Map<string, Value> {
  const found = new Map<string, Value>();
  for (const [id, value] of entries) {
    if (found.has(id))
      throw new UsageError(`${flag} is given twice for ${id}`, { code, remedy: 'Give each id once.' });
    found.set(id, value);
  }
  return found;
}

/** `id=NAME[,src=FILE|,env=VARIABLE][,type=file|env]`; without more it is the variable of that name, or else the file. */
function parseSecret(value: string, environment: ProcessEnvironment): [string, SecretSource] {
  const wrong = (why: string): UsageError =>
    new UsageError(`--secret ${why}`, {
      code: 'E_SECRET_FLAG',
      remedy: 'Write --secret id=NAME,src=FILE, or --secret id=NAME,env=VARIABLE.',
    });
  const fields = new Map<string, string>();
  for (const field of value.split(',')) {
    const equals = field.indexOf('=');
    const key = field.slice(0, Math.max(0, equals)).toLowerCase();
    const name = key === 'src' ? 'source' : key;
    if (!['id', 'type', 'source', 'env'].includes(name))
      throw wrong(`has a field that it does not know: ${key === '' ? 'one without a name' : key}`);
    fields.set(name, field.slice(equals + 1));
  }
  const [id = '', type, source, variable] = ['id', 'type', 'source', 'env'].map((name) => fields.get(name));
  if (id === '') throw wrong('has no id');
  if (type !== undefined && type !== 'file' && type !== 'env') throw wrong(`${id} is of no type ${type}`);
  if (variable !== undefined && source !== undefined) throw wrong(`${id} has both a file and a variable`);
  const name = variable ?? (type === 'env' ? (source ?? id) : undefined);
  if (name !== undefined) return [id, { kind: 'variable', name }];
  if (source !== undefined) return [id, { kind: 'file', path: source }];
  return [
    id,
    type === undefined && environment[id] !== undefined
      ? { kind: 'variable', name: id }
      : { kind: 'file', path: id },
  ];
}

/** `ID[=SOCKET]` or `ID=KEYFILE[,KEYFILE…]`. */
function parseAgent(value: string, environment: ProcessEnvironment): [string, readonly string[]] {
  const equals = value.indexOf('=');
  const id = equals < 0 ? value : value.slice(0, equals);
  const given =
    equals < 0
      ? []
      : value
          .slice(equals + 1)
          .split(',')
          .filter((path) => path !== '');
  if (id === '')
    throw new UsageError(`--ssh ${value} names no agent`, {
      code: 'E_SSH_FLAG',
      remedy: 'Write --ssh default, or --ssh ID=SOCKET.',
    });
  if (given.length > 0) return [id, given];
  const socket = environment.SSH_AUTH_SOCK ?? '';
  if (socket !== '') return [id, [socket]];
  throw new UsageError(`--ssh ${value}: no agent runs here, SSH_AUTH_SOCK is not set`, {
    code: 'E_SSH_FLAG',
    remedy:
      'Start one (eval $(ssh-agent); ssh-add), or name its socket or a file with a key: --ssh default=PATH.',
  });
}

/** The files among them: they are the builder's, wherever they lie. */
export function sourcePaths({ secrets, agents }: MountSources): string[] {
  const files = [...secrets.values()].flatMap((source) => (source.kind === 'file' ? [source.path] : []));
  return [...files, ...[...agents.values()].flat()];
}
