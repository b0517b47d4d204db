import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import {
  changeDirectory,
  dropBoundingCapability,
  pivotRoot,
  setHostname,
  setThreadCapabilities,
  setThreadIdentity,
  unmount,
} from '../../src/os/index.ts';
import { EnvironmentError } from '../../src/support/index.ts';
import { resolveUser } from '../context/index.ts';
import { capabilityNumber, containerCapabilities } from './capabilities.ts';
import type { OverlaySpace } from './messages.ts';
import { enterNamespaces, maskPaths, MountPoints, mountOverlay, mountSystem } from './mounts.ts';
import { type RunChannel, StepProcess } from './step-process.ts';
import type { RunResult, RunStep } from './types.ts';

const defaultCapabilities = containerCapabilities.map(capabilityNumber);
const lastCapability = 63;

/** A RUN step in the namespaces of the calling worker thread. Can be used once: the thread ends up in the step's root. */
export class ContainerRun {
  readonly #space: OverlaySpace;
  readonly #step: RunStep;
  readonly #process: StepProcess;
  #init: ChildProcess | undefined;
  #stopped = false;
  mountPoints: readonly string[] = [];

  constructor(space: OverlaySpace, step: RunStep, channel: Omit<RunChannel, 'exited'>) {
    this.#space = space;
    this.#step = step;
    // What the step left running still holds its output; it must not hold up the build.
    this.#process = new StepProcess(step, { ...channel, exited: () => this.stop() });
  }

  /** @throws BuildError `E_RUN_START`, `E_USER_NOT_FOUND`; EnvironmentError `E_ISOLATION_…`. */
  async run(): Promise<RunResult> {
    enterNamespaces('processes');
    const root = mountOverlay(this.#space, { stubs: true });
    const points = new MountPoints(root);
    const proc = mountSystem(root, this.#space, points);
    this.mountPoints = points.made;
    const init = await this.#startInit(proc);
    const ended = new Promise<void>((resolve) => init.once('exit', () => resolve()));
    try {
      maskPaths(root);
      setHostname('kiln');
      enterRoot(root);
      const user = resolveUser('/', this.#step.user, this.#step.where);
      if (!existsSync(this.#step.workingDirectory))
        mkdirSync(this.#step.workingDirectory, { recursive: true });
      dropPrivileges(user);
      if (this.#stopped) throw new DOMException('The step was stopped', 'AbortError');
      return await this.#process.run({ HOME: user.home, ...this.#step.env });
    } finally {
      this.stop();
      await ended;
    }
  }

  /** Ends the step: its init sees the end of its input, and the kernel ends all its processes. */
  stop(): void {
    this.#stopped = true;
    this.#init?.stdin?.destroy();
  }

  /** Output has reached the executor; a step that was made to wait goes on. */
  taken(bytes: number): void {
    this.#process.taken(bytes);
  }

  /**
   * Starts the first process of the pid namespace. It mounts /proc, which only a process inside can do, and then waits for
   * the end of its input: when the executor stops the step or dies, even by kill -9, it ends and everything in the
   * namespace with it. It keeps all capabilities, so that the step, which has fewer, may not look into it.
   */
  async #startInit(proc: string): Promise<ChildProcess> {
    const script = 'mount -t proc -o nosuid,nodev,noexec proc "$1" && echo ready && read -r _';
    const init = spawn('/bin/sh', ['-c', script, 'init', proc], {
      stdio: ['pipe', 'pipe', 'pipe'],
      cwd: '/',
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      detached: true,
    });
    this.#init = init;
    init.stdin.on('error', () => init.kill());
    let problem = '';
    init.stderr.on('data', (chunk: Buffer) => (problem += chunk.toString()));
    await new Promise<void>((resolve, reject) => {
      const failed = (cause?: unknown): void =>
        reject(
          new EnvironmentError(
            `the step's init could not mount /proc${problem === '' ? '' : `: ${problem.trim()}`}`,
            {
              code: 'E_ISOLATION_PROC',
              cause,
              remedy: 'It needs /bin/sh, mount(8), and the right to mount proc.',
            },
          ),
        );
      init.stdout.once('data', () => resolve());
      init.once('error', failed);
      init.once('exit', () => failed());
    });
    return init;
  }
}

/** Makes the mounted tree the root of the calling thread, and of the init, and lets go of everything else. */
function enterRoot(root: string): void {
  changeDirectory(root);
  // Old and new root stacked on each other: no directory for the old one is needed (pivot_root(2), NOTES).
  pivotRoot('.', '.');
  unmount('.', { detach: true });
  changeDirectory('/');
}

function dropPrivileges(user: { uid: number; gid: number; groups: readonly number[] }): void {
  for (let capability = 0; capability <= lastCapability; capability++)
    if (!defaultCapabilities.includes(capability)) dropBoundingCapability(capability);
  const mask = defaultCapabilities.reduce((set, capability) => set | (1n << BigInt(capability)), 0n);
  // Only this thread changes: the child inherits from it. Ids first, while the right to change them is still there.
  setThreadIdentity(user);
  if (user.uid === 0) setThreadCapabilities({ permitted: mask, effective: mask, inheritable: 0n });
}
