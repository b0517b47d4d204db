import { listProcesses, waitChannels } from '../../../src/os/index.ts';
import { FileGuard } from './file-guard.ts';
import { strayProcesses } from './stray-processes.ts';

export interface StepGuardOptions {
  /** Files and directories that a step may not read. */
  readonly secrets: readonly string[];
  /** Files and directories that a step may not write. */
  readonly programs: readonly string[];
  /** Told, once, which guarded file the step opened. The step is to be ended then: until it is, it has not got the file. */
  readonly onTouched: (path: string) => void;
}

const interval = 20;

/** Guards the executor's files while one step runs. */
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
    for (const { path } of this.#guard.wanted()) {
      if (this.#touched) return;
      if (isStepWaiting()) {
        this.#touched = true;
        this.#options.onTouched(path);
      } else this.#guard.release(path); // this process itself, or another container of the pod
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#guard[Symbol.dispose]();
    process.off('SIGIO', this.#onSignal);
  }
}

/**
 * Whether a process of the step waits for a file that is leased. Of a process of another user the kernel does not tell what
 * it waits for; it is taken to be the one.
 */
function isStepWaiting(): boolean {
  return strayProcesses(listProcesses()).some(({ pid, isZombie }) => {
    if (isZombie) return false;
    return waitChannels(pid)?.some((channel) => channel.includes('break_lease')) ?? true;
  });
}
