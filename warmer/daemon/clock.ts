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

/** Does something again and again. Disposing the result ends that. */
export function every(clock: Clock, milliseconds: () => number, work: () => void): Disposable {
  let waiting: Disposable;
  const schedule = (): void => {
    waiting = clock.after(milliseconds(), () => {
      schedule();
      work();
    });
  };
  schedule();
  return { [Symbol.dispose]: () => waiting[Symbol.dispose]() };
}
