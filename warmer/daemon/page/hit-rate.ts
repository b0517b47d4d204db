import type { HitRateSample } from '../types.ts';

const minute = 60_000;
const day = 1440 * minute;
/** What a column of the plot may stand for. */
const steps = [5, 10, 15, 30, 60, 120, 240, 480, 720].map((minutes) => minutes * minute);
const mostColumns = 60;
/** A plot of less time than this says nothing about time. */
const fewestColumns = 12;

/** What builds asked for in one stretch of time. */
export interface Column {
  readonly from: Date;
  readonly hits: number;
  readonly misses: number;
}

/** The time from the first sample until now, cut in stretches of the same length. */
export interface Columns {
  /** Milliseconds that each stands for. */
  readonly step: number;
  /** Without a gap: nothing was asked for where hits and misses are 0. The last one is now. */
  readonly columns: readonly Column[];
}

/**
 * Adds samples up to columns, few enough to be told apart on a phone. Samples are there only for times in which builds
 * ended, so times without any become columns of their own here.
 */
export function columnsOf(samples: readonly HitRateSample[], now: Date): Columns {
  const last = Math.max(now.getTime(), samples.at(-1)?.at.getTime() ?? 0);
  const first = Math.min(samples[0]?.at.getTime() ?? last, last);
  const span = last - first;
  const step =
    steps.find((length) => span / length <= mostColumns - 1) ??
    Math.ceil(span / (mostColumns - 1) / day) * day;
  const end = Math.floor(last / step);
  const begin = Math.min(Math.floor(first / step), end - fewestColumns + 1);
  const columns = Array.from({ length: end - begin + 1 }, (_, index) => ({
    ...{ from: new Date((begin + index) * step), hits: 0, misses: 0 },
  }));
  for (const { at, hits, misses } of samples) {
    const column = columns[Math.floor(at.getTime() / step) - begin];
    if (column === undefined) continue;
    column.hits += hits;
    column.misses += misses;
  }
  return { step, columns };
}

/** Hits among what was asked for in all samples together. */
export function overallRate(samples: readonly Pick<HitRateSample, 'hits' | 'misses'>[]): {
  readonly hits: number;
  readonly all: number;
} {
  return samples.reduce((sum, sample) => ({ hits: sum.hits + sample.hits, all: sum.all + asked(sample) }), {
    hits: 0,
    all: 0,
  });
}

/** Base images that builds asked for. */
export function asked({ hits, misses }: Pick<HitRateSample, 'hits' | 'misses'>): number {
  return hits + misses;
}
