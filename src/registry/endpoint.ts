import { isDigest } from '../oci/index.ts';
import type { Progress } from '../support/index.ts';
import type { Scope } from './auth/authorizer.ts';
import type { HttpRequest, HttpResponse } from './http/message.ts';
import { followRedirects } from './http/redirect.ts';
import type { FairQueue } from './transfer/fair-queue.ts';
import type { Throttle } from './transfer/throttle.ts';

/** What an endpoint sends its requests through; a {@link RegistryClient} has the one that all its endpoints share. */
export interface Connection {
  /** `https://host`, or with `http:` where that is allowed and nothing else works. */
  origin(signal: AbortSignal | undefined): Promise<string>;
  /** With our credentials for the scope. */
  send(request: HttpRequest, scope: Scope): Promise<HttpResponse>;
  /** For addresses of other hosts that the registry sent us to: nothing of ours is sent along. */
  sendElsewhere(request: HttpRequest): Promise<HttpResponse>;
  readonly progress: Progress | undefined;
  /** Places for blobs on their way, in each direction. */
  readonly downloads: FairQueue;
  readonly uploads: FairQueue;
  /** How fast all blobs together may pass; undefined: as fast as they can. */
  readonly throttle: Throttle | undefined;
  /** Bytes of one request of an upload, at most; undefined: blobs go whole. */
  readonly chunkSize: number | undefined;
  /** Attempts at an upload that got no further, beyond the first. */
  readonly retries: number;
}

type EndpointRequest = Omit<HttpRequest, 'url'> & { readonly path: string };

/** One repository of one registry, as requests and messages name it. */
export class Endpoint {
  readonly registry: string;
  readonly name: string;
  readonly connection: Connection;

  constructor(registry: string, name: string, connection: Connection) {
    this.registry = registry;
    this.name = name;
    this.connection = connection;
  }

  /** @param path below the repository, or from the root on with `/` before it. */
  async url(path: string, signal: AbortSignal | undefined): Promise<URL> {
    const origin = await this.connection.origin(signal);
    return new URL(path.startsWith('/') ? path : `/v2/${this.name}/${path}`, origin);
  }

  /** The repository with a tag or digest. */
  label(target: string): string {
    return `${this.fullName}${isDigest(target) ? '@' : ':'}${target}`;
  }

  /** What may be wrong when something is not accepted here. */
  get pushHint(): string | undefined {
    return this.name.split('/').length > 2
      ? 'Some registries, Docker Hub among them, have no repositories below others.'
      : undefined;
  }

  scope(actions: Scope['actions'], alsoPull: readonly string[] = []): Scope {
    return { registry: this.registry, repository: this.name, actions, alsoPull };
  }

  /** Sends a request that may change something. */
  async send(
    request: EndpointRequest,
    actions: Scope['actions'] = 'pull,push',
    alsoPull: readonly string[] = [],
  ): Promise<HttpResponse> {
    const url = await this.url(request.path, request.signal);
    return this.connection.send({ ...request, url }, this.scope(actions, alsoPull));
  }

  /** Sends a GET or HEAD, and follows where it is redirected to. */
  async read(request: EndpointRequest): Promise<HttpResponse> {
    const url = await this.url(request.path, request.signal);
    const { connection } = this;
    return followRedirects(
      { ...request, url },
      (own) => connection.send(own, this.scope('pull')),
      (other) => connection.sendElsewhere(other),
    );
  }

  /** Registry and repository. */
  get fullName(): string {
    return `${this.registry}/${this.name}`;
  }
}
