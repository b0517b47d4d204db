import type { IncomingMessage, ServerResponse } from 'node:http';

/** How an object is served, and what goes wrong with it. */
export interface ServedObject {
  content: Buffer;
  /** A strong ETag; undefined: none. */
  etag?: string;
  /** Whether parts of it are given. Default true. */
  ranges?: boolean;
  /** Answers that are cut after so many bytes each; the later ones are whole. */
  cuts?: number[];
}

/** Answers a GET for an object, or for the rest of it, as RFC 9110 says; and breaks off where it is told to. */
export function answerObject(
  object: ServedObject,
  request: IncomingMessage,
  response: ServerResponse,
  headers: Readonly<Record<string, string>> = {},
): void {
  const { content, etag, ranges = true, cuts = [] } = object;
  const { range = '', 'if-range': ifRange, 'if-match': ifMatch } = request.headers;
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  if (etag !== undefined) response.setHeader('etag', etag);
  if (ifMatch !== undefined && ifMatch !== etag) return void response.writeHead(412).end();
  const start = Number(/^bytes=([0-9]+)-/.exec(range)?.[1] ?? Number.NaN);
  const isPart = ranges && !Number.isNaN(start) && (ifRange === undefined || ifRange === etag);
  if (isPart && start >= content.length) return void response.writeHead(416).end();
  const body = isPart ? content.subarray(start) : content;
  if (isPart) response.setHeader('content-range', `bytes ${start}-${content.length - 1}/${content.length}`);
  response.writeHead(isPart ? 206 : 200, { 'content-length': body.length });
  const cut = cuts.shift();
  if (cut === undefined) response.end(body);
  else response.write(body.subarray(0, cut), () => void setTimeout(() => response.destroy(), 50));
}
