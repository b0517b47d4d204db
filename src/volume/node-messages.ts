import { formatPlatform, formatReference, isDigest, parsePlatform, parseReference } from '../oci/index.ts';
import { type ErrorCategory, KilnError, UsageError, isAbortError, messageOf } from '../support/index.ts';
import {
  type BuildAnnouncement,
  type BuildReport,
  type CacheHits,
  type EnsureMessage,
  type EnsureRequest,
  type ErrorDocument,
  type ImageName,
  type NodeStatus,
  maximumMessageSize,
} from './node-protocol.ts';

/*
 * Checks of everything that goes over the node's socket, for both ends. Documents are rebuilt from the members that are
 * known: what another version says besides is left out, and nothing of its own choosing gets further.
 */

/** Longest of what has to have an end, in characters or items. */
const limits = {
  reference: 600,
  platform: 64,
  label: 1000,
  location: 1000,
  images: 500,
  hits: 10_000,
  caches: 32,
  checks: 100,
};

/** Reads a member of a document. @throws UsageError that names `field`. */
type Reader<T> = (value: unknown, field: string) => T;

function malformed(field: string, expected: string): UsageError {
  return new UsageError(`${field} must be ${expected}`, { code: 'E_REQUEST_MALFORMED' });
}

function members(value: unknown, field: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>;
  throw malformed(field, 'an object');
}

function text(limit: number, pattern = /^/): Reader<string> {
  return (value, field) => {
    if (typeof value === 'string' && value.length <= limit && pattern.test(value)) return value;
    throw malformed(
      field,
      `a string of at most ${limit} characters${pattern.source === '^' ? '' : ` like ${pattern.source}`}`,
    );
  };
}

function list<T>(limit: number, item: Reader<T>): Reader<T[]> {
  return (value, field) => {
    if (!Array.isArray(value) || value.length > limit)
      throw malformed(field, `a list of at most ${limit} items`);
    return value.map((member: unknown, position) => item(member, `${field}[${position}]`));
  };
}

function oneOf<const T extends string>(...words: readonly T[]): Reader<T> {
  return (value, field) => {
    const found = words.find((word) => word === value);
    if (found === undefined) throw malformed(field, `one of ${words.join(', ')}`);
    return found;
  };
}

const amount: Reader<number> = (value, field) => {
  if (typeof value === 'number' && Number.isFinite(value) && value >= 0 && value <= Number.MAX_SAFE_INTEGER)
    return value;
  throw malformed(field, 'a number from 0 on');
};

const truth: Reader<boolean> = (value, field) => {
  if (typeof value === 'boolean') return value;
  throw malformed(field, 'true or false');
};

const base64 = text(maximumMessageSize, /^[A-Za-z0-9+/]*={0,2}$/);

const buildName = text(64, /^[A-Za-z0-9._-]+$/);

/** Text for people; what could move a cursor, break a line or turn the direction of writing becomes a space. */
const label: Reader<string> = (value, field) =>
  text(limits.label)(value, field).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, ' ');

function imageName(value: unknown, field: string): ImageName {
  const { reference, platform } = members(value, field);
  return {
    reference: formatReference(parseReference(text(limits.reference)(reference, `${field}.reference`))),
    platform: formatPlatform(parsePlatform(text(limits.platform)(platform, `${field}.platform`))),
  };
}

/**
 * Checks a request to make an image ready.
 *
 * @throws UsageError `E_REQUEST_MALFORMED` or `E_REFERENCE_INVALID`, as all functions here do.
 */
export function decodeEnsureRequest(value: unknown): EnsureRequest {
  const request = members(value, 'the request');
  return { ...imageName(value, 'the request'), build: buildName(request.build, 'build') };
}

/** Checks what a build says when it begins. */
export function decodeBuildAnnouncement(value: unknown): BuildAnnouncement {
  const build = members(value, 'the announcement');
  return {
    build: buildName(build.build, 'build'),
    label: label(build.label, 'label'),
    images: list(limits.images, imageName)(build.images, 'images'),
  };
}

/** Checks what a build says when it has ended. */
export function decodeBuildReport(value: unknown): BuildReport {
  const report = members(value, 'the report');
  const steps = members(report.steps, 'steps');
  const base: Reader<BuildReport['bases'][number]> = (item, field) => ({
    ...imageName(item, field),
    outcome: oneOf('warm', 'ensured', 'cold')(members(item, field).outcome, `${field}.outcome`),
  });
  return {
    build: buildName(report.build, 'build'),
    succeeded: truth(report.succeeded, 'succeeded'),
    seconds: amount(report.seconds, 'seconds'),
    bases: list(limits.images, base)(report.bases, 'bases'),
    steps: { cached: amount(steps.cached, 'steps.cached'), ran: amount(steps.ran, 'steps.ran') },
    ...(report.cache === undefined ? {} : { cache: decodeCache(report.cache, 'cache') }),
    ...(report.otherCaches === undefined
      ? {}
      : { otherCaches: list(limits.caches, decodeCache)(report.otherCaches, 'otherCaches') }),
  };
}

function decodeCache(value: unknown, field: string): CacheHits {
  const cache = members(value, field);
  const key = text(200, /^[A-Za-z0-9._:-]+$/);
  return {
    location: text(limits.location)(cache.location, `${field}.location`),
    hits: list(limits.hits, key)(cache.hits, `${field}.hits`),
  };
}

/** Checks one line of the answer to a request for an image. */
export function decodeEnsureMessage(value: unknown): EnsureMessage {
  const message = members(value, 'the message');
  const type = oneOf('image', 'progress', 'ready', 'error')(message.type, 'type');
  if (type === 'image') {
    const { manifest, config } = message;
    return { type, manifest: base64(manifest, 'manifest'), config: base64(config, 'config') };
  }
  if (type === 'progress')
    return { type, bytes: amount(message.bytes, 'bytes'), total: amount(message.total, 'total') };
  if (type === 'error') return { type, error: decodeError(message.error) };
  const { digest } = message;
  if (!isDigest(digest)) throw malformed('digest', 'sha256: and 64 hexadecimal digits');
  return { type, digest, outcome: oneOf('warm', 'pulled', 'joined')(message.outcome, 'outcome') };
}

/** Checks the part of a status that builds read. */
export function decodeNodeStatus(value: unknown): NodeStatus {
  const status = members(value, 'the status');
  const check: Reader<NodeStatus['checks'][number]> = (item, field) => {
    const { name, ok, detail } = members(item, field);
    return {
      name: label(name, `${field}.name`),
      ok: truth(ok, `${field}.ok`),
      detail: label(detail, `${field}.detail`),
    };
  };
  return { ready: truth(status.ready, 'ready'), checks: list(limits.checks, check)(status.checks, 'checks') };
}

/** Checks an error that the other end sent. */
export function decodeError(value: unknown): ErrorDocument {
  const error = members(value, 'error');
  const remedy = error.remedy === undefined ? undefined : text(2000)(error.remedy, 'error.remedy');
  return {
    code: text(64, /^E_[A-Z0-9_]+$/)(error.code, 'error.code') as ErrorDocument['code'],
    category: oneOf<ErrorCategory>(
      'build',
      'usage',
      'environment',
      'registry',
    )(error.category, 'error.category'),
    message: text(4000)(error.message, 'error.message'),
    ...(remedy === undefined ? {} : { remedy }),
  };
}

/** An error as it is told to the other end: its words, its place and its cause, without the stack. */
export function errorDocument(error: unknown): ErrorDocument {
  const message = firstLine(messageOf(error));
  if (!(error instanceof KilnError)) {
    const code = isAbortError(error) ? 'E_ABORTED' : 'E_WARMER_FAILED';
    return { code, category: 'environment', message };
  }
  const { code, category, remedy, where, cause } = error;
  const because = cause === undefined ? '' : firstLine(messageOf(cause));
  const place = where === undefined || message.includes(where) ? '' : `${where}: `;
  return {
    code,
    category,
    message: `${place}${message}${because === '' || message.includes(because) ? '' : `: ${because}`}`.slice(
      0,
      4000,
    ),
    ...(remedy === undefined ? {} : { remedy: remedy.slice(0, 2000) }),
  };
}

/** The error that {@link errorDocument} took apart. */
export function errorFromDocument({ code, category, message, remedy }: ErrorDocument): KilnError {
  return new KilnError(message, { code, category, remedy });
}

function firstLine(words: string): string {
  return words.split('\n', 1)[0]?.slice(0, 2000) ?? '';
}
