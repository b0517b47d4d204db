interface Waiting {
  readonly key: string;
  readonly start: () => void;
}

/**
 * A number of places for transfers. When one becomes free it goes to whoever has the fewest (of the keys that wait), and
 * among those to the one that waited longest: an image with many layers does not keep one with few waiting.
 */
export class FairQueue {
  readonly #limit: number;
  readonly #active = new Map<string, number>();
  readonly #waiting: Waiting[] = [];
  #taken = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * Waits for a place. Disposing the result gives it back; doing so twice is harmless.
   *
   * @param key who shares, for instance a repository.
   */
  async acquire(key: string, signal?: AbortSignal): Promise<Disposable> {
    signal?.throwIfAborted();
    if (this.#taken >= this.#limit) await this.#wait(key, signal);
    else this.#take(key);
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (held) this.#release(key);
        held = false;
      },
    };
  }

  #wait(key: string, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const waiting: Waiting = {
        key,
        start: () => {
          signal?.removeEventListener('abort', abort);
          resolve();
        },
      };
      const abort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        reject(signal?.reason as Error);
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#waiting.push(waiting);
    });
  }

  #take(key: string): void {
    this.#taken += 1;
    this.#active.set(key, (this.#active.get(key) ?? 0) + 1);
  }

  #release(key: string): void {
    this.#taken -= 1;
    const left = (this.#active.get(key) ?? 0) - 1;
    if (left > 0) this.#active.set(key, left);
    else this.#active.delete(key);
    const next = this.#next();
    if (next === undefined) return;
    this.#waiting.splice(this.#waiting.indexOf(next), 1);
    // Taken here and not when the waiter runs, or somebody could come between.
    this.#take(next.key);
    next.start();
  }

  #next(): Waiting | undefined {
    const active = (waiting: Waiting): number => this.#active.get(waiting.key) ?? 0;
    return this.#waiting.reduce<Waiting | undefined>(
      (best, waiting) => (best === undefined || active(waiting) < active(best) ? waiting : best),
      undefined,
    );
  }
}
