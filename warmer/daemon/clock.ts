/** Time as the daemon sees it, so that tests need not wait for it. */
export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Calls back once, about so many milliseconds from now. Disposing it cancels that. */
  after(milliseconds: number, callback: () => void): Disposable;
}

/** Longest time that a timer of Node takes. */
const longest = 2 ** 31 - 1;

/** The machine's clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  after: (milliseconds, callback) => {
    const timer = setTimeout(callback, Math.min(Math.max(0, milliseconds), longest));
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  },
};

/** Does something again and again, each time so long after the last was done. Disposing it ends that. */
export function every(clock: Clock, milliseconds: () => number, work: () => Promise<void>): Disposable {
  let waiting: Disposable;
  let ended = false as boolean;
  const schedule = (): void => {
    waiting = clock.after(milliseconds(), () => {
      void work().finally(() => {
        if (!ended) schedule();
      });
    });
  };
  schedule();
  return {
    [Symbol.dispose]: () => {
      ended = true;
      waiting[Symbol.dispose]();
    },
  };
}
