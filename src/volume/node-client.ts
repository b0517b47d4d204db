import type { ClientRequest, IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Digest, decodeConfig, decodeManifest, digestOf } from '../oci/index.ts';
import { EnvironmentError, KilnError, messageOf, systemErrorCode } from '../support/index.ts';
import { decodeEnsureMessage, decodeError, decodeNodeStatus, errorFromDocument } from './node-messages.ts';
import {
  type BuildAnnouncement,
  type BuildReport,
  type EnsureMessage,
  type EnsureRequest,
  type NodeStatus,
  maximumMessageSize,
  nodeSocketName,
} from './node-protocol.ts';

/** How long the client waits for what, in milliseconds. */
export interface NodeClientTimeouts {
  /** For a connection, and then for the beginning of an answer. */
  readonly answer: number;
  /** Between two signs of life in a streamed answer. */
  readonly silence: number;
  /** With signs of life, but without a byte more. */
  readonly standstill: number;
  /** For a report, which a build makes when it is done. */
  readonly report: number;
}

const defaultTimeouts: NodeClientTimeouts = {
  answer: 5000,
  silence: 20_000,
  standstill: 300_000,
  report: 300,
};

/** That nobody answers at the socket is no error: a node need not have a warmer. */
export interface Absent {
  readonly outcome: 'absent';
  /** Why, for people. */
  readonly detail: string;
}

/** An image that the warmer holds on the volume until this is disposed, or the process ends. */
export interface NodeImage extends Disposable {
  readonly outcome: 'warm' | 'pulled' | 'joined';
  /** Of the manifest. */
  readonly digest: Digest;
}

/** Documents of an image whose layers are still on their way; decoded, and checked against each other. */
export interface AnnouncedImage {
  readonly digest: Digest;
  readonly manifest: ReturnType<typeof decodeManifest>;
  readonly config: ReturnType<typeof decodeConfig>;
}

export interface EnsureOptions {
  /** Bytes of layers that were fetched, and of all that are fetched. */
  readonly onProgress?: (bytes: number, total: number) => void;
  /** Called at most once, before the layers are there. */
  readonly onImage?: (image: AnnouncedImage) => void;
  readonly signal?: AbortSignal;
}

/**
 * Speaks to the node's warmer over the socket on the volume (docs/node-socket.md). Each request has a connection of its
 * own. Nothing that arrives is believed unchecked, and no answer is waited for longer than its limit. Node's own HTTP
 * client does: it is loaded in a fraction of the time that undici takes, and a build that is warm should notice neither.
 */
export class NodeClient {
  readonly path: string;
  readonly #timeouts: NodeClientTimeouts;

  /** @param directory the volume. */
  constructor(directory: string, timeouts: Partial<NodeClientTimeouts> = {}) {
    this.path = join(directory, nodeSocketName);
    this.#timeouts = { ...defaultTimeouts, ...timeouts };
  }

  /**
   * Asks for an image to be made ready, and waits until it is.
   *
   * @throws KilnError: what the warmer says (`E_NOT_ALLOWED`, errors of the registry and the volume), `E_WARMER_BUSY`,
   * `E_WARMER_UNRESPONSIVE` when it falls silent or nothing moves, `E_WARMER_MISBEHAVED` for an answer that makes no
   * sense; the signal's reason.
   */
  async ensure(request: EnsureRequest, options: EnsureOptions = {}): Promise<NodeImage | Absent> {
    const { signal } = options;
    const exchange = await this.#open('POST', '/v1/ensure', request, signal);
    if ('outcome' in exchange) return exchange;
    try {
      await requireStatus(exchange.response, 200);
      const ready = await this.#followEnsure(exchange, options);
      const { outcome, digest } = ready;
      return { outcome, digest, [Symbol.dispose]: () => exchange[Symbol.dispose]() };
    } catch (error) {
      exchange[Symbol.dispose]();
      signal?.throwIfAborted();
      throw explain(error);
    }
  }

  /**
   * Says in the background that a build has begun, until this is disposed. Whatever goes wrong is of no concern to the
   * build, nor does the connection keep the process alive.
   */
  announce(build: BuildAnnouncement): Disposable {
    const controller = new AbortController();
    this.#open('POST', '/v1/builds', build, controller.signal).then(
      (exchange) => {
        if ('outcome' in exchange) return;
        exchange.response.resume();
        exchange.response.socket.unref();
      },
      () => undefined,
    );
    return { [Symbol.dispose]: () => controller.abort() };
  }

  /** Says that a build has ended. @returns false when the warmer could not be told within its time; never throws. */
  async report(report: BuildReport): Promise<boolean> {
    try {
      const exchange = await this.#open(
        'POST',
        '/v1/report',
        report,
        AbortSignal.timeout(this.#timeouts.report),
      );
      if ('outcome' in exchange) return false;
      using _exchange = exchange;
      return exchange.response.statusCode === 202;
    } catch {
      return false;
    }
  }

  /** What the warmer says of itself. @throws KilnError as {@link NodeClient.ensure}. */
  async status(signal?: AbortSignal): Promise<NodeStatus | Absent> {
    const exchange = await this.#open('GET', '/v1/status', undefined, signal);
    if ('outcome' in exchange) return exchange;
    using _exchange = exchange;
    try {
      await requireStatus(exchange.response, 200);
      const text = await readAll(exchange.response, statusLimit);
      return checked(() => decodeNodeStatus(parse(text)));
    } catch (error) {
      signal?.throwIfAborted();
      throw explain(error);
    }
  }

  /** Sends a request and waits for the head of its answer. */
  async #open(
    method: string,
    path: string,
    body: object | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Exchange | Absent> {
    const { request: start } = await import('node:http');
    const text = body === undefined ? '' : JSON.stringify(body);
    const until = performance.now() + this.#timeouts.answer;
    for (;;) {
      signal?.throwIfAborted();
      const request = start({
        socketPath: this.path,
        method,
        path,
        agent: false,
        headers: {
          host: 'warmer',
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          'content-length': Buffer.byteLength(text),
        },
      });
      const stop = (): void => void request.destroy();
      signal?.addEventListener('abort', stop, { once: true });
      const close = (): void => {
        signal?.removeEventListener('abort', stop);
        request.destroy();
      };
      try {
        request.on('error', () => undefined).end(text);
        const response = await answerTo(request, until - performance.now());
        // What comes after the part that somebody reads must not end the process.
        response.on('error', () => undefined);
        return { response, [Symbol.dispose]: close };
      } catch (error) {
        close();
        signal?.throwIfAborted();
        const code = systemErrorCode(error) ?? '';
        if (absentCodes.has(code)) return { outcome: 'absent', detail: absence(code, this.path) };
        // So many connect at once that the queue of the socket is full.
        if (code !== 'EAGAIN' || performance.now() > until) throw explain(error);
        await delay(20 + Math.random() * 80, undefined, signal === undefined ? {} : { signal });
      }
    }
  }

  async #followEnsure(
    { response }: Exchange,
    { onProgress, onImage }: EnsureOptions,
  ): Promise<Extract<EnsureMessage, { type: 'ready' }>> {
    const { silence, standstill } = this.#timeouts;
    using silent = new Watch(silence, response, `said nothing for ${silence / 1000} s`);
    using still = new Watch(standstill, response, `fetched nothing for ${standstill / 1000} s`);
    let bytes = -1;
    for await (const line of linesOf(response)) {
      silent.reset();
      const message = checked(() => decodeEnsureMessage(parse(line)));
      if (message.type === 'error') throw errorFromDocument(message.error);
      if (message.type === 'ready') return message;
      if (message.type === 'image') onImage?.(checked(() => decodeImage(message)));
      else {
        if (message.bytes !== bytes) still.reset();
        ({ bytes } = message);
        onProgress?.(message.bytes, message.total);
      }
    }
    throw misbehaved('its answer broke off');
  }
}

/** A request under way whose answer has begun. Disposing it closes the connection. */
interface Exchange extends Disposable {
  readonly response: IncomingMessage;
}

/** Largest status document that is read; a node has thousands of images at most. */
const statusLimit = 16 * 1024 * 1024;
const errorLimit = 64 * 1024;

const absentCodes = new Set([
  'ENOENT',
  'ECONNREFUSED',
  'ENOTDIR',
  'ENOTSOCK',
  'EACCES',
  'EPERM',
  'ENAMETOOLONG',
  'EINVAL',
]);

function absence(code: string, path: string): string {
  if (code === 'ENOENT' || code === 'ENOTDIR') return `there is no socket ${path}`;
  if (code === 'ECONNREFUSED') return `nobody listens at ${path}`;
  return `${path} cannot be used (${code})`;
}

function answerTo(request: ClientRequest, milliseconds: number): Promise<IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const timer = setTimeout(
    () => request.destroy(unresponsive(`did not answer within ${Math.round(milliseconds / 100) / 10} s`)),
    Math.max(0, milliseconds),
  );
  request.once('response', resolve).once('error', reject);
  return promise.finally(() => clearTimeout(timer));
}

/** Ends an answer in which nothing happens for too long. */
class Watch implements Disposable {
  readonly #timer: NodeJS.Timeout;

  constructor(milliseconds: number, response: IncomingMessage, what: string) {
    this.#timer = setTimeout(() => response.destroy(unresponsive(what)), milliseconds);
  }

  reset(): void {
    this.#timer.refresh();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

async function requireStatus(response: IncomingMessage, wanted: number): Promise<void> {
  if (response.statusCode === wanted) return;
  const text = await readAll(response, errorLimit);
  const document = checked(() => decodeError((parse(text) as { error?: unknown } | null)?.error));
  const error = errorFromDocument(document);
  throw response.statusCode === 429
    ? new EnvironmentError(error.message, { code: 'E_WARMER_BUSY', cause: error })
    : error;
}

async function readAll(response: IncomingMessage, limit: number): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of response) {
    length += (chunk as Buffer).length;
    if (length > limit) throw misbehaved('its answer is too long');
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** The lines of a streamed answer. Stopping early leaves the connection open, since leases hang on it. */
async function* linesOf(response: IncomingMessage): AsyncGenerator<string> {
  let parts: Buffer[] = [];
  let length = 0;
  for await (const chunk of response.iterator({ destroyOnReturn: false })) {
    let rest = chunk as Buffer;
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      yield Buffer.concat([...parts, rest.subarray(0, end)]).toString('utf8');
      parts = [];
      length = 0;
      rest = rest.subarray(end + 1);
    }
    length += rest.length;
    if (length > maximumMessageSize) throw misbehaved('a line of its answer is too long');
    if (rest.length > 0) parts.push(rest);
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw misbehaved('its answer is not JSON', cause);
  }
}

function decodeImage(message: Extract<EnsureMessage, { type: 'image' }>): AnnouncedImage {
  const manifestBytes = Buffer.from(message.manifest, 'base64');
  const configBytes = Buffer.from(message.config, 'base64');
  const manifest = decodeManifest(manifestBytes);
  const config = decodeConfig(configBytes);
  if (digestOf(configBytes) !== manifest.config.digest)
    throw misbehaved('the configuration it sent is not that of the manifest');
  if (config.rootfs.diff_ids.length !== manifest.layers.length)
    throw misbehaved('manifest and configuration that it sent differ in their layers');
  return { digest: digestOf(manifestBytes), manifest, config };
}

/** What `decode` finds wrong is the warmer's fault. */
function checked<T>(decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    throw error instanceof EnvironmentError ? error : misbehaved(messageOf(error), error);
  }
}

function misbehaved(what: string, cause?: unknown): EnvironmentError {
  return new EnvironmentError(`the node's warmer cannot be understood: ${what}`, {
    code: 'E_WARMER_MISBEHAVED',
    cause,
  });
}

function unresponsive(what: string): EnvironmentError {
  return new EnvironmentError(`the node's warmer ${what}`, { code: 'E_WARMER_UNRESPONSIVE' });
}

/** What goes wrong below HTTP, as errors that say whose fault it is. */
function explain(error: unknown): unknown {
  if (error instanceof KilnError) return error;
  const code = systemErrorCode(error) ?? '';
  if (code === 'EAGAIN')
    return new EnvironmentError("the node's warmer is busy", { code: 'E_WARMER_BUSY', cause: error });
  if (code.startsWith('HPE_')) return misbehaved('its answer is not HTTP', error);
  if (code === 'ECONNRESET' || code === 'EPIPE' || code === 'ERR_STREAM_PREMATURE_CLOSE')
    return misbehaved('its answer broke off', error);
  return misbehaved(messageOf(error), error);
}
