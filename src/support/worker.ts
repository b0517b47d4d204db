import { parentPort, Worker } from 'node:worker_threads';
import { type ErrorCategory, KilnError, messageOf, systemErrorCode } from './errors.ts';

/** The first message of every worker. */
const loadedMessage = 'loaded';

const loading = new WeakMap<Worker, Promise<void>>();

/**
 * Starts the worker thread whose module lies beside the caller's. The module calls {@link workerLoaded} once it is
 * loaded, and the thread is ended by {@link endWorker}.
 *
 * @param base the caller's `import.meta.url`; its ending (`.ts`, or `.js` when compiled) is the worker's too.
 * @param name the worker's file name without ending.
 */
export function startWorker(base: string, name: string, workerData: unknown): Worker {
  const ending = base.endsWith('.ts') ? '.ts' : '.js';
  const worker = new Worker(new URL(`./${name}${ending}`, base), { workerData, execArgv: [], name });
  const loaded = Promise.withResolvers<void>();
  worker.on('message', (message: unknown) => {
    if (message === loadedMessage) loaded.resolve();
  });
  worker.once('exit', () => loaded.resolve());
  loading.set(worker, loaded.promise);
  return worker;
}

/** Says in a worker that all its modules are loaded. */
export function workerLoaded(): void {
  parentPort?.postMessage(loadedMessage);
}

/**
 * Ends a worker. One that still loads is let finish that first: a thread that is stopped while it loads a native module
 * takes the whole process with it.
 */
export async function endWorker(worker: Worker): Promise<void> {
  worker.ref();
  await loading.get(worker);
  await worker.terminate();
}

/** What a worker that does one job sends back. */
export type WorkerOutcome<Result> = { readonly result: Result } | { readonly error: unknown };

/**
 * Runs a worker that does one job and posts one {@link WorkerOutcome}. Aborting terminates it.
 *
 * @throws what the worker threw, or the signal's reason.
 */
export async function runWorker<Result>(
  base: string,
  name: string,
  workerData: unknown,
  signal?: AbortSignal,
): Promise<Result> {
  signal?.throwIfAborted();
  const worker = startWorker(base, name, workerData);
  const abort = (): void => void endWorker(worker);
  signal?.addEventListener('abort', abort, { once: true });
  try {
    return await new Promise<Result>((resolve, reject) => {
      worker.on('message', (outcome: WorkerOutcome<Result> | typeof loadedMessage) => {
        if (outcome === loadedMessage) return;
        if ('result' in outcome) resolve(outcome.result);
        else reject(reviveError(outcome.error));
      });
      worker.once('error', reject);
      worker.once('exit', (code) =>
        reject(signal?.aborted === true ? abortReason(signal) : new Error(`${name} ended with ${code}`)),
      );
    });
  } finally {
    signal?.removeEventListener('abort', abort);
    await endWorker(worker);
  }
}

function abortReason(signal: AbortSignal): Error {
  return signal.reason instanceof Error
    ? signal.reason
    : new DOMException('The operation was aborted', 'AbortError');
}

/** Fields of an error that survive the way between threads. */
interface PlainError {
  readonly message: string;
  readonly code?: string;
  readonly kiln?: { readonly category: ErrorCategory; readonly remedy?: string; readonly where?: string };
}

/** Makes an error that can be posted between threads without losing its code and remedy. */
export function plainError(error: unknown): PlainError {
  const code = systemErrorCode(error);
  if (error instanceof KilnError)
    return {
      message: error.message,
      code: error.code,
      kiln: {
        category: error.category,
        ...(error.remedy === undefined ? {} : { remedy: error.remedy }),
        ...(error.where === undefined ? {} : { where: error.where }),
      },
    };
  return { message: messageOf(error), ...(code === undefined ? {} : { code }) };
}

/** The error that {@link plainError} took apart. */
export function reviveError(error: unknown): Error {
  const plain = error as PlainError;
  if (plain.kiln !== undefined)
    return new KilnError(plain.message, { ...plain.kiln, code: plain.code as `E_${string}` });
  return Object.assign(new Error(plain.message), plain.code === undefined ? {} : { code: plain.code });
}
