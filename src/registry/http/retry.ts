import { setTimeout as sleep } from 'node:timers/promises';
import { isAbortError, KilnError, systemErrorCode } from '../../support/index.ts';
import { unreachable } from '../errors.ts';
import { type HttpRequest, type HttpResponse, retryAfter, type Send } from './message.ts';

/** Answers that another attempt may not get. */
const transientStatuses = new Set([408, 429, 500, 502, 503, 504]);

/** Longest that a registry is waited for when it says how long; beyond that the caller hears of it. */
export const maximumDelay = 60_000;

/**
 * Sends again what failed for a passing reason: a cut connection, 429, 5xx. Waits as long as Retry-After says, otherwise
 * longer each time, with jitter.
 *
 * @param retries further attempts after the first.
 * @param longest milliseconds that are waited between two answers; instead of waiting longer the answer is returned.
 * @returns the last answer, whatever it was. It throws KilnError `E_REGISTRY_UNAVAILABLE` when there was none.
 */
export function withRetries(send: Send, retries: number, longest: number = maximumDelay): Send {
  return async (request) => {
    for (let attempt = 0; ; attempt++) {
      request.signal?.throwIfAborted();
      const last = request.once === true || attempt >= retries;
      const answer = await attemptOnce(send, request, last);
      if ('response' in answer) {
        const { response } = answer;
        if (last || !transientStatuses.has(response.status)) return response;
        const delay = retryAfter(response) ?? backoff(attempt);
        if (delay > longest) return response;
        await response.body.dump();
        await wait(delay, request.signal);
      } else await wait(backoff(attempt), request.signal);
    }
  };
}

async function attemptOnce(
  send: Send,
  request: HttpRequest,
  last: boolean,
): Promise<{ readonly response: HttpResponse } | { readonly failed: true }> {
  try {
    return { response: await send(request) };
  } catch (error) {
    if (isAbortError(error) || request.signal?.aborted === true || error instanceof KilnError) throw error;
    if (last || !isTransient(error)) throw unreachable(request.url, error);
    return { failed: true };
  }
}

/** Connection failures that another attempt may not meet; a wrong name, protocol or certificate stays wrong. */
function isTransient(error: unknown): boolean {
  const code = systemErrorCode(error) ?? '';
  if (/^(?:ENOTFOUND|ECONNREFUSED|EPROTO|ERR_TLS.*|ERR_SSL.*|.*CERT.*)$/.test(code)) return false;
  // Undici's own, the system's, and answers that are not HTTP.
  return /^(?:UND_ERR|E|HPE_)/.test(code);
}

/** Milliseconds before the attempt after `attempt` (from 0): 0.2 s doubled each time up to 10 s, give or take half. */
export function backoff(attempt: number): number {
  return Math.min(200 * 2 ** attempt, 10_000) * (0.5 + Math.random());
}

/** Sleeps, unless the signal fires. */
export async function wait(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  await sleep(milliseconds, undefined, signal === undefined ? {} : { signal });
}
