import type PQueue from 'p-queue';

/** A turn that is waited for in one queue or in several: the first that comes to it counts. Disposing it gives it back. */
export class Turn implements Disposable {
  readonly #came = Promise.withResolvers<void>();
  readonly #over = Promise.withResolvers<void>();
  #settled = false;

  /** Resolves when the turn has come. */
  get came(): Promise<void> {
    return this.#came.promise;
  }

  waitIn(queue: PQueue): void {
    void queue.add(async () => {
      if (this.#settled) return;
      this.take();
      await this.#over.promise;
    });
  }

  /** Takes the turn without waiting for any queue. */
  take(): void {
    this.#settled = true;
    this.#came.resolve();
  }

  [Symbol.dispose](): void {
    this.#settled = true;
    this.#over.resolve();
  }
}
