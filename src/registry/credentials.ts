import { spawn } from 'node:child_process';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { EnvironmentError, messageOf, systemErrorCode, TextFiles } from '../support/index.ts';

/** What a registry or its token server is told about who asks. */
export type Credential =
  | { readonly kind: 'basic'; readonly username: string; readonly password: string }
  | { readonly kind: 'identity'; readonly token: string };

interface AuthEntry {
  readonly auth?: string;
  readonly username?: string;
  readonly password?: string;
  readonly identitytoken?: string;
}

interface DockerConfig {
  readonly auths?: Readonly<Record<string, AuthEntry>>;
  readonly credHelpers?: Readonly<Record<string, string>>;
  readonly credsStore?: string;
}

const dockerHubKey = 'https://index.docker.io/v1/';

/**
 * Credentials from Docker's `config.json`: `auths` (the longest path that matches wins), `credHelpers`, `credsStore`.
 * The file is read for every question, so that what a login or a rotation writes is used.
 */
export class CredentialStore {
  readonly #file: string;
  readonly #files: TextFiles;

  constructor(directory?: string, files = new TextFiles()) {
    this.#files = files;
    this.#file = join(directory ?? process.env.DOCKER_CONFIG ?? join(homedir(), '.docker'), 'config.json');
  }

  /**
   * The credential for a repository, or undefined for none.
   *
   * @throws EnvironmentError `E_DOCKER_CONFIG` when the file cannot be read as JSON, `E_CREDENTIAL_HELPER` when a helper fails.
   */
  async find(registry: string, repository: string): Promise<Credential | undefined> {
    const config = await this.#read();
    if (config === undefined) return undefined;
    const host = registry === 'docker.io' ? dockerHubKey : registry;
    const helper =
      config.credHelpers?.[registry] ??
      (registry === 'docker.io' ? config.credHelpers?.[dockerHubKey] : undefined);
    if (helper !== undefined) return askHelper(helper, host);
    const entry = findAuth(config.auths ?? {}, registry, repository);
    const found = entry === undefined ? undefined : decodeAuth(entry);
    if (found !== undefined) return found;
    return config.credsStore === undefined || config.credsStore === ''
      ? undefined
      : askHelper(config.credsStore, host);
  }

  async #read(): Promise<DockerConfig | undefined> {
    let text: string;
    try {
      text = await this.#files.read(this.#file);
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT' || systemErrorCode(error) === 'ENOTDIR') return undefined;
      throw new EnvironmentError(`cannot read ${this.#file}: ${messageOf(error)}`, {
        code: 'E_DOCKER_CONFIG',
        cause: error,
      });
    }
    try {
      const value: unknown = JSON.parse(text);
      return typeof value === 'object' && value !== null ? value : undefined;
    } catch {
      // The parser's own message could quote a password.
      throw new EnvironmentError(`${this.#file} is not JSON`, {
        code: 'E_DOCKER_CONFIG',
        remedy: 'Mend it, or log in again.',
      });
    }
  }
}

function findAuth(
  auths: Readonly<Record<string, AuthEntry>>,
  registry: string,
  repository: string,
): AuthEntry | undefined {
  const byName = new Map(Object.entries(auths).map(([name, entry]) => [normalizeKey(name), entry] as const));
  const parts = [registry, ...repository.split('/')];
  for (let length = parts.length; length > 0; length--) {
    const entry = byName.get(parts.slice(0, length).join('/'));
    if (entry !== undefined) return entry;
  }
  return undefined;
}

/** Keys may be hosts, hosts with a path, or URLs of the old API. */
function normalizeKey(name: string): string {
  const bare = name
    .replace(/^https?:\/\//, '')
    .replace(/\/v[12]\/?$/, '')
    .replace(/\/+$/, '');
  return bare === 'index.docker.io' || bare === 'registry-1.docker.io' ? 'docker.io' : bare;
}

function decodeAuth(entry: AuthEntry): Credential | undefined {
  if (entry.identitytoken !== undefined && entry.identitytoken !== '')
    return { kind: 'identity', token: entry.identitytoken };
  const { username, password } = entry;
  if (username !== undefined && username !== '' && password !== undefined)
    return { kind: 'basic', username, password };
  const decoded = Buffer.from(entry.auth ?? '', 'base64')
    .toString('utf8')
    .replace(/\0+$/, '');
  const colon = decoded.indexOf(':');
  return colon <= 0
    ? undefined
    : { kind: 'basic', username: decoded.slice(0, colon), password: decoded.slice(colon + 1) };
}

/** Runs `docker-credential-<name> get`, the protocol of Docker's credential helpers. */
async function askHelper(name: string, host: string): Promise<Credential | undefined> {
  const program = `docker-credential-${name}`;
  const failed = (why: string, cause?: unknown): EnvironmentError =>
    new EnvironmentError(`the credential helper ${program} failed: ${why}`, {
      code: 'E_CREDENTIAL_HELPER',
      cause,
      remedy: `Install it, or take ${name} out of Docker's config.json.`,
    });
  const { code, output } = await new Promise<{ code: number | null; output: string }>((resolve, reject) => {
    const child = spawn(program, ['get'], { stdio: ['pipe', 'pipe', 'ignore'] });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (output += chunk));
    child.once('error', (error) => reject(failed(messageOf(error), error)));
    child.once('close', (status) => resolve({ code: status, output }));
    child.stdin.on('error', () => child.kill());
    child.stdin.end(host);
  });
  if (code !== 0) {
    if (output.includes('credentials not found')) return undefined;
    throw failed(`it ended with ${code ?? 'a signal'}`);
  }
  let answer: { Username?: unknown; Secret?: unknown };
  try {
    answer = JSON.parse(output) as typeof answer;
  } catch {
    // Its output may hold a secret, so it is not quoted.
    throw failed('its answer is not JSON');
  }
  if (typeof answer.Secret !== 'string' || answer.Secret === '') return undefined;
  if (answer.Username === '<token>') return { kind: 'identity', token: answer.Secret };
  return { kind: 'basic', username: String(answer.Username), password: answer.Secret };
}
