import { setTimeout as sleep } from 'node:timers/promises';
import type { Readable } from 'node:stream';
import type { Dispatcher } from 'undici';
import { isAbortError, KilnError, messageOf, systemErrorCode } from '../support/index.ts';
import type { Agents } from './agents.ts';
import { parseErrors, RegistryError, unreachable } from './errors.ts';

export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'PATCH' | 'DELETE';
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  /** Made anew for every attempt, since a stream can be sent once. */
  readonly body?: () => Promise<Readable | Uint8Array>;
  readonly signal?: AbortSignal | undefined;
}

export interface HttpResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Dispatcher.ResponseData['body'];
}

export interface TransportOptions {
  /** True when the certificate of this host need not verify. */
  readonly skipVerify: (host: string) => boolean;
  readonly retries: number;
  readonly waitForRateLimit: boolean;
  readonly userAgent: string;
}

const maximumDelay = 60_000;
const transientStatuses = new Set([408, 429, 500, 502, 503, 504]);

/** Sends single HTTP requests, trying again what makes sense to try again: cut connections, 429, 5xx. */
export class Transport implements AsyncDisposable {
  readonly #options: TransportOptions;
  #agents: Promise<Agents> | undefined;

  constructor(options: TransportOptions) {
    this.#options = options;
  }

  /**
   * Sends a request and returns whatever came back, after retries. The caller reads or dumps the body.
   *
   * @throws KilnError `E_REGISTRY_UNAVAILABLE` when no answer could be had.
   */
  async send(request: HttpRequest): Promise<HttpResponse> {
    for (let attempt = 0; ; attempt++) {
      request.signal?.throwIfAborted();
      const last = attempt >= this.#options.retries;
      let delay: number;
      try {
        const response = await this.#once(request);
        if (last || !transientStatuses.has(response.status)) return response;
        if (response.status === 429 && !this.#options.waitForRateLimit) return response;
        delay = retryAfter(response) ?? backoff(attempt);
        if (delay > maximumDelay) return response;
        await response.body.dump();
      } catch (error) {
        if (isAbortError(error) || request.signal?.aborted === true) throw error;
        if (error instanceof KilnError) throw error;
        if (last || !isTransient(error)) throw unreachable(request.url.host, error);
        delay = backoff(attempt);
      }
      await sleep(delay, undefined, request.signal === undefined ? {} : { signal: request.signal });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#agents === undefined) return;
    const agents = await this.#agents;
    await Promise.all([agents.verifying.destroy(), agents.trusting.destroy()]);
  }

  async #once(request: HttpRequest): Promise<HttpResponse> {
    this.#agents ??= import('./agents.ts').then(({ createAgents }) => createAgents());
    const agents = await this.#agents;
    const body = await request.body?.();
    const agent = this.#options.skipVerify(request.url.host) ? agents.trusting : agents.verifying;
    const {
      statusCode,
      headers,
      body: responseBody,
    } = await agent.request({
      origin: request.url.origin,
      path: request.url.pathname + request.url.search,
      method: request.method,
      headers: { 'user-agent': this.#options.userAgent, ...request.headers },
      body: body ?? null,
      ...(request.signal === undefined ? {} : { signal: request.signal }),
    });
    return { status: statusCode, headers, body: responseBody };
  }
}

/** Connection failures that another attempt may not meet; a wrong name or certificate stays wrong. */
function isTransient(error: unknown): boolean {
  const code = systemErrorCode(error) ?? '';
  if (
    code === 'ENOTFOUND' ||
    code === 'ECONNREFUSED' ||
    code.includes('CERT') ||
    code.startsWith('ERR_TLS') ||
    code.startsWith('ERR_SSL')
  )
    return false;
  return code !== '' && (code.startsWith('UND_ERR') || code.startsWith('E'));
}

function backoff(attempt: number): number {
  return Math.min(200 * 2 ** attempt, 10_000) * (0.5 + Math.random());
}

/** Milliseconds that a Retry-After header asks for (seconds or a date; RFC 9110, 10.2.3). */
function retryAfter(response: HttpResponse): number | undefined {
  const text = headerOf(response, 'retry-after');
  if (text === undefined) return undefined;
  const milliseconds = /^[0-9]+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isNaN(milliseconds) ? undefined : Math.max(0, milliseconds);
}

/** The first value of a header. */
export function headerOf(response: HttpResponse, name: string): string | undefined {
  const value = response.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/** The body as bytes. @throws KilnError `E_REGISTRY_REFUSED` when it is longer than `limit`. */
export async function readBody(response: HttpResponse, limit: number, what: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of response.body) {
      chunks.push(chunk as Buffer);
      length += (chunk as Buffer).length;
      if (length > limit)
        throw new KilnError(`${what} is larger than ${limit} bytes`, {
          code: 'E_REGISTRY_REFUSED',
          category: 'registry',
        });
    }
  } catch (error) {
    if (error instanceof KilnError || isAbortError(error)) throw error;
    throw new KilnError(`the answer for ${what} broke off: ${messageOf(error)}`, {
      code: 'E_REGISTRY_UNAVAILABLE',
      category: 'registry',
      cause: error,
    });
  }
  return Buffer.concat(chunks);
}

/** Turns an answer that was not wanted into an error, with the registry's own words. */
export async function errorFrom(response: HttpResponse, request: string): Promise<RegistryError> {
  const body = await readBody(response, 64 * 1024, request).catch(() => Buffer.alloc(0));
  return new RegistryError(
    request,
    response.status,
    parseErrors(body.toString('utf8')),
    retryAfter(response),
  );
}
