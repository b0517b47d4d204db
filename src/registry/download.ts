import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Descriptor } from '../oci/index.ts';
import { isAbortError, KilnError, messageOf } from '../support/index.ts';
import type { RepositoryEndpoint } from './repository.ts';
import { errorFrom, headerOf, type HttpResponse } from './transport.ts';
import { TransferMeter } from './transfer-meter.ts';

const attempts = 6;
const maximumRedirects = 5;

/** See {@link Repository.openBlob}. */
export function openBlob(
  endpoint: RepositoryEndpoint,
  descriptor: Descriptor,
  offset: number,
  signal?: AbortSignal,
): Readable {
  return Readable.from(download(endpoint, descriptor, offset, signal), {
    objectMode: false,
    highWaterMark: 1 << 18,
  });
}

async function* download(
  endpoint: RepositoryEndpoint,
  descriptor: Descriptor,
  offset: number,
  signal?: AbortSignal,
): AsyncGenerator<Buffer> {
  const label = endpoint.label(descriptor.digest);
  const hash = createHash('sha256');
  using meter = new TransferMeter(endpoint.connection.progress, 'pull', label, descriptor.size);
  let received = offset;
  for (let attempt = 1; received < descriptor.size || attempt === 1; attempt++) {
    try {
      for await (const chunk of from(endpoint, descriptor, received, signal)) {
        received += chunk.length;
        if (received > descriptor.size) throw corrupt(label, 'it is longer than its descriptor says');
        hash.update(chunk);
        meter.add(chunk.length);
        yield chunk;
      }
      if (received < descriptor.size) throw new Error('the connection was closed early');
    } catch (error) {
      if (error instanceof KilnError || isAbortError(error) || signal?.aborted === true) throw error;
      if (attempt >= attempts)
        throw new KilnError(`the download of ${label} broke off ${attempts} times: ${messageOf(error)}`, {
          code: 'E_REGISTRY_UNAVAILABLE',
          category: 'registry',
          cause: error,
        });
      await sleep(
        100 * 2 ** attempt * (0.5 + Math.random()),
        undefined,
        signal === undefined ? {} : { signal },
      );
    }
  }
  // Who asks for the rest only has the beginning, and checks the whole.
  if (offset === 0 && `sha256:${hash.digest('hex')}` !== descriptor.digest)
    throw corrupt(label, 'its content has another digest');
}

function corrupt(label: string, why: string): KilnError {
  return new KilnError(`${label} is damaged: ${why}`, {
    code: 'E_BLOB_CORRUPT',
    category: 'registry',
    remedy: 'Try again; if it stays so, the registry or a proxy before it is faulty or hostile.',
  });
}

/** The bytes from `offset` on. A registry that ignores Range sends all; what is known is then skipped. */
async function* from(
  endpoint: RepositoryEndpoint,
  descriptor: Descriptor,
  offset: number,
  signal?: AbortSignal,
): AsyncGenerator<Buffer> {
  const response = await request(endpoint, descriptor, offset, signal);
  let skip = response.status === 200 ? offset : 0;
  for await (const chunk of response.body) {
    const bytes = chunk as Buffer;
    const rest = bytes.subarray(Math.min(skip, bytes.length));
    skip -= bytes.length - rest.length;
    if (rest.length > 0) yield rest;
  }
}

async function request(
  endpoint: RepositoryEndpoint,
  descriptor: Descriptor,
  offset: number,
  signal?: AbortSignal,
): Promise<HttpResponse> {
  const headers = offset === 0 ? {} : { range: `bytes=${offset}-` };
  let url = endpoint.url(`blobs/${descriptor.digest}`);
  let response = await endpoint.connection.send(
    { method: 'GET', url, headers, signal },
    endpoint.scope('pull'),
  );
  for (
    let redirects = 0;
    [301, 302, 303, 307, 308].includes(response.status) && redirects < maximumRedirects;
    redirects++
  ) {
    const location = headerOf(response, 'location');
    await response.body.dump();
    if (location === undefined || !URL.canParse(location, url.href)) break;
    const next = new URL(location, url);
    if (next.protocol !== 'https:' && url.protocol === 'https:')
      throw new KilnError(
        `${endpoint.label(descriptor.digest)}: the registry redirects from HTTPS to ${next.protocol}//${next.host}`,
        { code: 'E_REGISTRY_REFUSED', category: 'registry' },
      );
    url = next;
    // Storage behind a registry is another party: it never gets the registry's credentials.
    response = await endpoint.connection.sendBare({ method: 'GET', url, headers, signal });
  }
  if (response.status === 404) {
    await response.body.dump();
    throw new KilnError(`${endpoint.label(descriptor.digest)} is not in the registry`, {
      code: 'E_BLOB_NOT_FOUND',
      category: 'registry',
      remedy: 'The image is incomplete there; push it again.',
    });
  }
  if (response.status === 206 && !(headerOf(response, 'content-range') ?? '').startsWith(`bytes ${offset}-`))
    throw new KilnError(
      `${endpoint.label(descriptor.digest)}: the registry answered with another range than asked for`,
      { code: 'E_REGISTRY_REFUSED', category: 'registry' },
    );
  if (response.status !== 200 && response.status !== 206)
    throw await errorFrom(response, `GET ${endpoint.label(descriptor.digest)}`);
  return response;
}
