import { systemErrorCode } from '../../src/support/index.ts';
import type { Clock } from './clock.ts';
import type { Flight, FlightEnd } from './flight.ts';
import { keyOf } from './image-key.ts';
import { remedyOf, wordsOf } from './pull-outcome.ts';
import type { Puller } from './puller.ts';
import { backoff, nextRefresh, type Random } from './refresh.ts';
import type { RegistryGates } from './registry-gates.ts';
import type { PullRecord, WarmingImage } from './types.ts';
import type { Wish, Wishes } from './wishes.ts';

/** An image that is kept warm, and when something is to be done about it. Times in milliseconds since 1970. */
export interface ScheduledImage {
  readonly wish: Wish;
  /** Undefined: nothing is to be done, or it is being done. */
  readonly dueAt: number | undefined;
  /** In a row. */
  readonly failures: number;
  readonly lastError: WarmingImage['lastError'];
  /** What lies on the volume is known not to be what the reference names. */
  readonly outdated: boolean;
  /** When it was last found, or made, to be what the reference names. */
  readonly confirmedAt: number | undefined;
}

interface Item extends ScheduledImage {
  wish: Wish;
  dueAt: number | undefined;
  failures: number;
  lastError: WarmingImage['lastError'];
  outdated: boolean;
  confirmedAt: number | undefined;
  reason: PullRecord['reason'];
}

export interface ScheduleParts {
  readonly puller: Puller;
  readonly gates: RegistryGates;
  readonly clock: Clock;
  readonly random: Random;
}

/** Pauses after a failure that is the image's own. */
const firstPause = 15_000;
const longestPause = 1_800_000;
/** The timer looks again after this at the latest, whatever the clock of the machine did. */
const longestSleep = 60_000;

/** Decides when which image is asked for; how that is done is the {@link Puller}'s. */
export class Schedule implements Disposable {
  readonly #parts: ScheduleParts;
  readonly #items = new Map<string, Item>();
  #timer: Disposable | undefined;
  #ended = false;

  constructor(parts: ScheduleParts) {
    this.#parts = parts;
  }

  /** What is kept warm, by key. */
  get images(): ReadonlyMap<string, ScheduledImage> {
    return this.#items;
  }

  /**
   * Takes over what is to be kept warm. What is new is due at once; what is no longer wished for is forgotten, while a
   * flight of it goes on; new intervals count from the last success.
   */
  reconcile(wishes: Wishes, reason: PullRecord['reason']): void {
    const now = this.#parts.clock.now();
    for (const key of this.#items.keys()) if (!wishes.has(key)) this.#items.delete(key);
    for (const [key, wish] of wishes) {
      const item = this.#items.get(key);
      if (item === undefined) this.#items.set(key, newItem(wish, now, reason));
      else this.#change(item, wish, now);
    }
    this.#wake();
  }

  /** Makes images due that ought to be on the volume and are not, for instance because a person removed them. */
  review(isThere: (key: string) => boolean): void {
    const now = this.#parts.clock.now();
    for (const [key, item] of this.#items)
      if (item.failures === 0 && !isThere(key)) item.dueAt = Math.min(item.dueAt ?? Infinity, now);
    this.#wake();
  }

  /** What came of a flight, whoever began it. */
  landed(flight: Flight, end: FlightEnd): void {
    const item = this.#items.get(keyOf(flight.name));
    if (item !== undefined) this.#settle(item, flight, end);
    this.#wake();
  }

  [Symbol.dispose](): void {
    this.#ended = true;
    this.#timer?.[Symbol.dispose]();
  }

  #change(item: Item, wish: Wish, now: number): void {
    const before = item.wish;
    item.wish = wish;
    if (item.failures > 0) {
      if (before.pullSecret !== wish.pullSecret) item.dueAt = now;
    } else if (
      item.confirmedAt !== undefined &&
      JSON.stringify(before.refresh) !== JSON.stringify(wish.refresh)
    )
      item.dueAt = this.#refreshAt(wish, item.confirmedAt);
  }

  #settle(item: Item, flight: Flight, end: FlightEnd): void {
    const { clock, gates } = this.#parts;
    const now = clock.now();
    item.reason = 'schedule';
    switch (end.outcome) {
      case 'pulled':
      case 'fresh':
        item.failures = 0;
        item.lastError = undefined;
        item.outdated = false;
        item.confirmedAt = now;
        item.dueAt = this.#refreshAt(item.wish, now);
        return;
      case 'postponed':
        item.dueAt = end.until;
        return;
      case 'stopped':
        item.dueAt = undefined;
        return;
      case 'failed':
      case 'rate_limited':
      case 'skipped_disk': {
        const code = systemErrorCode(end.error) ?? 'E_UNKNOWN';
        item.failures += 1;
        item.lastError = {
          code,
          message: wordsOf(end.error),
          remedy: remedyOf(end.error),
          at: new Date(now),
        };
        item.outdated ||= flight.digest !== undefined || code === 'E_MANIFEST_NOT_FOUND';
        const pause = backoff(item.failures, firstPause, longestPause, this.#parts.random);
        item.dueAt = end.registryAway
          ? (gates.closedUntil(item.wish.reference.registry) ?? now + firstPause)
          : now + pause;
      }
    }
  }

  #refreshAt({ reference, refresh }: Wish, from: number): number | undefined {
    return reference.digest === undefined ? nextRefresh(refresh, from, this.#parts.random) : undefined;
  }

  #wake(): void {
    this.#timer?.[Symbol.dispose]();
    if (this.#ended) return;
    const { clock } = this.#parts;
    let earliest = Infinity;
    for (const { dueAt } of this.#items.values()) earliest = Math.min(earliest, dueAt ?? Infinity);
    const sleep = Math.min(earliest - clock.now(), longestSleep);
    this.#timer = clock.after(Math.max(0, sleep), () => this.#tick());
  }

  #tick(): void {
    const { clock, puller } = this.#parts;
    const now = clock.now();
    for (const item of this.#items.values()) {
      if (item.dueAt === undefined || item.dueAt > now) continue;
      item.dueAt = undefined;
      const { wish, reason } = item;
      puller.bring(wish, { pullSecret: wish.pullSecret, refresh: wish.refresh.kind !== 'never', reason });
    }
    this.#wake();
  }
}

function newItem(wish: Wish, dueAt: number, reason: PullRecord['reason']): Item {
  return {
    wish,
    dueAt,
    reason,
    failures: 0,
    lastError: undefined,
    outdated: false,
    confirmedAt: undefined,
  };
}
