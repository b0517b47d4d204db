import type { ChildProcess } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Ended, kiln } from '../support/programs.ts';
import type { SeededRandom } from '../support/random.ts';

/** A program that runs in the storm. */
export interface Command {
  readonly program: 'executor' | 'warmer';
  readonly args: readonly string[];
  readonly under?: readonly string[];
  /** How it may end when nobody kills it: exit codes, and errors that are no faults of the volume. */
  readonly codes: readonly number[];
  readonly errors?: RegExp;
}

export interface Killing {
  readonly probability: number;
  /** Milliseconds after the start, at most; default: as long as those lasted that nobody killed. */
  readonly within?: number;
}

/** Milliseconds after which a process that nobody killed counts as hanging. */
const patience = 90_000;

/** Starts programs, kills some of them, and keeps account. */
export class Commands {
  readonly #compiled: string;
  readonly counts = new Map<string, { ended: number; killed: number; milliseconds: number }>();

  constructor(compiled: string) {
    this.#compiled = compiled;
  }

  /**
   * @returns how it ended; undefined when it was killed before.
   * @throws Error when it ended otherwise than it may.
   */
  async run(
    name: string,
    command: Command,
    killing: Killing,
    random: SeededRandom,
  ): Promise<Ended | undefined> {
    const count = this.counts.get(name) ?? { ended: 0, killed: 0, milliseconds: 0 };
    this.counts.set(name, count);
    const life = count.ended === 0 ? 1000 : count.milliseconds / count.ended;
    const kills = random.chance(killing.probability);
    const moment = random.next() * (killing.within ?? life);
    const begun = performance.now();
    const { promise: started, resolve } = Promise.withResolvers<ChildProcess>();
    const running = kiln(command.program, [...command.args, '--log-format', 'json'], {
      under: command.under ?? [],
      compiled: this.#compiled,
      onStart: resolve,
    });
    const child = await started;
    using _over = killAfter(child, kills ? moment : patience);
    const ended = await running;
    if (kills && ended.signal === 'SIGKILL') {
      count.killed += 1;
      return undefined;
    }
    count.ended += 1;
    count.milliseconds += performance.now() - begun;
    const text = `${command.program} ${command.args.join(' ')}`;
    if (ended.signal !== null) throw new Error(`${text} did not end within ${patience} ms:\n${ended.stderr}`);
    if (command.codes.includes(ended.code ?? -1) || command.errors?.test(ended.stderr) === true) return ended;
    throw new Error(`${text} ended with ${String(ended.code)}:\n${ended.stderr}\n${ended.stdout}`);
  }
}

function killAfter(child: ChildProcess, milliseconds: number): Disposable {
  const timer = setTimeout(() => child.kill('SIGKILL'), milliseconds);
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}

/** Waits so long, or until the signal fires. */
export async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  await sleep(milliseconds, undefined, { signal }).catch(() => undefined);
}
