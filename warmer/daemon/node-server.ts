import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { type Image, parsePlatform, parseReference } from '../../src/oci/index.ts';
import {
  EnvironmentError,
  KilnError,
  messageOf,
  type Progress,
  UsageError,
} from '../../src/support/index.ts';
import {
  decodeBuildAnnouncement,
  decodeBuildReport,
  decodeEnsureRequest,
  errorDocument,
  maximumMessageSize,
} from '../../src/volume/index.ts';
import { MessageStream, sendError, sendJson } from './answers.ts';
import { readJson } from './request-body.ts';
import { SocketFile } from './socket-file.ts';
import type { Warming } from './types.ts';

/** Bounds that keep the daemon alive whatever its clients do. */
export interface NodeServerLimits {
  /** Open connections; more are closed as soon as they come. */
  readonly connections: number;
  /** Images asked for at the same time, by all builds together. */
  readonly requests: number;
  /** Builds that have announced themselves. */
  readonly builds: number;
  /** Milliseconds for a client to send its request. */
  readonly requestTime: number;
  /** Milliseconds after which an image that is ready is no longer held for a client that does nothing. */
  readonly leaseTime: number;
  /** Milliseconds between two messages of progress, at least. */
  readonly progressInterval: number;
  /** Milliseconds between two signs of life while an image is fetched, at most. */
  readonly heartbeat: number;
}

export const nodeServerLimits: NodeServerLimits = {
  connections: 4096,
  requests: 1024,
  builds: 1024,
  requestTime: 10_000,
  leaseTime: 600_000,
  progressInterval: 250,
  heartbeat: 5000,
};

/** Milliseconds that clients have to read their last message when the daemon ends. */
const closingTime = 1000;

/**
 * The node's socket (docs/node-socket.md). Plain HTTP of Node and no framework: what matters here, that a connection is a
 * lease, that a client may vanish or not read, is a matter of sockets and not of routes.
 */
export class NodeServer implements AsyncDisposable {
  readonly #warming: Warming;
  readonly #file: SocketFile;
  readonly #limits: NodeServerLimits;
  readonly #progress: Progress;
  readonly #server: Server;
  /** Connections with a request under way; a client that sends a second one meanwhile has lost its manners. */
  readonly #busy = new WeakSet<Socket>();
  readonly #closing = new AbortController();
  readonly #exchanges = new Set<Promise<void>>();
  #requests = 0;
  #builds = 0;
  #leases = 0;

  private constructor(warming: Warming, file: SocketFile, limits: NodeServerLimits, progress: Progress) {
    this.#warming = warming;
    this.#file = file;
    this.#limits = limits;
    this.#progress = progress;
    const { requestTime } = limits;
    this.#server = createServer(
      {
        headersTimeout: requestTime,
        requestTimeout: requestTime,
        keepAliveTimeout: 5000,
        connectionsCheckingInterval: Math.min(1000, requestTime),
        maxHeaderSize: 8192,
      },
      (request, response) => this.#accept(request, response),
    );
    this.#server.maxConnections = limits.connections;
  }

  /**
   * Serves the socket of the volume in `directory`.
   *
   * @throws EnvironmentError `E_WARMER_RUNNING`, `E_SOCKET_PATH_TOO_LONG`.
   */
  static async start(
    directory: string,
    warming: Warming,
    progress: Progress,
    limits: Partial<NodeServerLimits> = {},
  ): Promise<NodeServer> {
    await using cleanup = new AsyncDisposableStack();
    const file = cleanup.use(await SocketFile.claim(directory));
    const server = new NodeServer(warming, file, { ...nodeServerLimits, ...limits }, progress);
    await file.listen(server.#server);
    cleanup.move();
    return server;
  }

  get path(): string {
    return this.#file.path;
  }

  /** Images that are held for builds now. */
  get leases(): number {
    return this.#leases;
  }

  /** Tells every client that waits that the daemon ends, and stops. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.remove();
    this.#closing.abort();
    const closed = new Promise((resolve) => this.#server.close(resolve));
    await Promise.race([Promise.all(this.#exchanges), delay(closingTime, undefined, { ref: false })]);
    this.#server.closeAllConnections();
    await closed;
    await Promise.all(this.#exchanges);
    await this.#file[Symbol.asyncDispose]();
  }

  #accept(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    if (socket.destroyed) return;
    if (this.#busy.has(socket)) {
      socket.destroy();
      return;
    }
    this.#busy.add(socket);
    response.on('error', () => undefined);
    const exchange = this.#answer(request, response)
      .catch((error: unknown) => this.#refuse(response, error))
      .finally(() => {
        this.#busy.delete(socket);
        this.#exchanges.delete(exchange);
      });
    this.#exchanges.add(exchange);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (this.#closing.signal.aborted) throw stopping();
    const route = `${request.method ?? ''} ${request.url ?? ''}`;
    if (route === 'GET /v1/status') return sendJson(response, 200, await this.#warming.status());
    if (route === 'POST /v1/ensure') return this.#ensure(await readJson(request), response);
    if (route === 'POST /v1/builds') return this.#announce(await readJson(request), response);
    if (route === 'POST /v1/report') {
      this.#warming.report(decodeBuildReport(await readJson(request)));
      return sendJson(response, 202, {});
    }
    throw new UsageError(`there is no ${route.slice(0, 200)}`, { code: 'E_NO_SUCH_ROUTE' });
  }

  /** Streams how an image is made ready, and holds it until the client closes the connection. */
  async #ensure(body: unknown, response: ServerResponse): Promise<void> {
    const request = decodeEnsureRequest(body);
    if (this.#requests >= this.#limits.requests) throw tooMany('images are asked for');
    using gone = connectionEnd(response, this.#closing.signal);
    using stream = new MessageStream(response, this.#limits);
    this.#requests += 1;
    try {
      const ensured = await this.#warming.ensure(
        parseReference(request.reference),
        parsePlatform(request.platform),
        (bytes, total) => stream.progress(bytes, total),
        gone.signal,
        (image) => sendImage(stream, image),
      );
      await using _lease = ensured.lease;
      this.#leases += 1;
      try {
        stream.send({ type: 'ready', digest: ensured.digest, outcome: ensured.outcome });
        stream.rest();
        await gone.within(this.#limits.leaseTime);
      } finally {
        this.#leases -= 1;
      }
    } catch (error) {
      this.#log(error, gone.signal);
      const told = this.#closing.signal.aborted ? stopping() : error;
      if (!stream.begun && statusOf(told) !== internal) throw told;
      stream.send({ type: 'error', error: errorDocument(told) });
    } finally {
      this.#requests -= 1;
      stream.end();
    }
  }

  /** A build lasts as long as the connection on which it announced itself. */
  async #announce(body: unknown, response: ServerResponse): Promise<void> {
    const build = decodeBuildAnnouncement(body);
    if (this.#builds >= this.#limits.builds) throw tooMany('builds have announced themselves');
    this.#builds += 1;
    try {
      using gone = connectionEnd(response, this.#closing.signal);
      using _announced = this.#warming.announce(build);
      using stream = new MessageStream(response, { ...this.#limits, heartbeat: undefined });
      stream.begin();
      await gone.within(undefined);
      stream.end();
    } finally {
      this.#builds -= 1;
    }
  }

  #refuse(response: ServerResponse, error: unknown): void {
    this.#log(error, undefined);
    if (response.headersSent || response.destroyed) response.destroy();
    else sendError(response, statusOf(error), errorDocument(error));
  }

  /** Mistakes of clients and errors of registries are told to those who asked; only our own faults are logged. */
  #log(error: unknown, gone: AbortSignal | undefined): void {
    if (error instanceof KilnError || gone?.aborted === true) return;
    this.#progress.warn(`the node's socket: ${messageOf(error)}`);
  }
}

/** The end of a client's connection, as a signal. */
interface ConnectionEnd extends Disposable {
  readonly signal: AbortSignal;
  /** Waits for it, at most so many milliseconds. */
  within(milliseconds: number | undefined): Promise<void>;
}

function connectionEnd(response: ServerResponse, closing: AbortSignal): ConnectionEnd {
  const controller = new AbortController();
  const { promise, resolve } = Promise.withResolvers<void>();
  const end = (): void => {
    controller.abort();
    resolve();
  };
  const { socket } = response;
  socket?.once('close', end);
  closing.addEventListener('abort', end, { once: true });
  if (socket == null || socket.destroyed || closing.aborted) end();
  return {
    signal: controller.signal,
    within: async (milliseconds) => {
      if (milliseconds === undefined) return promise;
      const timer = setTimeout(resolve, milliseconds);
      await promise;
      clearTimeout(timer);
    },
    [Symbol.dispose]: () => {
      socket?.off('close', end);
      closing.removeEventListener('abort', end);
    },
  };
}

function sendImage(stream: MessageStream, image: Pick<Image, 'manifestBytes' | 'configBytes'>): void {
  const manifest = Buffer.from(image.manifestBytes).toString('base64');
  const config = Buffer.from(image.configBytes).toString('base64');
  if (manifest.length + config.length < maximumMessageSize - 1024)
    stream.send({ type: 'image', manifest, config });
}

function stopping(): EnvironmentError {
  return new EnvironmentError("the node's warmer is stopping", { code: 'E_WARMER_STOPPING' });
}

function tooMany(what: string): EnvironmentError {
  return new EnvironmentError(`too many ${what} at the same time`, { code: 'E_TOO_MANY_REQUESTS' });
}

const internal = 500;
const statuses: Readonly<Record<string, number>> = {
  E_REQUEST_TOO_LARGE: 413,
  E_NO_SUCH_ROUTE: 404,
  E_NOT_ALLOWED: 403,
  E_TOO_MANY_REQUESTS: 429,
  E_WARMER_STOPPING: 503,
  E_NO_SPACE: 503,
};

/** The status for an error before a stream begins (src/volume/node-protocol.ts). */
function statusOf(error: unknown): number {
  if (!(error instanceof KilnError)) return internal;
  return statuses[error.code] ?? (error instanceof UsageError ? 400 : internal);
}
