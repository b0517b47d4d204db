import { Territory, TreeChanges, TreeState } from '../../../src/layer/index.ts';
import { mountPoints } from '../../../src/os/index.ts';
import { BuildError, EnvironmentError, type Progress } from '../../../src/support/index.ts';
import { missingCapabilitiesHint } from '../capabilities.ts';
import { passOn, performTask, WorkerPool } from '../task-worker.ts';
import type { RunOptions, RunResult, RunStep } from '../types.ts';
import type { StepTask } from './messages.ts';
import { SharedPlaces } from './shared-places.ts';
import { StepGuard } from './step-guard.ts';
import { endStrayProcesses } from './stray-processes.ts';

export interface StepRunnerOptions {
  /** Kiln's own directory. */
  readonly home: string;
  /** Its part that builds write to. */
  readonly work: string;
  /** Files and directories with credentials. */
  readonly secrets: readonly string[];
  readonly progress: Progress;
}

/** Runs steps in the root of the container, and makes sure that they leave nothing but files. */
export class StepRunner implements AsyncDisposable {
  readonly #options: StepRunnerOptions;
  readonly #workers = new WorkerPool(import.meta.url, 'step-worker');
  readonly #own: Territory;
  readonly #state: TreeState;
  #warned = false;

  constructor(options: StepRunnerOptions) {
    this.#options = options;
    const { home, work } = options;
    const inside = [work, ...mountPoints()].filter((path) => path.startsWith(`${home}/`));
    const exclusions = inside.map((path) => path.slice(home.length));
    this.#own = new Territory({ root: home, exclusions, shadow: `${work}/none` });
    this.#state = TreeState.read(this.#own);
  }

  /** Gets the first worker ready. The next ones start when no step runs that could change what they are loaded from. */
  warm(): void {
    this.#workers.warm();
  }

  /** @throws BuildError `E_RUN_START`, `E_USER_NOT_FOUND`, `E_RUN_SECRET`; EnvironmentError `E_INPLACE_…`. */
  async run(step: RunStep, options: RunOptions): Promise<RunResult> {
    const { home, secrets } = this.#options;
    const { signal } = options;
    let touched: string | undefined;
    // What cannot be ended is told in the end.
    const stop = (): void => void endStrayProcesses({ isReaping: false }).catch(() => undefined);
    using guard = new StepGuard({
      secrets,
      programs: ['bin', 'lib', 'dist', 'node_modules'].map((name) => `${home}/${name}`),
      onTouched: (path) => {
        touched = path;
        stop();
      },
    });
    this.#tellUnguarded(guard.unguarded);
    const shared = new SharedPlaces();
    signal?.addEventListener('abort', stop, { once: true });
    try {
      const done = await performTask<StepTask>(
        this.#workers,
        { step },
        {
          signal,
          onMessage: (message, worker) => {
            if (message.type === 'exited') stop();
            passOn(message, worker, options);
          },
        },
        { refill: false },
      );
      return this.#judged(step, done.result as RunResult, touched);
    } finally {
      signal?.removeEventListener('abort', stop);
      await endStrayProcesses({ isReaping: true });
      shared.removeNew();
      this.#requireUnaltered(step);
      this.#workers.warm();
    }
  }

  #judged(step: RunStep, result: RunResult, touched: string | undefined): RunResult {
    if (touched !== undefined)
      throw new BuildError(`the step was ended because it opened ${touched}, which is the builder's`, {
        code: 'E_RUN_SECRET',
        where: step.where,
        remedy: 'Steps may not use the credentials of the build, nor change Kiln.',
      });
    const hint = result.exitCode === 0 ? undefined : missingCapabilitiesHint();
    return hint === undefined ? result : { ...result, hint };
  }

  #tellUnguarded(paths: readonly string[]): void {
    if (paths.length === 0 || this.#warned) return;
    this.#warned = true;
    const more = paths.length > 1 ? ` and ${paths.length - 1} more` : '';
    this.#options.progress.warn(
      `steps are not kept from ${paths[0] ?? ''}${more}: file leases do not work there (docs/isolation.md)`,
    );
  }

  #requireUnaltered(step: RunStep): void {
    const [changed] = new TreeChanges(this.#state, TreeState.read(this.#own)).touched();
    if (changed === undefined) return;
    throw new EnvironmentError(`the step changed Kiln's own files (${this.#options.home}/${changed})`, {
      code: 'E_INPLACE_ALTERED',
      where: step.where,
      remedy: 'Do not trust this container any more; start another one.',
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#workers.close();
  }
}
