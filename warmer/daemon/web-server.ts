import { createServer, type Server } from 'node:http';
import { hostname } from 'node:os';
import { getRequestListener } from '@hono/node-server';
import { type Context, Hono } from 'hono';
import { EnvironmentError, messageOf, type Progress, systemErrorCode } from '../../src/support/index.ts';
import { formatListenAddress, type ListenAddress } from './listen-address.ts';
import { Metrics } from './metrics.ts';
import { loadAssets } from './page/assets.ts';
import { renderPage } from './page/page.ts';
import { readView } from './page/view.ts';
import { isLive, isReady, isStarted, type Probe } from './probes.ts';
import { StatusCache } from './status-cache.ts';
import type { Warming } from './types.ts';
import { respond, securityHeaders } from './web-answers.ts';

export interface WebServerOptions {
  /** What the status page calls this warmer; default the host's name. */
  readonly name: string | undefined;
  /** Images that are held for builds now. */
  readonly leases: () => number;
  readonly progress: Progress;
  /** Milliseconds after which a daemon that does not say how it is counts as stuck. Default 10 s. */
  readonly patience?: number;
}

/** Open connections of one address; more are closed as soon as they come. */
const maximumConnections = 1024;

/** Metrics, probes, the status as JSON, and the status page: all of it to be read only, by whoever can connect. */
export class WebServer implements AsyncDisposable {
  readonly #servers: Server[] = [];
  readonly #metrics: Metrics;
  readonly #status: StatusCache;
  readonly #name: string;
  readonly #progress: Progress;
  readonly #app: Hono;

  constructor(warming: Warming, { name, leases, progress, patience = 10_000 }: WebServerOptions) {
    this.#metrics = new Metrics(warming, leases);
    this.#status = new StatusCache(warming, patience);
    this.#name = name ?? hostname();
    this.#progress = progress;
    this.#app = this.#routes();
  }

  /** Serves at an address. @returns it, with the port that was chosen. @throws EnvironmentError `E_CANNOT_LISTEN`. */
  async listen(address: ListenAddress): Promise<ListenAddress> {
    // The name that a client calls us by is of no importance; without one, any will do.
    const listener = getRequestListener(this.#app.fetch, {
      hostname: 'localhost',
      overrideGlobalObjects: false,
    });
    const server = createServer(
      {
        headersTimeout: 10_000,
        requestTimeout: 10_000,
        connectionsCheckingInterval: 1000,
        maxHeaderSize: 16_384,
      },
      (request, response) => void listener(request, response),
    );
    server.maxConnections = maximumConnections;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const { host, port } = address;
    server.once('error', reject).listen({ port, ...(host === undefined ? {} : { host }) }, resolve);
    try {
      await promise;
    } catch (error) {
      throw new EnvironmentError(`cannot listen at ${formatListenAddress(address)}`, {
        code: 'E_CANNOT_LISTEN',
        cause: error,
        remedy:
          systemErrorCode(error) === 'EADDRINUSE'
            ? 'Another program listens there; choose another port.'
            : 'Check the address in the configuration.',
      });
    }
    server.off('error', reject);
    this.#servers.push(server);
    const bound = server.address();
    return { host, port: typeof bound === 'object' && bound !== null ? bound.port : port };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.#servers.map((server) => new Promise((resolve) => server.close(resolve)));
    for (const server of this.#servers) server.closeAllConnections();
    await Promise.all(closed);
    this.#metrics[Symbol.dispose]();
  }

  #routes(): Hono {
    const app = new Hono();
    const assets = loadAssets();
    app.use(securityHeaders);
    const probe = (path: string, look: (status: StatusCache) => Promise<Probe>): void => {
      app.get(path, async (context) => answerProbe(context, await look(this.#status)));
    };
    probe('/livez', isLive);
    probe('/healthz', isLive);
    probe('/readyz', isReady);
    probe('/startupz', isStarted);
    app.get('/metrics', async (context) => {
      const status = await this.#status.get().catch(() => undefined);
      return respond(context, await this.#metrics.text(status), this.#metrics.contentType);
    });
    app.get('/status', async (context) =>
      respond(context, JSON.stringify(await this.#status.get()), 'application/json; charset=utf-8'),
    );
    app.get('/', async (context) => {
      const status = await this.#status.get();
      const view = readView(new URL(context.req.url).searchParams);
      const page = renderPage({ status, view, name: this.#name, assets, now: new Date() });
      return respond(context, page, 'text/html; charset=utf-8');
    });
    for (const asset of [assets.style, assets.script, assets.icon])
      app.get(asset.path, (context) => {
        context.header('cache-control', 'public, max-age=31536000, immutable');
        return respond(context, asset.content, asset.mediaType);
      });
    app.all('*', (context) => refuse(context));
    app.onError((error, context) => {
      this.#progress.warn(`${context.req.path}: ${messageOf(error)}`);
      return context.text(`the warmer cannot say how it is: ${messageOf(error)}\n`, 503);
    });
    return app;
  }
}

function answerProbe(context: Context, { ok, name, checks }: Probe): Response {
  context.header('cache-control', 'no-store');
  const status = ok ? 200 : 503;
  // As Kubernetes' own components answer: one word, or a line for each check.
  if (ok && context.req.query('verbose') === undefined) return context.text('ok', status);
  const lines = checks.map(
    (check) => `[${check.ok ? '+' : '-'}]${check.name} ${check.ok ? 'ok' : 'failed'}: ${check.detail}`,
  );
  return context.text(`${[...lines, `${name} check ${ok ? 'passed' : 'failed'}`].join('\n')}\n`, status);
}

function refuse(context: Context): Response {
  if (context.req.method === 'GET' || context.req.method === 'HEAD') return context.text('not found\n', 404);
  context.header('allow', 'GET, HEAD');
  return context.text('this server is read only\n', 405);
}
