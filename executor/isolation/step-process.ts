import { spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { BuildError, systemErrorCode } from '../../src/support/index.ts';
import type { RunResult, RunStep } from './types.ts';

/** Output on its way to the executor before the step is made to wait. */
const outputInFlight = 4 << 20;

/** How the worker tells what happens while a step runs. */
export interface RunChannel {
  started(): void;
  output(stream: 'stdout' | 'stderr', data: Uint8Array): void;
  /** The step's first process has ended. What it left running may still hold its output, and must be ended. */
  exited(): void;
}

/** The process of a RUN step, started from the calling thread with that thread's root, namespaces and identity. */
export class StepProcess {
  readonly #step: RunStep;
  readonly #channel: RunChannel;
  #inFlight = 0;
  readonly #paused = new Set<Readable>();

  constructor(step: RunStep, channel: RunChannel) {
    this.#step = step;
    this.#channel = channel;
  }

  /** Runs it until its output is closed. @throws BuildError `E_RUN_START`. */
  run(env: Readonly<Record<string, string>>): Promise<RunResult> {
    const [program = '', ...parameters] = this.#step.argv;
    return new Promise((resolve, reject) => {
      const child = spawn(program, parameters, {
        stdio: ['ignore', 'pipe', 'pipe'],
        cwd: this.#step.workingDirectory,
        env: { ...env },
        detached: true,
      });
      child.once('spawn', () => this.#channel.started());
      child.once('error', (error) => reject(this.#startError(program, error)));
      this.#forward('stdout', child.stdout);
      this.#forward('stderr', child.stderr);
      let outcome: RunResult | undefined;
      child.once('exit', (code, signal) => {
        outcome = { exitCode: code ?? 128, signal };
        this.#channel.exited();
      });
      child.once('close', () => resolve(outcome ?? { exitCode: 128, signal: null }));
    });
  }

  /** Output has reached the executor; a step that was made to wait goes on. */
  taken(bytes: number): void {
    this.#inFlight -= bytes;
    if (this.#inFlight > outputInFlight / 2) return;
    for (const stream of this.#paused) stream.resume();
    this.#paused.clear();
  }

  #forward(name: 'stdout' | 'stderr', stream: Readable): void {
    stream.on('data', (data: Buffer) => {
      this.#channel.output(name, data);
      this.#inFlight += data.length;
      if (this.#inFlight <= outputInFlight) return;
      stream.pause();
      this.#paused.add(stream);
    });
  }

  #startError(program: string, error: unknown): BuildError {
    const code = systemErrorCode(error);
    const why: Readonly<Record<string, string>> = {
      ENOENT: 'it, or the interpreter it names, is not in the image',
      EACCES: 'it may not be executed',
      ENOEXEC: 'it is no program for this platform',
      E2BIG: 'its arguments are too long',
      ENOTDIR: 'part of its path is no directory',
    };
    return new BuildError(
      `cannot start ${JSON.stringify(program)}: ${why[code ?? ''] ?? code ?? String(error)}`,
      {
        code: 'E_RUN_START',
        where: this.#step.where,
        remedy:
          code === 'ENOENT'
            ? 'Check the path, and that the base image has it; a shell form needs the shell.'
            : undefined,
      },
    );
  }
}
