import type { Worker } from 'node:worker_threads';
import { endWorker, reviveError, startWorker } from '../../src/support/index.ts';
import type { FromWorker, ToWorker } from './messages.ts';
import type { RunOptions } from './types.ts';

export interface TaskHooks {
  readonly onMessage?: (message: FromWorker, worker: Worker) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Workers ready for a task. Starting one takes longer than a small step, so one is kept in reserve while a build runs;
 * each does one task.
 */
export class WorkerPool {
  readonly #base: string;
  readonly #name: string;
  #spare: Worker | undefined;

  /** @param base the `import.meta.url` of the module that the worker's lies beside, @param name the worker's name. */
  constructor(base: string, name: string) {
    this.#base = base;
    this.#name = name;
  }

  /** Starts the reserve, so that the next task need not wait for it. */
  warm(): void {
    this.#spare ??= this.#start();
  }

  /** @param options `refill`: whether the next one is started at once. */
  take(options: { readonly refill: boolean }): Worker {
    const worker = this.#spare ?? this.#start();
    this.#spare = options.refill ? this.#start() : undefined;
    worker.ref();
    return worker;
  }

  async close(): Promise<void> {
    const spare = this.#spare;
    this.#spare = undefined;
    if (spare !== undefined) await endWorker(spare);
  }

  #start(): Worker {
    const worker = startWorker(this.#base, this.#name, undefined);
    worker.unref();
    return worker;
  }
}

/** Has a worker do one task; aborting ends the worker and all its processes. */
export async function performTask<Task>(
  workers: WorkerPool,
  task: Task,
  hooks: TaskHooks,
  options: { readonly refill: boolean } = { refill: true },
): Promise<Extract<FromWorker, { type: 'done' }>> {
  const { signal } = hooks;
  signal?.throwIfAborted();
  const worker = workers.take(options);
  const send = (message: ToWorker<Task>): void => worker.postMessage(message);
  const abort = (): void => send({ type: 'stop' });
  signal?.addEventListener('abort', abort, { once: true });
  try {
    return await new Promise((resolve, reject) => {
      worker.on('message', (message: FromWorker) => {
        if (message.type === 'done') resolve(message);
        else if (message.type === 'failed') reject(reviveError(message.error));
        else hooks.onMessage?.(message, worker);
      });
      worker.once('error', reject);
      worker.once('exit', (code) => reject(new Error(`the isolation worker ended with ${code}`)));
      send({ type: 'task', task });
    });
  } finally {
    signal?.removeEventListener('abort', abort);
    await endWorker(worker);
    signal?.throwIfAborted();
  }
}

/** Hands on what a running step says, and lets the worker know that it was taken. */
export function passOn(message: FromWorker, worker: Worker, options: RunOptions): void {
  if (message.type === 'started') options.onStarted?.();
  if (message.type !== 'output') return;
  options.onOutput(message.stream, message.data);
  worker.postMessage({ type: 'taken', bytes: message.data.length } satisfies ToWorker<unknown>);
}
