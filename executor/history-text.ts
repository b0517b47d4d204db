import type { HealthConfig } from '../src/oci/index.ts';

/*
 * What `created_by` of a history entry says, to the letter as BuildKit writes it: scanners and `docker history` read these
 * texts. Some are Go's own formats of lists and structures.
 */

/** Go's `%q` of a list of texts: `["a" "b"]`. */
export function quotedList(words: readonly string[]): string {
  return `[${words.map(quoted).join(' ')}]`;
}

/** Go's `%v` of a list of texts: `[a b]`. */
export function plainList(words: readonly string[]): string {
  return `[${words.join(' ')}]`;
}

/** Go's strconv.Quote, of what differs from JSON: control characters as `\x1b`, and DEL. */
function quoted(text: string): string {
  return JSON.stringify(text).replace(/\\u00([01][0-9a-f])|\x7f/g, (whole, hex: string | undefined) =>
    hex === undefined ? '\\x7f' : (shortEscapes[hex] ?? `\\x${hex}`),
  );
}

const shortEscapes: Readonly<Record<string, string>> = { '07': '\\a', '0b': '\\v' };

/** The arguments that a RUN saw, and its command: `|1 VERSION=2 /bin/sh -c make`. */
export function runText(
  argv: readonly string[],
  declared: Iterable<readonly [string, string | undefined]>,
  valueOf: (name: string) => string | undefined,
): string {
  const pairs = [...declared].map(([name, value]) => `${name}=${valueOf(name) ?? value ?? ''}`);
  return [...(pairs.length === 0 ? [] : [`|${pairs.length}`, ...pairs]), ...argv].join(' ');
}

/** A health check, as Go's `%+v` writes the structure. */
export function healthText(health: HealthConfig): string {
  const { Test = [], Interval = 0, Timeout = 0, StartPeriod = 0, StartInterval = 0, Retries = 0 } = health;
  return (
    `{Test:${plainList(Test)} Interval:${durationText(Interval)} Timeout:${durationText(Timeout)} ` +
    `StartPeriod:${durationText(StartPeriod)} StartInterval:${durationText(StartInterval)} Retries:${Retries}}`
  );
}

/** A duration in nanoseconds as Go writes it: `1m30s`, `1.5s`, `500ms`, `0s`. */
export function durationText(nanoseconds: number): string {
  if (nanoseconds === 0) return '0s';
  for (const [unit, size] of [
    ['ns', 1],
    ['µs', 1e3],
    ['ms', 1e6],
  ] as const)
    if (nanoseconds < size * 1000) return `${trimmed(nanoseconds / size)}${unit}`;
  const hours = Math.floor(nanoseconds / 3600e9);
  const minutes = Math.floor((nanoseconds % 3600e9) / 60e9);
  const seconds = trimmed((nanoseconds % 60e9) / 1e9);
  if (hours > 0) return `${hours}h${minutes}m${seconds}s`;
  return minutes > 0 ? `${minutes}m${seconds}s` : `${seconds}s`;
}

function trimmed(value: number): string {
  return String(Number(value.toFixed(9)));
}
