import { access } from 'node:fs/promises';
import {
  RegistryClient,
  type RegistryOptions,
  type RegistrySettings,
  Throttle,
} from '../../src/registry/index.ts';
import { EnvironmentError, type Progress } from '../../src/support/index.ts';
import type { Configuration } from './configuration.ts';

type Settings = Pick<Configuration, 'registries' | 'bandwidth'>;

/** Clients that belong to one version of the settings, by pull secret. */
interface Generation {
  readonly settings: string;
  readonly options: RegistryOptions;
  readonly clients: Map<string, RegistryClient>;
  users: number;
}

/**
 * One client for each pull secret, whose connections all pulls share. When the settings of registries change, pulls that
 * go on keep their client until they end.
 */
export class RegistryClients implements AsyncDisposable {
  readonly #progress: Progress;
  #current: Generation;

  constructor(settings: Settings, progress: Progress) {
    this.#progress = progress;
    this.#current = this.#generation(settings);
  }

  /** Takes new settings over for what begins from now on. */
  async configure(settings: Settings): Promise<void> {
    const next = this.#generation(settings);
    if (next.settings === this.#current.settings) return;
    const before = this.#current;
    this.#current = next;
    if (before.users === 0) await dispose(before);
  }

  /**
   * Runs work with a client.
   *
   * @param pullSecret path of a Docker configuration, directory or file; undefined for the daemon's own.
   * @throws EnvironmentError `E_PULL_SECRET_NOT_FOUND`, and what the work throws.
   */
  async use<T>(pullSecret: string | undefined, work: (client: RegistryClient) => Promise<T>): Promise<T> {
    const generation = this.#current;
    generation.users += 1;
    try {
      if (pullSecret !== undefined) await requireSecret(pullSecret);
      return await work(this.#client(generation, pullSecret));
    } finally {
      generation.users -= 1;
      if (generation.users === 0 && generation !== this.#current) await dispose(generation);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await dispose(this.#current);
  }

  #client({ clients, options }: Generation, pullSecret: string | undefined): RegistryClient {
    const key = pullSecret ?? '';
    const known = clients.get(key);
    if (known !== undefined) return known;
    const client = new RegistryClient({
      ...options,
      ...(pullSecret === undefined ? {} : { dockerConfigDirectory: pullSecret }),
    });
    clients.set(key, client);
    return client;
  }

  #generation(settings: Settings): Generation {
    return {
      settings: JSON.stringify([settings.registries, settings.bandwidth]),
      options: { ...registryOptions(settings), progress: this.#progress },
      clients: new Map(),
      users: 0,
    };
  }
}

/** What the configuration says of registries, for a client. Attempts are few: the schedule tries again by itself. */
function registryOptions({ registries, bandwidth }: Settings): RegistryOptions {
  const byHost = registries.map(({ host, clientCertificate, clientKey, ...settings }) => {
    const own =
      clientCertificate === undefined || clientKey === undefined
        ? {}
        : { clientCertificate: { certificate: clientCertificate, key: clientKey } };
    return [host, { ...settings, ...own }] as const;
  });
  return {
    registries: new Map<string, RegistrySettings>(byHost),
    // One limit for all clients.
    throttle: bandwidth === undefined ? undefined : new Throttle(bandwidth),
    pullRetries: 1,
    pushRetries: 1,
    longestWait: 0,
    // The volume bounds how many layers are fetched, over all clients.
    concurrency: 1000,
  };
}

async function requireSecret(path: string): Promise<void> {
  try {
    await access(path);
  } catch (cause) {
    throw new EnvironmentError('the pull secret is not there', {
      code: 'E_PULL_SECRET_NOT_FOUND',
      where: path,
      remedy: 'Mount the Secret there, or correct pullSecret in the configuration.',
      cause,
    });
  }
}

async function dispose({ clients }: Generation): Promise<void> {
  await Promise.all([...clients.values()].map((client) => client[Symbol.asyncDispose]()));
  clients.clear();
}
