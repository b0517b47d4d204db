import { Cron } from 'croner';
import { parseSeconds, parseSize, parseSizeOrShare } from '../../src/cli/index.ts';
import { parsePlatform, parseReference, parseReferencePattern } from '../../src/oci/index.ts';
import { parseMirror } from '../../src/registry/index.ts';
import { UsageError } from '../../src/support/index.ts';
import { parseListenAddress } from './listen-address.ts';

/** When tags are asked about again. */
export type RefreshRule =
  | { readonly kind: 'interval'; readonly seconds: number }
  | { readonly kind: 'cron'; readonly expression: string; readonly timeZone: string }
  | { readonly kind: 'never' };

/** Reads `15m` or `never`. @throws UsageError. */
export function parseInterval(text: string): RefreshRule {
  if (text === 'never') return { kind: 'never' };
  const seconds = parseDuration(text);
  if (seconds < 1)
    throw new UsageError(`"${text}" is too short`, { remedy: 'Ask at most once a second: 1s, 15m, never.' });
  return { kind: 'interval', seconds };
}

/** Reads a duration in seconds, at most a hundred years. @throws UsageError. */
export function parseDuration(text: string): number {
  const seconds = parseSeconds(text);
  if (seconds > 100 * 366 * 86_400) throw new UsageError(`"${text}" is too long`, {});
  return seconds;
}

/** Checks a cron expression. @throws UsageError. */
export function parseCron(text: string): string {
  try {
    if (new Cron(text, { paused: true, mode: '5-part' }).nextRun() !== null) return text;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.replace(/^CronPattern: /, '') : String(cause);
    throw new UsageError(`"${text}" is not a cron expression: ${why}`, {
      remedy: 'Write minute, hour, day of month, month and day of week, such as "0 3 * * *".',
      cause,
    });
  }
  throw new UsageError(`"${text}" never comes`, { remedy: 'Choose a day that exists.' });
}

/** A percentage as a part of one. @throws UsageError. */
export function parseShare(text: string): number {
  const parsed = parseSizeOrShare(text);
  if ('share' in parsed) return parsed.share;
  throw new UsageError(`"${text}" is not a percentage`, { remedy: 'Write it as 80%.' });
}

/** A registry's host as in references. @throws UsageError. */
export function parseHost(text: string): string {
  try {
    const host = text.includes('/') ? undefined : parseReference(`${text}/name`).registry;
    // A bare word would be the first component of a repository of Docker Hub.
    if (host !== undefined && (host === text || text === 'index.docker.io')) return host;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
  }
  throw new UsageError(`"${text}" is not the host of a registry`, {
    remedy: 'Write it as in references, such as registry.example or localhost:5000, without https://.',
  });
}

function parseRepository(text: string): string {
  const { digest } = parseReference(text);
  if (digest !== undefined || /:[^/]*$/.test(text))
    throw new UsageError(`"${text}" has a tag or digest`, { remedy: 'Name the repository alone.' });
  return text;
}

function parsePath(text: string): string {
  if (text === '' || text.includes('\0')) throw new UsageError('the path is empty', {});
  return text;
}

function parseTimeZone(text: string): string {
  try {
    return new Intl.DateTimeFormat('en', { timeZone: text }).resolvedOptions().timeZone;
  } catch (cause) {
    throw new UsageError(`"${text}" is not a time zone`, {
      remedy: 'Write it as Europe/Berlin or UTC.',
      cause,
    });
  }
}

/** What reads the strings of each format of the schema; each throws a UsageError for what it cannot read. */
export const formats: Readonly<Record<string, (text: string) => unknown>> = {
  duration: parseDuration,
  interval: parseInterval,
  cron: parseCron,
  'time-zone': parseTimeZone,
  size: parseSize,
  'size-or-share': parseSizeOrShare,
  share: parseShare,
  reference: parseReference,
  'reference-pattern': parseReferencePattern,
  repository: parseRepository,
  platform: parsePlatform,
  host: parseHost,
  mirror: parseMirror,
  path: parsePath,
  address: parseListenAddress,
};
