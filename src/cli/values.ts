import { isOrdinaryUser, UsageError } from '../support/index.ts';

/** For options that may be given several times. */
export function collect(value: string, previous: readonly string[] = []): string[] {
  return [...previous, value];
}

/** `true` and `false` as kaniko's flags write them (`--cache=true`), and a bare flag for true. */
export function parseBoolean(value: string | boolean): boolean {
  if (typeof value === 'boolean') return value;
  if (/^(?:true|1|t)$/i.test(value)) return true;
  if (/^(?:false|0|f)$/i.test(value)) return false;
  throw new UsageError(`"${value}" is neither true nor false`, {});
}

/** A duration such as `336h`, `1h30m` or `90s`, in seconds. */
export function parseSeconds(text: string): number {
  const units: Readonly<Record<string, number>> = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86400 };
  if (!/^(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+$/.test(text))
    throw new UsageError(`"${text}" is not a duration`, { remedy: 'Write it as 336h, 90m or 30s.' });
  let seconds = 0;
  for (const [, number = '', unit = ''] of text.matchAll(/([0-9.]+)(ms|s|m|h|d)/g))
    seconds += Number(number) * (units[unit] ?? 0);
  return seconds;
}

/** Decimal and binary units of sizes; a bare letter is decimal, as registries and cloud bills count. */
const sizeUnits: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  t: 1e12,
  ki: 1024,
  mi: 1024 ** 2,
  gi: 1024 ** 3,
  ti: 1024 ** 4,
};

/** A size such as `512MB`, `1.5GiB` or `20G`, in bytes. */
export function parseSize(text: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)\s?(|[kmgt]i?)b?$/i.exec(text);
  const unit = sizeUnits[(match?.[2] ?? '').toLowerCase()];
  const bytes = Math.round(Number(match?.[1]) * (unit ?? 1));
  if (match === null || unit === undefined || !Number.isSafeInteger(bytes))
    throw new UsageError(`"${text}" is not a size`, { remedy: 'Write it as 512MB, 1.5GiB or 20G.' });
  return bytes;
}

/** A size, or a part of a whole that is only known later. */
export type SizeOrShare = { readonly bytes: number } | { readonly share: number };

/** A size as {@link parseSize} reads it, or a percentage such as `10%`. */
export function parseSizeOrShare(text: string): SizeOrShare {
  const percent = /^([0-9]+(?:\.[0-9]+)?)%$/.exec(text)?.[1];
  if (percent === undefined) return { bytes: parseSize(text) };
  if (Number(percent) > 100) throw new UsageError(`"${text}" is more than the whole`, {});
  return { share: Number(percent) / 100 };
}

/** Bytes a second: a size, with or without `/s`. */
export function parseRate(text: string): number {
  const rate = parseSize(text.replace(/\/s$/, ''));
  if (rate === 0) throw new UsageError(`"${text}" would move nothing`, { remedy: 'Write it as 20MB/s.' });
  return rate;
}

/** `name=value` pairs; a name alone takes its value from the environment, as Docker's `--build-arg` does. */
export function parsePairs(entries: readonly string[], flag: string): Map<string, string> {
  const pairs = new Map<string, string>();
  for (const entry of entries) {
    const equals = entry.indexOf('=');
    const name = equals < 0 ? entry : entry.slice(0, equals);
    if (name === '')
      throw new UsageError(`--${flag} ${entry} has no name`, { remedy: `Write --${flag} name=value.` });
    const value = equals < 0 ? process.env[name] : entry.slice(equals + 1);
    if (value !== undefined) pairs.set(name, value);
  }
  return pairs;
}

/**
 * Where the cache volume is when nothing is said: kaniko's `/cache` where there is one, otherwise the user's own cache.
 * What root has unpacked has owners that an ordinary user's builds cannot have, so for them it is always their own.
 */
export function defaultCacheDirectory(exists: (path: string) => boolean): string {
  if (!isOrdinaryUser() && exists('/cache')) return '/cache';
  const base = process.env.XDG_CACHE_HOME ?? `${process.env.HOME ?? '/root'}/.cache`;
  return `${base}/kiln`;
}
