import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { type Descriptor, digestOf } from '../../oci/index.ts';
import { isAbortError, KilnError, messageOf } from '../../support/index.ts';
import type { Endpoint } from '../endpoint.ts';
import { fetchDocument } from '../http/document.ts';
import { errorFrom, headerOf, type HttpResponse } from '../http/message.ts';
import { backoff, wait } from '../http/retry.ts';
import { TransferMeter } from './transfer-meter.ts';

/** How often in a row a download may break off without getting further. */
const maximumBreaks = 5;
/** What counts as getting further, in bytes: a few would let a faulty registry keep us for ever. */
const progressBytes = 1024 ** 2;

export interface DownloadOptions {
  /** The byte to begin at; when it is not 0 the digest is for the caller to check, who has the beginning. */
  readonly offset: number;
  readonly signal?: AbortSignal | undefined;
  /** Told of an endpoint that failed for good, or that sent wrong content. */
  readonly onFailure?: (endpoint: Endpoint, error: KilnError) => void;
}

/**
 * Opens a blob that lies at several endpoints. What breaks off goes on by Range; an endpoint that fails is left for the next.
 * See {@link ImageSource.openBlob}.
 */
export function openBlob(
  endpoints: readonly Endpoint[],
  descriptor: Descriptor,
  options: DownloadOptions,
): Readable {
  const closed = new AbortController();
  const signal =
    options.signal === undefined ? closed.signal : AbortSignal.any([options.signal, closed.signal]);
  return new DownloadStream(download(endpoints, descriptor, { ...options, signal }), closed);
}

/** Reads from a generator; unlike `Readable.from`, what is destroyed does not wait for what was asked for. */
class DownloadStream extends Readable {
  readonly #chunks: AsyncGenerator<Buffer>;
  readonly #closed: AbortController;
  #reading = false;

  constructor(chunks: AsyncGenerator<Buffer>, closed: AbortController) {
    super({ highWaterMark: 1 << 16 });
    this.#chunks = chunks;
    this.#closed = closed;
  }

  override _read(): void {
    if (this.#reading) return;
    this.#reading = true;
    this.#fill().catch((error: unknown) => this.destroy(error as Error));
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#closed.abort();
    const end = (): void => callback(error);
    this.#chunks.return(undefined).then(end, end);
  }

  async #fill(): Promise<void> {
    for (;;) {
      const { done, value } = (await this.#chunks.next()) as IteratorResult<Buffer, undefined>;
      if (done === true) {
        this.push(null);
        return;
      }
      if (!this.push(value)) break;
    }
    this.#reading = false;
  }
}

async function* download(
  endpoints: readonly Endpoint[],
  descriptor: Descriptor,
  options: DownloadOptions & { readonly signal: AbortSignal },
): AsyncGenerator<Buffer> {
  const { offset, signal, onFailure } = options;
  const hash = createHash('sha256');
  const progress = { received: offset };
  const served: Endpoint[] = [];
  for (const [position, endpoint] of endpoints.entries()) {
    served.push(endpoint);
    try {
      for await (const chunk of downloadFrom(endpoint, descriptor, progress, signal)) {
        hash.update(chunk);
        yield chunk;
      }
      break;
    } catch (error) {
      if (!(error instanceof KilnError) || signal.aborted) throw error;
      onFailure?.(endpoint, error);
      if (position === endpoints.length - 1) throw error;
    }
  }
  // Who asks for the rest only has the beginning, and checks the whole.
  if (offset > 0 || `sha256:${hash.digest('hex')}` === descriptor.digest) return;
  const label = served.map((endpoint) => endpoint.label(descriptor.digest)).join(', ');
  const error = corrupt(label, 'its content has another digest');
  for (const endpoint of served) onFailure?.(endpoint, error);
  throw error;
}

/** The bytes from `progress.received` on, from one endpoint, over as many connections as it takes. */
async function* downloadFrom(
  endpoint: Endpoint,
  descriptor: Descriptor,
  progress: { received: number },
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const { connection } = endpoint;
  const label = endpoint.label(descriptor.digest);
  using _place = await connection.downloads.acquire(endpoint.fullName, signal);
  using meter = new TransferMeter(connection.progress, 'pull', label, descriptor.size);
  let breaks = 0;
  let milestone = progress.received + progressBytes;
  do {
    try {
      const response = await request(
        endpoint,
        descriptor,
        { offset: progress.received, transfer: true },
        signal,
      );
      // A registry that ignores Range sends all; what is known is then passed over.
      let skip = response.status === 200 ? progress.received : 0;
      for await (const piece of response.body) {
        const bytes = piece as Buffer;
        const chunk = skip === 0 ? bytes : bytes.subarray(Math.min(skip, bytes.length));
        skip -= bytes.length - chunk.length;
        if (chunk.length === 0) continue;
        if (progress.received + chunk.length > descriptor.size)
          throw corrupt(label, 'it is longer than its descriptor says');
        await connection.throttle?.pass(chunk.length, signal);
        progress.received += chunk.length;
        meter.add(chunk.length);
        yield chunk;
      }
      if (progress.received < descriptor.size) throw new Error('the connection was closed early');
    } catch (error) {
      if (error instanceof KilnError || isAbortError(error) || signal.aborted) throw error;
      if (progress.received >= milestone) breaks = 0;
      milestone = progress.received + progressBytes;
      if (++breaks > maximumBreaks)
        throw new KilnError(`the download of ${label} broke off ${breaks} times: ${messageOf(error)}`, {
          code: 'E_REGISTRY_UNAVAILABLE',
          category: 'registry',
          cause: error,
          remedy: 'Try again; look at the network and at proxies between here and the registry.',
        });
      await wait(backoff(breaks - 1), signal);
    }
  } while (progress.received < descriptor.size);
}

/** A small blob whole, beside the places for transfers. See {@link ImageSource.readBlob}. */
export async function readBlob(
  endpoint: Endpoint,
  descriptor: Descriptor,
  limit: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const label = endpoint.label(descriptor.digest);
  if (descriptor.size > limit)
    throw new KilnError(`${label} is larger than ${limit} bytes`, {
      code: 'E_REGISTRY_REFUSED',
      category: 'registry',
    });
  const send = (): Promise<HttpResponse> =>
    request(endpoint, descriptor, { offset: 0, transfer: false }, signal);
  const { body } = await fetchDocument(send, limit, label, signal);
  if (body?.length === descriptor.size && digestOf(body) === descriptor.digest) return body;
  throw corrupt(label, 'its content has another digest');
}

function corrupt(label: string, why: string): KilnError {
  return new KilnError(`${label} is damaged: ${why}`, {
    code: 'E_BLOB_CORRUPT',
    category: 'registry',
    remedy: 'Try again; if it stays so, the registry or a proxy before it is faulty or hostile.',
  });
}

async function request(
  endpoint: Endpoint,
  descriptor: Descriptor,
  { offset, transfer }: { readonly offset: number; readonly transfer: boolean },
  signal: AbortSignal | undefined,
): Promise<HttpResponse> {
  const label = endpoint.label(descriptor.digest);
  const response = await endpoint.read({
    method: 'GET',
    path: `blobs/${descriptor.digest}`,
    headers: offset === 0 ? {} : { range: `bytes=${offset}-` },
    transfer,
    signal,
  });
  if (response.status === 404) {
    await response.body.dump();
    throw new KilnError(`${label} is not in the registry`, {
      code: 'E_BLOB_NOT_FOUND',
      category: 'registry',
      remedy: 'The image is incomplete there; push it again.',
    });
  }
  if (
    response.status === 206 &&
    !(headerOf(response, 'content-range') ?? '').startsWith(`bytes ${offset}-`)
  ) {
    await response.body.dump();
    throw new KilnError(`${label}: the registry answered with another range than asked for`, {
      code: 'E_REGISTRY_REFUSED',
      category: 'registry',
    });
  }
  if (response.status !== 200 && response.status !== 206) throw await errorFrom(response, `GET ${label}`);
  return response;
}
