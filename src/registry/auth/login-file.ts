import { mkdir, open, realpath, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  EnvironmentError,
  messageOf,
  randomName,
  TextFiles,
  type ProcessEnvironment,
} from '../../support/index.ts';
import { tellHelper } from './credential-helper.ts';
import { dockerConfigFiles } from './default-keychain.ts';
import {
  type DockerConfig,
  dockerHubKey,
  normalizeKey,
  parseDockerConfig,
  readIfThere,
} from './docker-config.ts';

/**
 * The file that logins are kept in: the first of those in which they are looked for. What a credential helper is there for, the
 * helper keeps; everything else in the file stays as it is.
 */
export class LoginFile {
  readonly path: string;

  /** @param environment where `DOCKER_CONFIG`, `REGISTRY_AUTH_FILE` and `HOME` may be. */
  constructor(environment: ProcessEnvironment) {
    this.path = dockerConfigFiles(environment)[0] ?? '';
  }

  /**
   * Keeps a login.
   *
   * @param place a registry, or a path in it.
   * @returns where it is kept, in words.
   * @throws EnvironmentError `E_DOCKER_CONFIG`, `E_CREDENTIAL_HELPER`.
   */
  async store(
    place: string,
    login: { readonly username: string; readonly password: string },
    signal?: AbortSignal,
  ): Promise<string> {
    const config = await this.#read();
    const helper = helperOf(config, place);
    const key = keyOf(place);
    if (helper !== undefined) await tellHelper(helper, { store: login }, key, signal);
    const auth = Buffer.from(`${login.username}:${login.password}`).toString('base64');
    // As Docker has it, an entry without a login says that there is one at the helper.
    const entry = helper === undefined ? { auth } : {};
    await this.#write({ ...config, auths: { ...others(config, place), [key]: entry } });
    return helper === undefined ? this.path : `docker-credential-${helper}`;
  }

  /**
   * Forgets a login.
   *
   * @returns false when there was none.
   * @throws EnvironmentError `E_DOCKER_CONFIG`, `E_CREDENTIAL_HELPER`.
   */
  async erase(place: string, signal?: AbortSignal): Promise<boolean> {
    const config = await this.#read();
    const helper = helperOf(config, place);
    if (helper !== undefined) await tellHelper(helper, { erase: true }, keyOf(place), signal);
    const left = others(config, place);
    const known = Object.keys(left).length < Object.keys(config.auths ?? {}).length;
    if (known) await this.#write({ ...config, auths: left });
    return known;
  }

  async #read(): Promise<DockerConfig> {
    return parseDockerConfig(await readIfThere(this.path, new TextFiles()), this.path);
  }

  /** Whole or not at all, and for nobody else to read. */
  async #write(config: DockerConfig): Promise<void> {
    const directory = dirname(this.path);
    try {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const target = await realpath(this.path).catch(() => this.path);
      const temporary = join(dirname(target), randomName('.config-'));
      try {
        await using handle = await open(temporary, 'wx', 0o600);
        await handle.writeFile(`${JSON.stringify(config, undefined, 2)}\n`);
        await handle.sync();
        await rename(temporary, target);
      } finally {
        await rm(temporary, { force: true });
      }
    } catch (cause) {
      throw new EnvironmentError(`cannot write ${this.path}: ${messageOf(cause)}`, {
        code: 'E_DOCKER_CONFIG',
        cause,
        remedy: 'Set DOCKER_CONFIG to a directory that can be written.',
      });
    }
  }
}

function keyOf(place: string): string {
  return place === 'docker.io' ? dockerHubKey : place;
}

function helperOf({ credHelpers, credsStore }: DockerConfig, place: string): string | undefined {
  const [host = ''] = place.split('/', 1);
  const own = credHelpers?.[place] ?? credHelpers?.[host] ?? credHelpers?.[keyOf(place)];
  return own ?? (credsStore === '' ? undefined : credsStore);
}

/** All entries but those of a place, however it is spelt. */
function others({ auths = {} }: DockerConfig, place: string): NonNullable<DockerConfig['auths']> {
  return Object.fromEntries(Object.entries(auths).filter(([name]) => normalizeKey(name) !== place));
}
