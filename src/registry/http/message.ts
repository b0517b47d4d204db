import type { Readable } from 'node:stream';
import { isAbortError, KilnError, messageOf } from '../../support/index.ts';
import { parseErrors, RegistryError } from '../errors.ts';

/** One HTTP request to a registry, its token server or the storage behind it. */
export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'PATCH' | 'DELETE';
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  /** Made anew for every attempt, since a stream can be sent once. */
  readonly body?: () => Promise<HttpBody> | HttpBody;
  /** A blob on its way, which may take long: such requests have connections of their own, so that others never wait for them. */
  readonly transfer?: boolean;
  /** Never send it again by itself: who asks knows better how to go on. */
  readonly once?: boolean;
  readonly signal?: AbortSignal | undefined;
}

export type HttpBody = AsyncIterable<Uint8Array> | Uint8Array;

export interface HttpResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Readable & { dump(): Promise<void> };
  /** Who we said we were, in words for an error message; undefined when nobody asked. */
  readonly identity?: string;
}

/**
 * Sends a request and gives whatever was answered, whose body the caller reads or dumps. Senders wrap one another:
 * authorization around retries around connections.
 */
export type Send = (request: HttpRequest) => Promise<HttpResponse>;

/** The first value of a header. */
export function headerOf(response: HttpResponse, name: string): string | undefined {
  const value = response.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/** Milliseconds that a Retry-After header asks for (seconds or a date; RFC 9110, 10.2.3). */
export function retryAfter(response: HttpResponse): number | undefined {
  const text = headerOf(response, 'retry-after');
  if (text === undefined) return undefined;
  const milliseconds = /^[0-9]+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isNaN(milliseconds) ? undefined : Math.max(0, milliseconds);
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

/** Turns an answer that was not wanted into an error, with the registry's own words. @param hint a further remedy. */
export async function errorFrom(
  response: HttpResponse,
  request: string,
  hint?: string,
): Promise<RegistryError> {
  const body = await readBody(response, 64 * 1024, request).catch(() => Buffer.alloc(0));
  return new RegistryError(request, response.status, parseErrors(body.toString('utf8')), {
    identity: response.identity,
    retryAfter: retryAfter(response),
    hint,
  });
}
