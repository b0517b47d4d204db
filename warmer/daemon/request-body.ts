import type { IncomingMessage } from 'node:http';
import { UsageError } from '../../src/support/index.ts';
import { maximumRequestSize } from '../../src/volume/index.ts';

/**
 * Reads the JSON document that a request carries. How long a client may take is the server's limit.
 *
 * @throws UsageError `E_REQUEST_TOO_LARGE` or `E_REQUEST_MALFORMED`.
 */
export async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let length = Number(request.headers['content-length'] ?? 0);
  if (length > maximumRequestSize) throw tooLarge();
  length = 0;
  // Leaving the loop early must not close the connection: the client is told why first.
  for await (const chunk of request.iterator({ destroyOnReturn: false })) {
    length += (chunk as Buffer).length;
    if (length > maximumRequestSize) throw tooLarge();
    chunks.push(chunk as Buffer);
  }
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks)));
  } catch (cause) {
    throw new UsageError('the request is not JSON', { code: 'E_REQUEST_MALFORMED', cause });
  }
}

function tooLarge(): UsageError {
  return new UsageError(`a request has at most ${maximumRequestSize} bytes`, { code: 'E_REQUEST_TOO_LARGE' });
}
