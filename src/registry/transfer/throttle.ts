import { setTimeout as sleep } from 'node:timers/promises';

/** Bytes may run ahead of the rate by this many seconds, so that small pieces need no timer each. */
const burstSeconds = 0.1;

/**
 * Limits how fast bytes pass: one token bucket for all transfers that share it. Pieces are let through in the order in
 * which they ask, so that transfers get like shares.
 */
export class Throttle {
  readonly #bytesPerSecond: number;
  /** When all bytes let through so far will have passed at the rate, in milliseconds of `performance.now()`. */
  #busyUntil = 0;

  /** @param bytesPerSecond more than 0. */
  constructor(bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond;
  }

  /** Returns a promise when the bytes have to wait, and undefined when they may pass at once. */
  pass(bytes: number, signal?: AbortSignal): Promise<void> | undefined {
    const now = performance.now();
    this.#busyUntil = Math.max(this.#busyUntil, now) + (bytes / this.#bytesPerSecond) * 1000;
    const delay = this.#busyUntil - now - burstSeconds * 1000;
    return delay <= 0 ? undefined : sleep(delay, undefined, signal === undefined ? {} : { signal });
  }
}
