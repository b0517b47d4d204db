import { type Descriptor, digestOf } from '../../oci/index.ts';
import { formatBytes, isAbortError, KilnError, messageOf } from '../../support/index.ts';
import type { Endpoint } from '../endpoint.ts';
import { RegistryError } from '../errors.ts';
import { errorFrom, headerOf } from '../http/message.ts';
import { backoff, maximumDelay, wait } from '../http/retry.ts';
import { TransferMeter } from './transfer-meter.ts';
import { type OpenBlob, UploadContent } from './upload-content.ts';
import {
  askSession,
  cancelUpload,
  finishUpload,
  mountOrStart,
  sendChunk,
  startUpload,
  type UploadBody,
  type UploadSession,
} from './upload-session.ts';

export type { OpenBlob } from './upload-content.ts';

export interface UploadOptions {
  /** Repositories of the same registry that may have the blob already, most likely first. */
  readonly mountFrom?: readonly string[];
  /** Nobody has seen that the descriptor's size is that of the blob, so what the registry has is asked for its size. */
  readonly checkSize?: boolean;
}

export type UploadOutcome = 'exists' | 'mounted' | 'uploaded';

const mebibyte = 1024 ** 2;
/** The chunks that are tried first where a blob does not pass whole, and the smallest. */
const firstChunk = 64 * mebibyte;
const smallestChunk = mebibyte;

/** See {@link Repository.uploadBlob}. */
export async function uploadBlob(
  endpoint: Endpoint,
  descriptor: Descriptor,
  open: OpenBlob,
  options: UploadOptions,
  signal?: AbortSignal,
): Promise<UploadOutcome> {
  const { checkSize = false } = options;
  if (await exists(endpoint, descriptor, signal, checkSize)) return 'exists';
  let session: UploadSession | undefined;
  for (const source of options.mountFrom ?? []) {
    const answer = await mountOrStart(endpoint, descriptor, source, signal);
    if (answer === 'mounted') {
      if (checkSize) await exists(endpoint, descriptor, signal, checkSize);
      return 'mounted';
    }
    session = answer ?? session;
  }
  using _place = await endpoint.connection.uploads.acquire(endpoint.fullName, signal);
  await using upload = new Upload(endpoint, descriptor, open, signal);
  await upload.run(session);
  return 'uploaded';
}

/** @throws KilnError `E_BLOB_CORRUPT` when it is to be checked and has another size; some registries do not tell. */
async function exists(
  endpoint: Endpoint,
  descriptor: Descriptor,
  signal: AbortSignal | undefined,
  checkSize = false,
): Promise<boolean> {
  const response = await endpoint.send({ method: 'HEAD', path: `blobs/${descriptor.digest}`, signal });
  await response.body.dump();
  if ([401, 403, 429].includes(response.status))
    throw await errorFrom(response, `push to ${endpoint.fullName}`, endpoint.pushHint);
  const size = headerOf(response, 'content-length');
  if (checkSize && response.status === 200 && size !== undefined && Number(size) !== descriptor.size)
    throw new KilnError(
      `${endpoint.label(descriptor.digest)} is not what a manifest says: the registry has ${size} bytes under it, not ${descriptor.size}`,
      { code: 'E_BLOB_CORRUPT', category: 'registry' },
    );
  return response.status === 200 || response.status === 307;
}

/**
 * One blob on its way up. It goes whole, in one request, which is fastest. What broke off goes on where the registry stands, if
 * it says so, and from the beginning otherwise; what does not pass whole goes in chunks.
 */
class Upload implements AsyncDisposable {
  readonly #endpoint: Endpoint;
  readonly #descriptor: Descriptor;
  readonly #signal: AbortSignal | undefined;
  readonly #content: UploadContent;
  readonly #meter: TransferMeter;
  #chunkSize: number | undefined;
  #session: UploadSession | undefined;

  constructor(endpoint: Endpoint, descriptor: Descriptor, open: OpenBlob, signal: AbortSignal | undefined) {
    const label = endpoint.label(descriptor.digest);
    this.#endpoint = endpoint;
    this.#descriptor = descriptor;
    this.#signal = signal;
    this.#chunkSize = endpoint.connection.chunkSize;
    this.#content = new UploadContent(descriptor, label, open, signal);
    this.#meter = new TransferMeter(endpoint.connection.progress, 'push', label, descriptor.size);
  }

  /** @param session one that has been begun already. */
  async run(session: UploadSession | undefined): Promise<void> {
    this.#session = session;
    let furthest = 0;
    for (let failures = 0; ; failures++) {
      try {
        await this.#send();
        return;
      } catch (error) {
        const cause = this.#content.failure ?? error;
        const offset = this.#session?.offset ?? 0;
        if (offset > furthest) failures = 0;
        furthest = Math.max(furthest, offset);
        if (!this.#mayGoOn(cause, failures)) {
          await this.#giveUp(cause);
          throw cause;
        }
        await this.#waitAfter(cause, failures);
        // The blob may have arrived, and only the answer been lost.
        if (await exists(this.#endpoint, this.#descriptor, this.#signal)) return;
        await this.#findPlace(cause);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#meter[Symbol.dispose]();
    await this.#content[Symbol.asyncDispose]();
  }

  async #send(): Promise<void> {
    const { size, digest } = this.#descriptor;
    this.#session ??= await startUpload(this.#endpoint, this.#signal);
    this.#meter.moveTo(this.#session.offset);
    if (size === 0 && digestOf('') !== digest) throw this.#content.wrong('it is empty');
    const whole = this.#session.offset === 0 && this.#chunkSize === undefined && size > 0;
    if (whole) {
      await finishUpload(this.#endpoint, this.#session, digest, this.#body(0, size), this.#signal);
      return;
    }
    while (this.#session.offset < size) {
      const { offset, minimumChunk } = this.#session;
      const end = Math.min(size, offset + Math.max(this.#chunkSize ?? size, minimumChunk));
      const next = await sendChunk(this.#endpoint, this.#session, this.#body(offset, end), this.#signal);
      if (next.offset <= offset || next.offset > end)
        throw new KilnError(`${this.#label}: the registry lost its place in the upload`, {
          code: 'E_REGISTRY_UNAVAILABLE',
          category: 'registry',
        });
      this.#session = next;
    }
    await finishUpload(this.#endpoint, this.#session, digest, undefined, this.#signal);
  }

  #body(start: number, end: number): UploadBody {
    return { size: end - start, open: () => this.#pieces(start, end) };
  }

  async *#pieces(start: number, end: number): AsyncGenerator<Uint8Array> {
    const { throttle } = this.#endpoint.connection;
    this.#meter.moveTo(start);
    for await (const piece of this.#content.slice(start, end)) {
      await throttle?.pass(piece.length, this.#signal);
      this.#meter.add(piece.length);
      yield piece;
    }
  }

  #mayGoOn(error: unknown, failures: number): boolean {
    if (isAbortError(error) || this.#signal?.aborted === true) return false;
    if (!(error instanceof KilnError) || error === this.#content.failure) return false;
    if (error instanceof RegistryError && error.status === 413) return this.#reduceChunks();
    if (failures >= this.#endpoint.connection.retries || retryAfterOf(error) > maximumDelay) return false;
    // What broke off twice without getting further may be more than something on the way lets through.
    if (failures === 1 && this.#chunkSize === undefined) this.#chunkSize = firstChunk;
    return isPassing(error, this.#session !== undefined);
  }

  /** @returns false when chunks cannot become smaller. */
  #reduceChunks(): boolean {
    const before = this.#chunkSize ?? Math.max(this.#descriptor.size, 2 * firstChunk);
    const smallest = Math.max(smallestChunk, this.#session?.minimumChunk ?? 0);
    if (before <= smallest) return false;
    this.#chunkSize = Math.max(smallest, Math.min(firstChunk, Math.floor(before / 2)));
    return true;
  }

  async #waitAfter(error: unknown, failures: number): Promise<void> {
    if (error instanceof RegistryError && error.status === 413) return;
    await wait(retryAfterOf(error) || backoff(failures), this.#signal);
  }

  /** Learns where to go on. */
  async #findPlace(cause: unknown): Promise<void> {
    const session = this.#session;
    const place = session === undefined ? undefined : await this.#ask(session);
    this.#session = place !== undefined && place.offset <= this.#descriptor.size ? place : undefined;
    const from = this.#session === undefined ? '' : ` from ${formatBytes(this.#session.offset)} on`;
    this.#endpoint.connection.progress?.warn(
      `the upload of ${this.#label} broke off (${messageOf(cause)}), trying again${from}`,
    );
  }

  async #ask(session: UploadSession): Promise<UploadSession | undefined> {
    try {
      return await askSession(this.#endpoint, session, this.#signal);
    } catch (error) {
      if (isAbortError(error) || !(error instanceof KilnError)) throw error;
      return undefined;
    }
  }

  async #giveUp(cause: unknown): Promise<void> {
    if (this.#session === undefined || isAbortError(cause) || this.#signal?.aborted === true) return;
    await cancelUpload(this.#endpoint, this.#session, this.#signal);
  }

  get #label(): string {
    return this.#endpoint.label(this.#descriptor.digest);
  }
}

function retryAfterOf(error: unknown): number {
  return error instanceof RegistryError ? (error.retryAfter ?? 0) : 0;
}

/**
 * Errors that another attempt may not meet: no answer, 5xx, 429; an upload that the registry forgot (404) or stands elsewhere
 * in (416); and a digest that it finds wrong, since ours is checked: then the content was damaged on its way.
 */
function isPassing(error: KilnError, begun: boolean): boolean {
  if (error.code === 'E_REGISTRY_UNAVAILABLE' || error.code === 'E_REGISTRY_RATE_LIMITED') return true;
  if (!(error instanceof RegistryError)) return false;
  const damaged = error.errors.some(({ code }) => code === 'DIGEST_INVALID' || code === 'SIZE_INVALID');
  return error.status === 408 || (begun && (damaged || error.status === 404 || error.status === 416));
}
