import type { Worker } from 'node:worker_threads';
import { endWorker, type Progress, reviveError, startWorker } from '../../../src/support/index.ts';
import type { Problems, RootAnswer, RootOptions, RootRequest, RootTask } from './messages.ts';

/** Speaks with the thread that owns the root. It does what it is asked one after the other. */
export class RootThread implements AsyncDisposable {
  readonly #worker: Worker;
  readonly #progress: Progress;
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #warned = new Set<keyof Problems>();
  #asked = 0;

  constructor(options: RootOptions, progress: Progress) {
    this.#progress = progress;
    this.#worker = startWorker(import.meta.url, 'root-worker', options);
    this.#worker.unref();
    this.#worker.on('message', (message: RootAnswer | string) => {
      if (typeof message !== 'string') this.#answered(message);
    });
    this.#worker.once('error', (error) => this.#fail(error));
    this.#worker.once('exit', (code) => this.#fail(new Error(`the thread of the root ended with ${code}`)));
  }

  /** @throws what the task threw. Aborting does not interrupt it, but its result is no longer waited for. */
  async ask<Result>(task: RootTask, signal?: AbortSignal): Promise<Result> {
    signal?.throwIfAborted();
    const id = this.#asked++;
    const answer = Promise.withResolvers<unknown>();
    this.#waiting.set(id, answer);
    const abort = (): void => answer.reject(signal?.reason);
    signal?.addEventListener('abort', abort, { once: true });
    this.#worker.ref();
    this.#worker.postMessage({ id, task } satisfies RootRequest);
    try {
      return (await answer.promise) as Result;
    } finally {
      signal?.removeEventListener('abort', abort);
      this.#waiting.delete(id);
      if (this.#waiting.size === 0) this.#worker.unref();
    }
  }

  #answered(answer: RootAnswer): void {
    const waiting = this.#waiting.get(answer.id);
    if ('error' in answer) waiting?.reject(reviveError(answer.error));
    else {
      this.#tell('nodes', answer.problems.nodes, 'device nodes', 'MKNOD');
      this.#tell('attributes', answer.problems.attributes, "files' capabilities", 'SETFCAP');
      waiting?.resolve(answer.result);
    }
  }

  #tell(kind: keyof Problems, paths: readonly string[], what: string, capability: string): void {
    if (paths.length === 0 || this.#warned.has(kind)) return;
    this.#warned.add(kind);
    const more = paths.length > 1 ? ` and ${paths.length - 1} more` : '';
    this.#progress.warn(
      `${what} of a base cannot be made here without the capability ${capability}; steps do not see them (${paths[0] ?? ''}${more})`,
    );
  }

  #fail(error: unknown): void {
    for (const waiting of this.#waiting.values()) waiting.reject(error);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await endWorker(this.#worker);
  }
}
