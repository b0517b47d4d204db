import type { BuildReport } from '../../src/volume/index.ts';
import type { HitRateSample, PullRecord } from './types.ts';

const keptPulls = 100;
/** Five minutes a sample, two days of them. */
const sampleMilliseconds = 300_000;
const keptSamples = 576;

/** A sample as it is kept on the volume; `at` in milliseconds since 1970. */
export interface StoredSample {
  readonly at: number;
  readonly hits: number;
  readonly misses: number;
}

/** What has happened lately: pulls, and whether builds found their bases warm. Both are bounded. */
export class History {
  readonly #pulls: PullRecord[] = [];
  readonly #samples: { at: number; hits: number; misses: number }[];

  constructor(samples: readonly StoredSample[] = []) {
    this.#samples = samples.slice(-keptSamples).map((sample) => ({ ...sample }));
  }

  /** Newest first; those that only found everything as it should be are left out. */
  get pulls(): readonly PullRecord[] {
    return this.#pulls;
  }

  get samples(): readonly StoredSample[] {
    return this.#samples;
  }

  hitRate(): HitRateSample[] {
    return this.#samples.map(({ at, hits, misses }) => ({ at: new Date(at), hits, misses }));
  }

  addPull(record: PullRecord): void {
    if (record.outcome === 'fresh') return;
    this.#pulls.unshift(record);
    this.#pulls.length = Math.min(this.#pulls.length, keptPulls);
  }

  /** Counts the bases of a build: what was on the volume already is a hit. */
  addReport(report: BuildReport, now: number): void {
    const hits = report.bases.filter(({ outcome }) => outcome === 'warm').length;
    const misses = report.bases.length - hits;
    if (hits + misses === 0) return;
    const at = Math.floor(now / sampleMilliseconds) * sampleMilliseconds;
    const last = this.#samples.at(-1);
    if (last?.at === at) {
      last.hits += hits;
      last.misses += misses;
      return;
    }
    this.#samples.push({ at, hits, misses });
    if (this.#samples.length > keptSamples) this.#samples.shift();
  }
}
