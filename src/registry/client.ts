import PQueue from 'p-queue';
import type { Progress, TextFiles } from '../support/index.ts';
import { Authorizer, type Scope } from './authorizer.ts';
import { CredentialStore } from './credentials.ts';
import { Repository } from './repository.ts';
import { type HttpRequest, type HttpResponse, Transport } from './transport.ts';

export interface RegistryOptions {
  /** Plain HTTP, and certificates that do not verify, for every registry. */
  readonly insecure?: boolean;
  readonly insecureRegistries?: ReadonlySet<string>;
  readonly skipTlsVerify?: boolean;
  readonly skipTlsVerifyRegistries?: ReadonlySet<string>;
  /** Where Docker's config.json lies; default `$DOCKER_CONFIG`, then `~/.docker`. */
  readonly dockerConfigDirectory?: string;
  /** What that file is read with. */
  readonly files?: TextFiles;
  /** Requests under way at the same time; default 16. */
  readonly concurrency?: number;
  /** Further attempts at a request that failed for a passing reason; default 5. */
  readonly retries?: number;
  readonly progress?: Progress;
}

/** What a repository sends its requests through. */
export interface Connection {
  readonly origin: string;
  readonly progress: Progress | undefined;
  send(request: Omit<HttpRequest, 'url'> & { readonly url: URL }, scope: Scope): Promise<HttpResponse>;
  /** For addresses that the registry redirected to: nothing of ours is sent along. */
  sendBare(request: HttpRequest): Promise<HttpResponse>;
  /** Runs a transfer when one of the client's places is free. */
  queue<Value>(work: () => Promise<Value>, signal?: AbortSignal): Promise<Value>;
}

/** Speaks the OCI distribution protocol with any number of registries, over shared connections. */
export class RegistryClient implements AsyncDisposable {
  readonly #options: RegistryOptions;
  readonly #transport: Transport;
  readonly #authorizer: Authorizer;
  readonly #queue: PQueue;

  constructor(options: RegistryOptions = {}) {
    this.#options = options;
    this.#transport = new Transport({
      skipVerify: (host) => this.#skipsVerification(host),
      retries: options.retries ?? 5,
      userAgent: 'kiln/0.1',
    });
    this.#authorizer = new Authorizer(
      this.#transport,
      new CredentialStore(options.dockerConfigDirectory, options.files),
    );
    this.#queue = new PQueue({ concurrency: options.concurrency ?? 16 });
  }

  /** One repository of one registry; nothing is asked before one of its methods is called. */
  repository(name: { readonly registry: string; readonly repository: string }): Repository {
    const connection: Connection = {
      origin: this.#origin(name.registry),
      progress: this.#options.progress,
      send: (request, scope) => this.#authorizer.send(request, scope),
      sendBare: (request) => this.#transport.send(request),
      queue: (work, signal) => this.#queue.add(work, signal === undefined ? {} : { signal }),
    };
    return new Repository(name.registry, name.repository, connection);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#transport[Symbol.asyncDispose]();
  }

  #origin(registry: string): string {
    if (registry === 'docker.io') return 'https://registry-1.docker.io';
    const plain =
      this.#options.insecure === true ||
      this.#options.insecureRegistries?.has(registry) === true ||
      isLoopback(registry);
    return `${plain ? 'http' : 'https'}://${registry}`;
  }

  #skipsVerification(host: string): boolean {
    const { insecure, skipTlsVerify, insecureRegistries, skipTlsVerifyRegistries } = this.#options;
    return (
      insecure === true ||
      skipTlsVerify === true ||
      insecureRegistries?.has(host) === true ||
      skipTlsVerifyRegistries?.has(host) === true
    );
  }
}

/** Registries on this machine are spoken to in plain HTTP, as Docker does. */
function isLoopback(registry: string): boolean {
  const host = registry.replace(/:[0-9]+$/, '');
  return host === 'localhost' || host === '[::1]' || /^127\.[0-9]+\.[0-9]+\.[0-9]+$/.test(host);
}
