import { Authorizer, type Scope } from './auth/authorizer.ts';
import { Keychain } from './auth/credential.ts';
import { defaultKeychain } from './auth/default-keychain.ts';
import { type Connection, Endpoint } from './endpoint.ts';
import type { TlsSettings } from './http/pools.ts';
import { errorFrom, type Send } from './http/message.ts';
import { withRetries } from './http/retry.ts';
import { isLoopback, SchemeFinder } from './http/scheme.ts';
import { Transport } from './http/transport.ts';
import {
  type HostTrust,
  readWebFile,
  type WebAnswer,
  type WebRequest,
  type WebText,
  writeWebFile,
} from './http/web.ts';
import type { ImageSource } from './image-source.ts';
import { MirrorHealth } from './mirrors/mirror-health.ts';
import { type Mirror, parseMirror } from './mirrors/mirror.ts';
import { MirroredSource } from './mirrors/mirrored-source.ts';
import type { RegistryOptions, RegistrySettings } from './options.ts';
import { Repository } from './repository.ts';
import { FairQueue } from './transfer/fair-queue.ts';
import { Throttle } from './transfer/throttle.ts';

/** What a registry is asked for: what we push and keep there, images to pull, or the same in place of another registry. */
type Role = 'push' | 'pull' | 'mirror';

const userAgent = 'kiln/0.1';
const defaultRetries = 5;
const defaultConcurrency = 8;
const dockerHubHost = 'registry-1.docker.io';

export interface RepositoryName {
  readonly registry: string;
  readonly repository: string;
}

/** Speaks the OCI distribution protocol with any number of registries, over shared connections. */
export class RegistryClient implements AsyncDisposable {
  readonly #options: RegistryOptions;
  readonly #registries: ReadonlyMap<string, RegistrySettings>;
  readonly #transport: Transport;
  readonly #roles: Readonly<Record<Role, RoleSenders>>;
  readonly #downloads: FairQueue;
  readonly #uploads: FairQueue;
  readonly #throttle: Throttle | undefined;
  readonly #mirrors: ReadonlyMap<string, readonly Mirror[]>;
  readonly #health = new Map<string, MirrorHealth>();
  readonly #sources = new Map<string, ImageSource>();

  /** @throws UsageError when a mirror cannot be understood. */
  constructor(options: RegistryOptions = {}) {
    const { concurrency = defaultConcurrency, registries = [] } = options;
    this.#options = options;
    this.#transport = new Transport(userAgent, options.environment ?? process.env);
    this.#registries = new Map([...registries].map(([host, settings]) => [canonicalHost(host), settings]));
    this.#downloads = new FairQueue(concurrency);
    this.#uploads = new FairQueue(concurrency);
    this.#throttle =
      options.throttle ??
      (options.bytesPerSecond === undefined ? undefined : new Throttle(options.bytesPerSecond));
    const keychain = defaultKeychain({
      directory: options.dockerConfigDirectory,
      helpers: options.credentialHelpers,
      environment: options.environment ?? process.env,
      files: options.files,
      send: withRetries(
        this.#transport.sender((host) => this.#tls(host, 'push')),
        1,
      ),
    });
    const senders = (role: Role, retries: number): RoleSenders => {
      const once = this.#transport.sender((host) => this.#tls(host, role));
      const bare = withRetries(once, retries, options.longestWait);
      return {
        bare,
        authorizer: new Authorizer(bare, keychain),
        anonymous: new Authorizer(bare, new Keychain([])),
        schemes: new SchemeFinder(once),
      };
    };
    const { pullRetries = defaultRetries, pushRetries = defaultRetries } = options;
    this.#roles = {
      push: senders('push', pushRetries),
      pull: senders('pull', pullRetries),
      // There is somebody else to ask, which is better than asking again.
      mirror: senders('mirror', Math.min(1, pullRetries)),
    };
    this.#mirrors = new Map(
      [...this.#registries].map(([host, { mirrors = [] }]) => [host, mirrors.map(parseMirror)]),
    );
  }

  /** One repository of one registry itself, to push to and to keep things in; nothing is asked before one of its methods is called. */
  repository({ registry, repository }: RepositoryName): Repository {
    return new Repository(new Endpoint(registry, repository, this.#connection(registry, 'push')));
  }

  /** Where images of a repository are read from: its mirrors, if it has any, and the repository itself. */
  source(name: RepositoryName): ImageSource {
    const key = `${name.registry}/${name.repository}`;
    const known = this.#sources.get(key) ?? this.#createSource(name);
    this.#sources.set(key, known);
    return known;
  }

  /** The repositories that {@link source} asks, in its order; blobs of an image that was pulled may lie in any of them. */
  places(name: RepositoryName): RepositoryName[] {
    const mirrors = this.#mirrorsOf(name.registry);
    const itself = mirrors.length === 0 || this.#settings(name.registry).fallback !== false;
    return [
      ...mirrors.map(({ registry, prefix }) => ({ registry, repository: prefix + name.repository })),
      ...(itself ? [{ registry: name.registry, repository: name.repository }] : []),
    ];
  }

  /**
   * Reads a file of any web server, over this client's connections: through the same proxies, with the certificates that were
   * given for its host, and again when it fails for a passing reason. No credentials are sent but those of its address.
   *
   * @param trustOf whom to trust; default as {@link trustOf} says.
   * @throws KilnError `E_REGISTRY_UNAVAILABLE`, `E_REGISTRY_CERTIFICATE`, `E_REGISTRY_REFUSED`.
   */
  readWebFile(
    request: WebRequest,
    trustOf: (host: string) => HostTrust = (host) => this.trustOf(host),
  ): Promise<WebAnswer> {
    const once = this.#transport.sender(trustOf);
    const { pullRetries = defaultRetries, longestWait } = this.#options;
    return readWebFile(withRetries(once, pullRetries, longestWait), request);
  }

  /**
   * PUTs a text at an address of any web server, as {@link readWebFile} reads from one.
   *
   * @throws KilnError as that one does, and `E_WEB_REFUSED` when the server does not take it.
   */
  writeWebFile(request: WebText): Promise<void> {
    const once = this.#transport.sender((host) => this.trustOf(host));
    const { pushRetries = defaultRetries, longestWait } = this.#options;
    return writeWebFile(withRetries(once, pushRetries, longestWait), request);
  }

  /** Whom to trust at a host that need not be a registry: as it was said for that host, and nobody more. */
  trustOf(host: string): HostTrust {
    const { certificate, clientCertificate, skipTlsVerify } = this.#settings(host);
    return { skipVerify: skipTlsVerify === true, certificate, clientCertificate };
  }

  /**
   * Finds out whether a registry takes a login.
   *
   * @returns false when it asks for none, so that it says nothing about this one.
   * @throws RegistryError `E_REGISTRY_UNAUTHORIZED` when it does not take it.
   */
  async checkLogin(
    registry: string,
    login: { readonly username: string; readonly password: string },
    signal?: AbortSignal,
  ): Promise<boolean> {
    const url = new URL('/v2/', await this.#origin(registry, 'push', undefined, signal));
    const request = { method: 'GET', url, signal } as const;
    const bare = this.#roles.push.bare;
    const asked = await bare(request);
    await asked.body.dump();
    if (asked.status === 200) return false;
    const credential = { kind: 'basic', ...login, source: 'this login' } as const;
    const authorizer = new Authorizer(bare, { find: () => Promise.resolve(credential) });
    const response = await authorizer.send(request, { registry, repository: '', actions: 'pull' });
    if (response.status !== 200) throw await errorFrom(response, `the login to ${registry}`);
    await response.body.dump();
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#transport[Symbol.asyncDispose]();
  }

  #createSource(name: RepositoryName): ImageSource {
    const mirrors = this.#mirrorsOf(name.registry);
    const places = this.places(name).map(({ registry, repository }, position) => {
      const mirror = mirrors[position];
      const role = mirror === undefined ? 'pull' : 'mirror';
      const endpoint = new Endpoint(registry, repository, this.#connection(registry, role, mirror?.scheme));
      return { endpoint, health: mirror === undefined ? undefined : this.#healthOf(mirror) };
    });
    const [only] = places;
    return mirrors.length === 0 && only !== undefined
      ? new Repository(only.endpoint)
      : new MirroredSource(places);
  }

  #mirrorsOf(registry: string): readonly Mirror[] {
    return this.#mirrors.get(canonicalHost(registry)) ?? [];
  }

  #healthOf({ registry }: Mirror): MirrorHealth {
    const health = this.#health.get(registry) ?? new MirrorHealth(registry, this.#options.progress);
    this.#health.set(registry, health);
    return health;
  }

  #connection(registry: string, role: Role, scheme?: 'https' | 'http'): Connection {
    const { authorizer, anonymous } = this.#roles[role];
    return {
      origin: (signal) => this.#origin(registry, role, scheme, signal),
      send: (request, scope) => authorizer.send(request, scope),
      sendElsewhere: (request) => anonymous.send(request, scopeElsewhere(request.url)),
      progress: this.#options.progress,
      downloads: this.#downloads,
      uploads: this.#uploads,
      throttle: this.#throttle,
      chunkSize: this.#options.chunkSize,
      retries: this.#options.pushRetries ?? defaultRetries,
    };
  }

  async #origin(
    registry: string,
    role: Role,
    scheme: 'https' | 'http' | undefined,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const host = registry === 'docker.io' ? dockerHubHost : registry;
    if (scheme !== undefined || !this.#mayBePlain(registry, role)) return `${scheme ?? 'https'}://${host}`;
    return `${await this.#roles[role].schemes.find(host, signal)}://${host}`;
  }

  #mayBePlain(host: string, role: Role): boolean {
    const { certificate, clientCertificate, insecure } = this.#settings(host);
    const all = role === 'push' ? this.#options.insecure : this.#options.insecurePull;
    const certified = certificate !== undefined || clientCertificate !== undefined;
    return insecure === true || (!certified && (all === true || isLoopback(host)));
  }

  #tls(host: string, role: Role): TlsSettings {
    const { skipTlsVerify, skipTlsVerifyPull } = this.#options;
    const { certificate, clientCertificate, skipTlsVerify: skip } = this.#settings(host);
    const all = skipTlsVerify === true || (role !== 'push' && skipTlsVerifyPull === true);
    const skipVerify = all || skip === true || this.#mayBePlain(host, role);
    return { skipVerify, certificate, clientCertificate };
  }

  #settings(host: string): RegistrySettings {
    return this.#registries.get(canonicalHost(host)) ?? {};
  }
}

/** What is asked for at a host that we were redirected to: a registry of its own perhaps, or storage that asks for no token. */
function scopeElsewhere(url: URL): Scope {
  const repository = /^\/v2\/(.+)\/(?:manifests|blobs)\//.exec(url.pathname)?.[1] ?? '';
  return { registry: url.host, repository, actions: 'pull' };
}

/** One spelling for each registry: that of references, without the port that HTTPS has anyway. */
function canonicalHost(host: string): string {
  const name = host.toLowerCase().replace(/:443$/, '');
  return name === dockerHubHost || name === 'index.docker.io' ? 'docker.io' : name;
}

interface RoleSenders {
  readonly bare: Send;
  readonly authorizer: Authorizer;
  readonly anonymous: Authorizer;
  readonly schemes: SchemeFinder;
}
