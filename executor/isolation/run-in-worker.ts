import { spawn } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import type { Readable } from 'node:stream';
import {
  dropBoundingCapability,
  hasId,
  hasSingleId,
  idMap,
  joinNewKeyring,
  setHostname,
  setThreadCapabilities,
  setThreadIdentity,
  unmappedId,
} from '../../src/os/index.ts';
import { BuildError, EnvironmentError, systemErrorCode } from '../../src/support/index.ts';
import { resolveUser, type UserIdentity } from '../context/index.ts';
import { StepInit } from './init-process.ts';
import type { OverlaySpace } from './messages.ts';
import { enterNamespaces, maskPaths, MountPoints, mountOverlay, mountSystem } from './mounts.ts';
import { enterRoot } from './root.ts';
import type { RunResult, RunStep } from './types.ts';

/** The capabilities of a container by default (Docker's and containerd's list), by number. */
const defaultCapabilities = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];
const lastCapability = 63;

/** Output on its way to the executor before the step is made to wait. */
const outputInFlight = 4 << 20;

/** How the worker tells what happens while a step runs. */
export interface RunChannel {
  started(): void;
  output(stream: 'stdout' | 'stderr', data: Uint8Array): void;
}

/** A RUN step in the namespaces of the calling worker thread. Can be used once: the thread ends up in the step's root. */
export class ContainerRun {
  readonly #space: OverlaySpace;
  readonly #step: RunStep;
  readonly #channel: RunChannel;
  #init: StepInit | undefined;
  #stopped = false;
  #inFlight = 0;
  readonly #paused = new Set<Readable>();
  mountPoints: readonly string[] = [];

  /** @param init the step's first process, when it was started before, with the namespaces of the step. */
  constructor(space: OverlaySpace, step: RunStep, channel: RunChannel, init: StepInit | undefined) {
    this.#init = init;
    this.#space = space;
    this.#step = step;
    this.#channel = channel;
  }

  /** @throws BuildError `E_RUN_START`, `E_USER_NOT_FOUND`; EnvironmentError `E_ISOLATION_…`. */
  async run(): Promise<RunResult> {
    this.#init ??= startInit();
    try {
      readIds();
      const root = mountOverlay(this.#space, { stubs: true });
      const points = new MountPoints(root);
      const proc = mountSystem(root, this.#space, points);
      this.mountPoints = points.made;
      await this.#init.mountProc(proc);
      maskPaths(root);
      setHostname('kiln');
      enterRoot(root);
      const user = resolveUser('/', this.#step.user, this.#step.where);
      if (!existsSync(this.#step.workingDirectory))
        mkdirSync(this.#step.workingDirectory, { recursive: true });
      dropPrivileges(user, this.#step.where);
      return await this.#execute({ HOME: user.home, ...this.#step.env });
    } finally {
      this.#stopped = true;
      await this.#init.stop();
    }
  }

  /** Ends the step: its init sees the end of its input, and the kernel ends all its processes. */
  stop(): void {
    this.#stopped = true;
    void this.#init?.stop();
  }

  /** Output has reached the executor; a step that was made to wait goes on. */
  taken(bytes: number): void {
    this.#inFlight -= bytes;
    if (this.#inFlight > outputInFlight / 2) return;
    for (const stream of this.#paused) stream.resume();
    this.#paused.clear();
  }

  #execute(env: Readonly<Record<string, string>>): Promise<RunResult> {
    const [program = '', ...parameters] = this.#step.argv;
    if (this.#stopped) throw new DOMException('The step was stopped', 'AbortError');
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
        // What the step left running still holds its output; it must not hold up the build.
        this.stop();
      });
      child.once('close', () => resolve(outcome ?? { exitCode: 128, signal: null }));
    });
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

/** Gives the calling thread the namespaces of a step, and starts the first process in them when that takes long. */
export function prepareInit(): StepInit | undefined {
  try {
    return StepInit.prepare(enterStep);
  } catch {
    return undefined; // what is not permitted here is told when there is a task to do
  }
}

function startInit(): StepInit {
  enterStep();
  return StepInit.start();
}

function enterStep(): void {
  enterNamespaces('processes');
  leaveKeys();
}

/** Keys of the session that the executor was started in are not the step's. */
function leaveKeys(): void {
  try {
    joinNewKeyring();
  } catch (error) {
    throw new EnvironmentError('a step could be given no keyring of its own', {
      code: 'E_ISOLATION_KEYRING',
      cause: error,
      remedy: 'Raise kernel.keys.maxkeys, or have fewer keys: see /proc/key-users.',
    });
  }
}

/** Reads what is known of ids while /proc is that of the executor; from then on it is remembered. */
function readIds(): void {
  hasSingleId();
  idMap('gid');
}

/** @throws EnvironmentError `E_ID_UNMAPPED` for a user or group that this user namespace lacks. */
function dropPrivileges({ uid, gid, groups }: UserIdentity, where: string): void {
  if (!hasId(idMap('uid'), uid)) throw unmappedId(`user ${uid}`, where);
  const unmapped = [gid, ...groups].find((id) => !hasId(idMap('gid'), id));
  if (unmapped !== undefined && (unmapped === gid || !hasSingleId()))
    throw unmappedId(`group ${unmapped}`, where);
  for (let capability = 0; capability <= lastCapability; capability++)
    if (!defaultCapabilities.includes(capability)) dropBoundingCapability(capability);
  const mask = defaultCapabilities.reduce((set, capability) => set | (1n << BigInt(capability)), 0n);
  // Only this thread changes: the child inherits from it. Ids first, while the right to change them is still there.
  // A user namespace with a single id may set no supplementary groups.
  setThreadIdentity({ uid, gid, groups: hasSingleId() ? undefined : groups });
  if (uid === 0) setThreadCapabilities({ permitted: mask, effective: mask, inheritable: 0n });
}
