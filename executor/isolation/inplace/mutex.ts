/** Lets one at a time have something, in the order in which they asked. */
export class Mutex {
  #last: Promise<void> = Promise.resolve();

  /** Waits until it is free. Disposing the result frees it. @throws the signal's reason. */
  async acquire(signal?: AbortSignal): Promise<Disposable> {
    const before = this.#last;
    const held = Promise.withResolvers<void>();
    this.#last = before.then(() => held.promise);
    await before;
    if (signal?.aborted === true) {
      held.resolve();
      signal.throwIfAborted();
    }
    return { [Symbol.dispose]: () => held.resolve() };
  }
}
