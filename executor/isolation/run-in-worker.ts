import { existsSync, mkdirSync } from 'node:fs';
import {
  dropBoundingCapability,
  hasId,
  hasSingleId,
  idMap,
  isolateNetwork,
  joinNewKeyring,
  setHostname,
  setThreadCapabilities,
  setThreadIdentity,
  unmappedId,
} from '../../src/os/index.ts';
import { EnvironmentError } from '../../src/support/index.ts';
import { resolveUser, type UserIdentity } from '../context/index.ts';
import {
  capabilityNumber,
  containerCapabilities,
  missingCapabilitiesHint,
  ownCapabilities,
} from './capabilities.ts';
import { StepInit } from './init-process.ts';
import type { OverlaySpace, WorkerMount, WorkerTask } from './messages.ts';
import { enterNamespaces, maskPaths, MountPoints, mountOverlay, mountSystem } from './mounts.ts';
import { enterRoot } from './root.ts';
import { type RunChannel, StepProcess } from './step-process.ts';
import type { RunResult, RunStep } from './types.ts';

const lastCapability = 63;

/** A RUN step in the namespaces of the calling worker thread. Can be used once: the thread ends up in the step's root. */
export class ContainerRun {
  readonly #space: OverlaySpace;
  readonly #step: RunStep;
  readonly #mounts: readonly WorkerMount[];
  readonly #process: StepProcess;
  #init: StepInit | undefined;
  #stopped = false;
  mountPoints: readonly string[] = [];

  /** @param init the step's first process, when it was started before, with the namespaces of the step. */
  constructor(
    { space, step, mounts }: Extract<WorkerTask, { kind: 'run' }>,
    channel: Omit<RunChannel, 'exited'>,
    init: StepInit | undefined,
  ) {
    this.#init = init;
    this.#space = space;
    this.#step = step;
    this.#mounts = mounts;
    // What the step left running still holds its output; it must not hold up the build.
    this.#process = new StepProcess(step, { ...channel, exited: () => this.stop() });
  }

  /** @throws BuildError `E_RUN_START`, `E_USER_NOT_FOUND`; EnvironmentError `E_ISOLATION_…`. */
  async run(): Promise<RunResult> {
    this.#init ??= startInit();
    try {
      readIds();
      const own = ownCapabilities('effective');
      const capabilities = containerCapabilities.filter((name) => own.has(name)).map(capabilityNumber);
      const hint = missingCapabilitiesHint();
      const root = mountOverlay(this.#space, { stubs: true });
      const points = new MountPoints(root);
      const proc = mountSystem(root, this.#space, points);
      this.mountPoints = points.made;
      await this.#init.mountProc(proc);
      if (this.#mounts.length > 0) await this.#mountAll(root, points);
      maskPaths(root);
      setHostname('kiln');
      if (this.#step.network === 'none') isolateNetwork();
      enterRoot(root);
      const user = resolveUser('/', this.#step.user, this.#step.where);
      if (!existsSync(this.#step.workingDirectory))
        mkdirSync(this.#step.workingDirectory, { recursive: true });
      dropPrivileges(user, capabilities, this.#step.where);
      if (this.#stopped) throw new DOMException('The step was stopped', 'AbortError');
      const result = await this.#process.run({ HOME: user.home, ...this.#step.env });
      return hint === undefined || result.exitCode === 0 ? result : { ...result, hint };
    } finally {
      this.#stopped = true;
      await this.#init.stop();
    }
  }

  async #mountAll(root: string, points: MountPoints): Promise<void> {
    // Most steps have no mounts of their own.
    const { mountForStep } = await import('./step-mounts.ts');
    mountForStep(root, this.#space, this.#mounts, points, this.#step.where);
  }

  /** Ends the step: its init sees the end of its input, and the kernel ends all its processes. */
  stop(): void {
    this.#stopped = true;
    void this.#init?.stop();
  }

  /** Output has reached the executor; a step that was made to wait goes on. */
  taken(bytes: number): void {
    this.#process.taken(bytes);
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
function dropPrivileges(
  { uid, gid, groups }: UserIdentity,
  capabilities: readonly number[],
  where: string,
): void {
  if (!hasId(idMap('uid'), uid)) throw unmappedId(`user ${uid}`, where);
  const unmapped = [gid, ...groups].find((id) => !hasId(idMap('gid'), id));
  if (unmapped !== undefined && (unmapped === gid || !hasSingleId()))
    throw unmappedId(`group ${unmapped}`, where);
  for (let capability = 0; capability <= lastCapability; capability++)
    if (!capabilities.includes(capability)) dropBoundingCapability(capability);
  const mask = capabilities.reduce((set, capability) => set | (1n << BigInt(capability)), 0n);
  // Only this thread changes: the child inherits from it. Ids first, while the right to change them is still there.
  // A user namespace with a single id may set no supplementary groups.
  setThreadIdentity({ uid, gid, groups: hasSingleId() ? undefined : groups });
  if (uid === 0) setThreadCapabilities({ permitted: mask, effective: mask, inheritable: 0n });
}
