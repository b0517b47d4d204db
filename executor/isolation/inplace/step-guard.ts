import { listProcesses, type ProcessStatus, waitChannels } from '../../../src/os/index.ts';
import { FileGuard } from './file-guard.ts';
import { strayProcesses } from './stray-processes.ts';

export interface StepGuardOptions {
  /** Files and directories that a step may not read. */
  readonly secrets: readonly string[];
  /** Files and directories that a step may not write. */
  readonly programs: readonly string[];
  /** Told, once, which guarded file was opened. The step is to be ended then: until it is, it has not got the file. */
  readonly onTouched: (path: string) => void;
}

const interval = 20;

/**
 * Guards the executor's files while one step runs. Whoever opens one of them and is not the executor, nor a program that
 * it started for itself, is taken to be the step: an attempt that does not wait leaves no other trace.
 */
export class StepGuard implements Disposable {
  readonly #options: StepGuardOptions;
  readonly #guard = new FileGuard();
  readonly #timer: NodeJS.Timeout;
  #touched = false;
  /** The signal that the kernel sends when somebody wants a guarded file; unhandled, it would end this process. */
  readonly #onSignal = (): void => this.#check();

  constructor(options: StepGuardOptions) {
    this.#options = options;
    process.on('SIGIO', this.#onSignal);
    this.#guard.add('secret', options.secrets);
    this.#guard.add('program', options.programs);
    this.#timer = setInterval(this.#onSignal, interval);
  }

  /** Files that could not be guarded. */
  get unguarded(): readonly string[] {
    return this.#guard.unguarded;
  }

  #check(): void {
    this.#guard.renew();
    const [wanted] = this.#guard.wanted();
    if (wanted === undefined || this.#touched) return;
    if (isExecutorWaiting()) {
      this.#guard.release(wanted.path);
      return;
    }
    this.#touched = true;
    this.#options.onTouched(wanted.path);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#guard[Symbol.dispose]();
    process.off('SIGIO', this.#onSignal);
  }
}

/** Whether this process, or one that it started in its own session, waits for a file that is leased, and no step does. */
function isExecutorWaiting(): boolean {
  const processes = listProcesses();
  const strays = new Set(strayProcesses(processes).map(({ pid }) => pid));
  const session = processes.find(({ pid }) => pid === process.pid)?.session;
  const waits = ({ pid }: ProcessStatus): boolean =>
    waitChannels(pid)?.some((channel) => channel.includes('break_lease')) === true;
  return (
    !processes.some((each) => strays.has(each.pid) && waits(each)) &&
    processes.some((each) => each.session === session && waits(each))
  );
}
