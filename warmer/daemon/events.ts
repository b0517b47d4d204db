import { messageOf, type Progress } from '../../src/support/index.ts';
import type { WarmingEvent } from './types.ts';

/** Tells what happens to all who listen; one that fails keeps neither the others nor the daemon from going on. */
export class WarmingEvents {
  readonly #progress: Progress;
  readonly #listeners = new Set<(event: WarmingEvent) => void>();

  constructor(progress: Progress) {
    this.#progress = progress;
  }

  /** Adds a listener; disposing the result removes it. */
  listen(listener: (event: WarmingEvent) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  readonly emit = (event: WarmingEvent): void => {
    for (const listener of this.#listeners)
      try {
        listener(event);
      } catch (error) {
        this.#progress.warn(`an event was not heard: ${messageOf(error)}`);
      }
  };
}
