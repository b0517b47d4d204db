import { isAbortError } from './errors.ts';
import type { SingleFlight } from './single-flight.ts';

/** The result of shared work, unless the caller's own signal fires first; the work then goes on for the others. */
export async function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  const { promise, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal.reason as Error);
  signal.addEventListener('abort', abort, { once: true });
  if (signal.aborted) abort();
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

/** The failure of shared work whose starter had given up: none of those who joined it. */
class StarterGaveUp extends Error {}

/**
 * Joins or starts work of a flight. The work runs under the signal of the caller that started it; when that one gives
 * up, for whatever reason its signal has, the others start over.
 */
export async function joinFlight<Key, Value>(
  flight: SingleFlight<Key, Value>,
  key: Key,
  work: () => Promise<Value>,
  signal: AbortSignal | undefined,
): Promise<Value> {
  for (;;) {
    let started = false as boolean;
    const running = flight.run(key, async () => {
      started = true;
      try {
        return await work();
      } catch (error) {
        throw signal?.aborted === true ? new StarterGaveUp('aborted', { cause: error }) : error;
      }
    });
    try {
      return await untilAborted(running, signal);
    } catch (error) {
      const gaveUp = error instanceof StarterGaveUp;
      if (started) throw gaveUp ? error.cause : error;
      if (signal?.aborted === true || !(gaveUp || isAbortError(error))) throw error;
    }
  }
}
