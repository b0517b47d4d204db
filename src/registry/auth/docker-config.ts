import { EnvironmentError, messageOf, systemErrorCode, type TextFiles } from '../../support/index.ts';
import { askHelper, helperError } from './credential-helper.ts';
import type { Credential, CredentialSource, CredentialTarget, Note } from './credential.ts';

export interface AuthEntry {
  readonly auth?: string;
  readonly username?: string;
  readonly password?: string;
  readonly identitytoken?: string;
  readonly registrytoken?: string;
}

export interface DockerConfig {
  readonly auths?: Readonly<Record<string, AuthEntry>>;
  readonly credHelpers?: Readonly<Record<string, string>>;
  readonly credsStore?: string;
}

/** What Docker Hub is called in such documents. */
export const dockerHubKey = 'https://index.docker.io/v1/';

/**
 * Credentials from a document in the form of Docker's `config.json`: `credHelpers`, `auths` (the longest path that matches
 * wins), `credsStore`. It is read for every question, so that what a login or a rotation writes is used.
 */
export class DockerConfigSource implements CredentialSource {
  readonly #name: string;
  readonly #read: () => Promise<string | undefined>;
  readonly #builtIn: ReadonlyMap<string, CredentialSource>;

  /**
   * @param name what messages call the document.
   * @param read gives its text, or undefined when there is none.
   * @param builtIn what stands in for helpers that are not installed, by the helper's name.
   */
  constructor(
    name: string,
    read: () => Promise<string | undefined>,
    builtIn: ReadonlyMap<string, CredentialSource> = new Map(),
  ) {
    this.#name = name;
    this.#read = read;
    this.#builtIn = builtIn;
  }

  /** The document in a file, which may be missing. */
  static file(
    path: string,
    files: TextFiles,
    builtIn?: ReadonlyMap<string, CredentialSource>,
  ): DockerConfigSource {
    return new DockerConfigSource(path, () => readIfThere(path, files), builtIn);
  }

  /**
   * @throws EnvironmentError `E_DOCKER_CONFIG` when the document cannot be read as JSON, `E_CREDENTIAL_HELPER` when a
   *   helper fails.
   */
  async find(target: CredentialTarget, signal?: AbortSignal, note?: Note): Promise<Credential | undefined> {
    const { registry } = target;
    const config = parseDockerConfig(await this.#read(), this.#name);
    const helper =
      config.credHelpers?.[registry] ??
      (registry === 'docker.io' ? config.credHelpers?.[dockerHubKey] : undefined);
    if (helper !== undefined) return this.#askHelper(helper, target, signal, note);
    const entry = findAuth(config.auths ?? {}, target);
    const found = entry === undefined ? undefined : decodeAuth(entry, this.#name);
    if (found !== undefined) return found;
    return config.credsStore === undefined || config.credsStore === ''
      ? undefined
      : this.#askHelper(config.credsStore, target, signal, note);
  }

  async #askHelper(
    name: string,
    target: CredentialTarget,
    signal: AbortSignal | undefined,
    note: Note | undefined,
  ): Promise<Credential | undefined> {
    const host = target.registry === 'docker.io' ? dockerHubKey : target.registry;
    const answer = await askHelper(name, host, signal);
    if (answer !== 'not-installed') return answer;
    const standIn = this.#builtIn.get(name);
    if (standIn === undefined) throw helperError(name, 'it is not installed');
    return standIn.find(target, signal, note);
  }
}

/** @throws EnvironmentError `E_DOCKER_CONFIG`. */
export async function readIfThere(path: string, files: TextFiles): Promise<string | undefined> {
  try {
    return await files.read(path);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'EISDIR'].includes(systemErrorCode(error) ?? '')) return undefined;
    throw new EnvironmentError(`cannot read ${path}: ${messageOf(error)}`, {
      code: 'E_DOCKER_CONFIG',
      cause: error,
    });
  }
}

/** @throws EnvironmentError `E_DOCKER_CONFIG`. */
export function parseDockerConfig(text: string | undefined, name: string): DockerConfig {
  if (text === undefined || text.trim() === '') return {};
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    // The parser's own message could quote a password.
    throw new EnvironmentError(`${name} is not JSON`, {
      code: 'E_DOCKER_CONFIG',
      remedy: 'Mend it, or log in again.',
    });
  }
}

function findAuth(
  auths: Readonly<Record<string, AuthEntry>>,
  { registry, repository }: CredentialTarget,
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
export function normalizeKey(name: string): string {
  const bare = name
    .replace(/^https?:\/\//, '')
    .replace(/\/v[12]\/?$/, '')
    .replace(/\/+$/, '');
  return bare.replace(/^(?:index\.docker\.io|registry-1\.docker\.io)(?=\/|$)/, 'docker.io');
}

function decodeAuth(entry: AuthEntry, source: string): Credential | undefined {
  if (entry.registrytoken !== undefined && entry.registrytoken !== '')
    return { kind: 'bearer', token: entry.registrytoken, source };
  if (entry.identitytoken !== undefined && entry.identitytoken !== '')
    return { kind: 'identity', token: entry.identitytoken, source };
  const { username, password } = entry;
  if (username !== undefined && username !== '' && password !== undefined)
    return { kind: 'basic', username, password, source };
  const decoded = Buffer.from(entry.auth ?? '', 'base64')
    .toString('utf8')
    .replace(/\0+$/, '');
  const colon = decoded.indexOf(':');
  return colon <= 0
    ? undefined
    : {
        kind: 'basic',
        username: decoded.slice(0, colon),
        password: decoded.slice(colon + 1),
        source,
      };
}
