import { type ChildProcessByStdio, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { type Command, findProgram, nodeCommand } from '../../src/os/index.ts';
import { EnvironmentError } from '../../src/support/index.ts';

/**
 * The first process of a step's pid namespace. It mounts /proc, which only a process inside can do, and then waits for the
 * end of its input: when the executor stops the step or dies, even by kill -9, it ends and everything in the namespace
 * with it. It keeps all capabilities, so that the step, which has fewer, may not look into it.
 */
export class StepInit {
  readonly #process: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #ended: Promise<void>;
  #problem = '';

  private constructor({ file, args }: Command) {
    this.#process = spawn(file, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      cwd: '/',
      env: {},
      detached: true,
    });
    this.#ended = new Promise((resolve) => {
      this.#process.once('close', () => resolve());
      this.#process.once('error', () => resolve());
    });
    this.#process.stdin.on('error', () => this.#process.kill());
    this.#process.stderr.on('data', (chunk: Buffer) => (this.#problem += chunk.toString()));
  }

  /** Starts it in the namespaces of the calling thread, whose children get a new pid namespace. */
  static start(): StepInit {
    return new StepInit(shellCommand() ?? ownInit());
  }

  /**
   * Starts it before there is a step, where that takes time: Node does, a shell does not.
   *
   * @param enter makes the calling thread enter the step's namespaces.
   */
  static prepare(enter: () => void): StepInit | undefined {
    if (shellCommand() !== undefined) return undefined;
    enter();
    return StepInit.start();
  }

  /** Has it mount /proc at a path. @throws EnvironmentError `E_ISOLATION_PROC`. */
  async mountProc(path: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const failed = (cause?: unknown): void => reject(this.#failure(cause));
      this.#process.stdout.once('data', () => resolve());
      this.#process.once('error', failed);
      this.#process.once('close', () => failed());
      this.#process.stdin.write(`${path}\n`);
    });
  }

  /** Ends it, and all processes of its namespace. @returns when it has ended. */
  stop(): Promise<void> {
    this.#process.stdin.destroy();
    return this.#ended;
  }

  #failure(cause: unknown): EnvironmentError {
    const problem = this.#problem.trim();
    return new EnvironmentError(
      `the step's init could not mount /proc${problem === '' ? '' : `: ${problem}`}`,
      {
        code: 'E_ISOLATION_PROC',
        cause,
        remedy:
          'In a container the /proc must be whole (procMount: Unmasked), unless the container is root of its own user namespace.',
      },
    );
  }
}

/** A shell starts in a tenth of the time that Node takes; Kiln's own image has none. */
function shellCommand(): Command | undefined {
  const [shell, mount] = [findProgram('sh'), findProgram('mount')];
  if (shell === undefined || mount === undefined) return undefined;
  const script =
    'IFS= read -r proc && "$1" -t proc -o nosuid,nodev,noexec proc "$proc" && echo ready && read -r _';
  return { file: shell, args: ['-c', script, 'init', mount] };
}

function ownInit(): Command {
  const ending = import.meta.url.endsWith('.ts') ? '.ts' : '.js';
  return nodeCommand(fileURLToPath(new URL(`./step-init${ending}`, import.meta.url)), []);
}
