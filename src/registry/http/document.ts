import { KilnError } from '../../support/index.ts';
import { type HttpResponse, readBody } from './message.ts';
import { backoff, wait } from './retry.ts';

/** How often an answer may break off before that is the result. */
const maximumBreaks = 3;

/**
 * Sends a request and reads a good answer whole. One that breaks off is asked for again, which is why only small ones are
 * read this way.
 *
 * @param send sends the request.
 * @param limit the largest body accepted, in bytes.
 * @returns with the body when the status is 200; otherwise the body is still to be read.
 */
export async function fetchDocument(
  send: () => Promise<HttpResponse>,
  limit: number,
  what: string,
  signal: AbortSignal | undefined,
): Promise<{ readonly response: HttpResponse; readonly body: Buffer | undefined }> {
  for (let breaks = 0; ; breaks++) {
    const response = await send();
    if (response.status !== 200) return { response, body: undefined };
    try {
      return { response, body: await readBody(response, limit, what) };
    } catch (error) {
      const broken = error instanceof KilnError && error.code === 'E_REGISTRY_UNAVAILABLE';
      if (!broken || breaks >= maximumBreaks) throw error;
      await wait(backoff(breaks), signal);
    }
  }
}
