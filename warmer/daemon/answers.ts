import type { ServerResponse } from 'node:http';
import { type EnsureMessage, type ErrorDocument, streamMediaType } from '../../src/volume/index.ts';

/** Sends a whole document. */
export function sendJson(response: ServerResponse, status: number, document: unknown): void {
  const text = JSON.stringify(document);
  response
    .writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
    .end(text);
}

/** Refuses a request. The connection is closed, since the rest of what the client sends is not read. */
export function sendError(response: ServerResponse, status: number, error: ErrorDocument): void {
  response.setHeader('connection', 'close');
  if (status === 429 || status === 503) response.setHeader('retry-after', '1');
  sendJson(response, status, { error });
}

export interface MessageStreamOptions {
  /** Milliseconds that must lie between two messages of progress. */
  readonly progressInterval: number;
  /** Milliseconds after which the last progress is repeated as a sign of life; undefined: never. */
  readonly heartbeat: number | undefined;
}

/**
 * A streamed answer: one JSON object a line. It begins with the first message, or the first sign of life. A client that
 * does not read costs no memory: progress is left out for it.
 */
export class MessageStream implements Disposable {
  readonly #response: ServerResponse;
  readonly #interval: number;
  readonly #timers: NodeJS.Timeout[] = [];
  #progress = { bytes: 0, total: 0 };
  #told = -Infinity;

  constructor(response: ServerResponse, { progressInterval, heartbeat }: MessageStreamOptions) {
    this.#response = response;
    this.#interval = progressInterval;
    if (heartbeat === undefined) return;
    this.#timers.push(setInterval(() => this.#tell(), heartbeat));
    // The first one soon: it says that the request was taken.
    this.#timers.push(setTimeout(() => this.#tell(), Math.min(1000, heartbeat)));
  }

  get begun(): boolean {
    return this.#response.headersSent;
  }

  /** Sends the head of the answer. */
  begin(): void {
    if (this.begun || !this.#open) return;
    this.#response.writeHead(200, { 'content-type': streamMediaType, connection: 'close' });
    this.#response.flushHeaders();
  }

  send(message: EnsureMessage): void {
    this.begin();
    if (this.#open) this.#response.write(`${JSON.stringify(message)}\n`);
  }

  /** Tells how far it is, unless that was told a moment ago. */
  progress(bytes: number, total: number): void {
    this.#progress = { bytes, total };
    if (performance.now() - this.#told >= this.#interval) this.#tell();
  }

  /** No more signs of life. */
  rest(): void {
    for (const timer of this.#timers.splice(0)) clearTimeout(timer);
  }

  /** Ends the answer, if it has begun. */
  end(): void {
    this.rest();
    if (this.begun) this.#response.end();
  }

  [Symbol.dispose](): void {
    this.rest();
  }

  get #open(): boolean {
    return !this.#response.destroyed && !this.#response.writableEnded;
  }

  #tell(): void {
    this.#told = performance.now();
    if (!this.#response.writableNeedDrain) this.send({ type: 'progress', ...this.#progress });
  }
}
