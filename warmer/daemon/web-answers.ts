import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import type { Context, MiddlewareHandler } from 'hono';

/** What is smaller goes out in one packet anyway. */
const compressedFrom = 1400;

/**
 * No other site may use what this server says, and nothing that an image, a registry or a build put into it can act in
 * a browser: only our own script and style are let in, and neither may be inline.
 */
export const securityHeaders: MiddlewareHandler = async (context, next) => {
  const policy = [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "form-action 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
  ];
  await next();
  context.header('content-security-policy', policy.join('; '));
  context.header('x-content-type-options', 'nosniff');
  context.header('referrer-policy', 'no-referrer');
  context.header('cross-origin-resource-policy', 'same-origin');
  context.header('cross-origin-opener-policy', 'same-origin');
};

/** Sends text with an ETag, compressed for clients that like it so; nothing but the ETag when they have it already. */
export async function respond(context: Context, text: string, mediaType: string): Promise<Response> {
  const etag = `W/"${createHash('sha256').update(text).digest('base64url').slice(0, 27)}"`;
  context.header('etag', etag);
  context.header('vary', 'accept-encoding');
  if (context.res.headers.get('cache-control') === null) context.header('cache-control', 'no-cache');
  if (namesTag(context.req.header('if-none-match'), etag)) return context.body(null, 304);
  context.header('content-type', mediaType);
  if (text.length < compressedFrom || !/\bgzip\b/.test(context.req.header('accept-encoding') ?? ''))
    return context.body(text);
  context.header('content-encoding', 'gzip');
  return context.body(new Uint8Array(await promisify(gzip)(text, { level: 5 })));
}

function namesTag(header: string | undefined, etag: string): boolean {
  const bare = (tag: string): string => tag.trim().replace(/^W\//, '');
  return header?.split(',').some((tag) => tag.trim() === '*' || bare(tag) === bare(etag)) === true;
}
