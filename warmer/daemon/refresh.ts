import { Cron } from 'croner';
import type { RefreshRule } from './configuration-formats.ts';

/** A number from 0 up to 1, as `Math.random` gives it. */
export type Random = () => number;

/** Part of an interval that refreshes are moved by, so that the nodes of a cluster do not ask all at once. */
const jitter = 0.1;
/** Milliseconds that refreshes by cron are late, at most, for the same reason. */
const cronJitter = 60_000;

/** When a tag is to be asked about after `from` (milliseconds since 1970); undefined for never. */
export function nextRefresh(rule: RefreshRule, from: number, random: Random): number | undefined {
  switch (rule.kind) {
    case 'never':
      return undefined;
    case 'interval':
      return from + rule.seconds * 1000 * (1 - jitter + 2 * jitter * random());
    case 'cron': {
      const cron = new Cron(rule.expression, { paused: true, timezone: rule.timeZone });
      const next = cron.nextRun(new Date(from))?.getTime();
      return next === undefined ? undefined : next + cronJitter * random();
    }
  }
}

/** Milliseconds to wait after so many failures in a row: doubling, and spread by half either way. */
export function backoff(failures: number, first: number, longest: number, random: Random): number {
  return Math.min(longest, first * 2 ** Math.min(failures - 1, 30)) * (0.5 + random());
}
