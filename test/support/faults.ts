import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  request as ask,
  type ServerResponse,
} from 'node:http';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { bodyOf, listen, type TestServer } from './http.ts';

/** What goes wrong with one request. Numbers of bytes are of the body. */
export type Fault =
  /** The answer comes later. */
  | { readonly kind: 'delay'; readonly milliseconds: number }
  /** The proxy answers by itself; the registry never hears of it. */
  | {
      readonly kind: 'answer';
      readonly status: number;
      readonly headers?: Record<string, string>;
      readonly body?: string;
    }
  /** The connection is cut when so much of the request has arrived. */
  | { readonly kind: 'cut-request'; readonly after: number }
  /** The registry does what it was asked, but nobody hears its answer. */
  | { readonly kind: 'lose-answer' }
  /** The connection is cut when so much of the answer has been sent. */
  | { readonly kind: 'cut-answer'; readonly after: number }
  /** The answer is short, and says so itself. */
  | { readonly kind: 'truncate-answer'; readonly after: number }
  /** One byte of the answer is another. */
  | { readonly kind: 'alter-answer'; readonly at: number }
  /** The answer has its body twice. */
  | { readonly kind: 'repeat-answer' }
  /** One byte of the request is another. */
  | { readonly kind: 'alter-request'; readonly at: number }
  /** The registry gets the request twice, and the second answer is given. */
  | { readonly kind: 'repeat-request' }
  /** The digest header names another digest. */
  | { readonly kind: 'wrong-digest-header' }
  /** The content is somewhere else: on another port, which takes no credentials. */
  | { readonly kind: 'redirect' }
  /** The whole is answered where a part was asked for. */
  | { readonly kind: 'ignore-range' };

/** A request as the proxy sees it, before it does anything. */
export interface Exchange {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  /** From 1 on. */
  readonly count: number;
}

export interface FaultProxy extends TestServer {
  readonly exchanges: readonly (Exchange & { readonly fault: Fault | undefined })[];
  /** What arrived at the other port that redirects go to. */
  readonly elsewhere: readonly Exchange[];
}

export interface FaultProxyOptions {
  /**
   * Uploads that are cut keep what arrived and say so when they are asked, as the specification wants and as newer
   * registries do; `docker-registry` 2 forgets them.
   */
  readonly keepsCutUploads?: boolean;
}

const uploadPath = /\/blobs\/uploads\/([^/?]+)/;

/** A proxy before a registry that does to each request what `faultFor` says. */
export async function startFaultProxy(
  target: string,
  faultFor: (exchange: Exchange) => Fault | undefined,
  options: FaultProxyOptions = {},
): Promise<FaultProxy> {
  const exchanges: (Exchange & { fault: Fault | undefined })[] = [];
  const elsewhere: Exchange[] = [];
  /** Where uploads that were cut go on, by their identifier. */
  const cutUploads = new Map<string, string>();
  const storage = await listen(
    createServer((request, response) => {
      elsewhere.push(exchangeOf(request, elsewhere.length + 1));
      forward(target, request, response, undefined).catch(() => response.destroy());
    }),
  );
  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const exchange = exchangeOf(request, exchanges.length + 1);
    const fault = faultFor(exchange);
    exchanges.push({ ...exchange, fault });
    const upload = uploadPath.exec(exchange.path)?.[1];
    const goesOn = upload === undefined ? undefined : cutUploads.get(upload);
    if (goesOn !== undefined && request.method === 'GET') request.url = goesOn;
    if (fault?.kind === 'delay') await sleep(fault.milliseconds);
    if (fault?.kind === 'answer') {
      request.resume();
      response.writeHead(fault.status, fault.headers).end(fault.body);
    } else if (fault?.kind === 'redirect') {
      response.writeHead(307, { location: `http://${storage.host}${exchange.path}` }).end();
    } else if (fault?.kind === 'cut-request' && upload !== undefined && options.keepsCutUploads === true) {
      const location = await keepBeginning(target, request, fault.after);
      if (location !== undefined) cutUploads.set(upload, location);
      response.destroy();
    } else {
      const location = await forward(target, request, response, fault);
      if (upload !== undefined && location !== undefined && options.keepsCutUploads === true)
        cutUploads.set(upload, location);
    }
  };
  const server = await listen(
    createServer((request, response) => {
      handle(request, response).catch(() => response.destroy());
    }),
  );
  return {
    host: server.host,
    exchanges,
    elsewhere,
    [Symbol.asyncDispose]: async () => {
      await server[Symbol.asyncDispose]();
      await storage[Symbol.asyncDispose]();
    },
  };
}

function exchangeOf(request: IncomingMessage, count: number): Exchange {
  return { method: request.method ?? '', path: request.url ?? '', headers: request.headers, count };
}

/**
 * Passes a request on to the registry, which sees the host that the client used, and the answer back.
 *
 * @returns where an upload goes on whose answer was lost.
 */
async function forward(
  target: string,
  request: IncomingMessage,
  response: ServerResponse,
  fault: Fault | undefined,
): Promise<string | undefined> {
  const headers = { ...request.headers };
  if (fault?.kind === 'ignore-range') delete headers.range;
  if (fault?.kind === 'repeat-request') {
    const body = await bodyOf(request);
    await send(target, request.method, request.url, headers, body).then((answer) => bodyOf(answer));
    const second = await send(target, request.method, request.url, headers, body);
    await answerWith(request.method, second, response, fault);
    return undefined;
  }
  const outgoing = ask({ ...address(target), method: request.method, path: request.url, headers });
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('response', resolve);
    outgoing.once('error', reject);
  });
  const cut = fault?.kind === 'cut-request' ? cutAfter(fault.after) : undefined;
  const alter = fault?.kind === 'alter-request' ? alterAt(fault.at) : undefined;
  const sent = pipeline([request, ...[cut, alter].filter((stage) => stage !== undefined), outgoing]);
  // What is cut has no answer; then the client's connection ends with the rejection below.
  sent.catch(() => outgoing.destroy());
  const answer = await answered;
  if (fault?.kind === 'lose-answer') {
    await bodyOf(answer);
    response.destroy();
    return pathOf(answer.headers.location);
  }
  await answerWith(request.method, answer, response, fault);
  return undefined;
}

async function answerWith(
  method: string | undefined,
  answer: IncomingMessage,
  response: ServerResponse,
  fault: Fault | undefined,
): Promise<void> {
  const headers = { ...answer.headers };
  if (fault?.kind === 'wrong-digest-header' && headers['docker-content-digest'] !== undefined)
    headers['docker-content-digest'] = `sha256:${'0'.repeat(64)}`;
  const status = answer.statusCode ?? 502;
  if (fault?.kind === 'truncate-answer' || fault?.kind === 'repeat-answer') {
    const body = await bodyOf(answer);
    const sent = fault.kind === 'repeat-answer' ? Buffer.concat([body, body]) : body.subarray(0, fault.after);
    const without = method === 'HEAD' || status === 204;
    response.writeHead(status, { ...headers, ...(without ? {} : { 'content-length': sent.length }) });
    response.end(sent);
    return;
  }
  response.writeHead(status, headers);
  const cut = fault?.kind === 'cut-answer' ? cutAfter(fault.after) : undefined;
  const alter = fault?.kind === 'alter-answer' ? alterAt(fault.at) : undefined;
  await pipeline([answer, ...[cut, alter].filter((stage) => stage !== undefined), response]);
}

/** Sends the beginning of an upload to the registry, and ignores the rest. @returns where the upload goes on. */
async function keepBeginning(
  target: string,
  request: IncomingMessage,
  length: number,
): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let arrived = 0;
  for await (const chunk of request) {
    chunks.push(chunk as Buffer);
    arrived += (chunk as Buffer).length;
    if (arrived >= length) break;
  }
  const body = Buffer.concat(chunks).subarray(0, length);
  const start = Number(/^([0-9]+)-/.exec(request.headers['content-range'] ?? '')?.[1] ?? 0);
  const headers = {
    ...request.headers,
    'content-length': String(body.length),
    'content-range': `${start}-${start + body.length - 1}`,
  };
  const url = new URL(request.url ?? '', 'http://registry');
  url.searchParams.delete('digest');
  const answer = await send(target, 'PATCH', url.pathname + url.search, headers, body);
  await bodyOf(answer);
  return pathOf(answer.headers.location);
}

function pathOf(location: string | undefined): string | undefined {
  return location?.replace(/^https?:\/\/[^/]+/, '');
}

function send(
  target: string,
  method: string | undefined,
  path: string | undefined,
  headers: IncomingHttpHeaders,
  body: Buffer,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const outgoing = ask({ ...address(target), method, path, headers });
    outgoing.once('response', resolve);
    outgoing.once('error', reject);
    outgoing.end(body);
  });
}

function address(target: string): { host: string; port: string } {
  const [host = '', port = ''] = target.split(':');
  return { host, port };
}

/** Passes so many bytes on and then breaks off, after they had time to leave. */
function cutAfter(bytes: number): Transform {
  let left = bytes;
  return new Transform({
    transform(chunk: Buffer, _encoding, callback) {
      if (chunk.length < left) {
        left -= chunk.length;
        callback(undefined, chunk);
        return;
      }
      this.push(chunk.subarray(0, left));
      setTimeout(() => callback(new Error('cut')), 20);
    },
    flush(callback) {
      callback(new Error('cut'));
    },
  });
}

function alterAt(position: number): Transform {
  let passed = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, callback) {
      const at = position - passed;
      passed += chunk.length;
      if (at >= 0 && at < chunk.length) {
        const altered = Buffer.from(chunk);
        altered[at] = (altered[at] ?? 0) ^ 1;
        callback(undefined, altered);
      } else callback(undefined, chunk);
    },
  });
}
