import { systemErrorCode, type ProcessEnvironment } from '../../support/index.ts';
import type { HttpRequest, HttpResponse, Send } from './message.ts';
import type { Pools, TlsSettings } from './pools.ts';
import { explainProxyError, proxyFor } from './proxies.ts';

/** Connections to any number of hosts, shared by whoever sends through them. */
export class Transport implements AsyncDisposable {
  readonly #environment: ProcessEnvironment;
  readonly #userAgent: string;
  #pools: Promise<Pools> | undefined;

  /** @param environment where the proxies are named. */
  constructor(userAgent: string, environment: ProcessEnvironment) {
    this.#userAgent = userAgent;
    this.#environment = environment;
  }

  /**
   * A sender of single requests.
   *
   * @param tlsOf the settings for connections to a host (with port).
   */
  sender(tlsOf: (host: string) => TlsSettings): Send {
    /** Hosts whose certificates only the machine's own store vouches for. */
    const needSystemStore = new Set<string>();
    return async (request) => {
      const { host } = request.url;
      const tls = tlsOf(host);
      try {
        return await this.#dispatch(request, needSystemStore.has(host) ? { ...tls, systemStore: true } : tls);
      } catch (error) {
        if (needSystemStore.has(host) || !isUnknownAuthority(error)) throw error;
        // Nothing has been sent yet: the handshake comes first.
        const response = await this.#dispatch(request, { ...tls, systemStore: true });
        needSystemStore.add(host);
        return response;
      }
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await (await this.#pools)?.destroy();
  }

  async #dispatch(request: HttpRequest, tls: TlsSettings): Promise<HttpResponse> {
    this.#pools ??= import('./pools.ts').then(({ Pools }) => new Pools());
    const pools = await this.#pools;
    const proxy = proxyFor(request.url, this.#environment);
    const dispatcher = await pools.dispatcher({ tls, proxy, transfer: request.transfer === true });
    try {
      const { statusCode, headers, body } = await dispatcher.request({
        origin: request.url.origin,
        path: request.url.pathname + request.url.search,
        method: request.method,
        headers: { 'user-agent': this.#userAgent, ...request.headers },
        body: ((await request.body?.()) ?? null) as Uint8Array | null,
        ...(request.signal === undefined ? {} : { signal: request.signal }),
      });
      return { status: statusCode, headers, body };
    } catch (error) {
      if (proxy === undefined || request.signal?.aborted === true) throw error;
      throw explainProxyError(error, proxy, request.url);
    }
  }
}

/** A certificate that is signed by somebody unknown, as those of a company's own authority are. */
function isUnknownAuthority(error: unknown): boolean {
  const code = systemErrorCode(error) ?? '';
  return /^(?:UNABLE_TO_|SELF_SIGNED_CERT|DEPTH_ZERO_SELF_SIGNED)/.test(code);
}
