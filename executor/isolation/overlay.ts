import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { makeMergeable, writeLayer } from '../../src/layer/index.ts';
import type { Digest } from '../../src/oci/index.ts';
import {
  BuildError,
  EnvironmentError,
  isAbortError,
  KilnError,
  messageOf,
  randomName,
  systemErrorCode,
} from '../../src/support/index.ts';
import type { CopyRequest, Gathered, SourceQuery } from '../context/index.ts';
import { fileCapabilities, requireCapabilities } from './capabilities.ts';
import type { OverlaySpace, WorkerTask } from './messages.ts';
import { mayMount, mountRefused } from './mount-rights.ts';
import { removeMountPoints } from './mounts.ts';
import type { GatheredTree, PreparedMounts } from './prepare-mounts.ts';
import { linkSource, makeSpace, mountedSource } from './overlay-space.ts';
import { passOn, performTask, type TaskHooks, WorkerPool } from './task-worker.ts';
import type {
  CopySource,
  Isolation,
  LayerStack,
  MountedRunResult,
  Rootfs,
  RootfsOptions,
  RunOptions,
  RunResult,
  RunStep,
  SealedStep,
  StepMount,
} from './types.ts';

/**
 * The `overlay` backend: overlayfs over unpacked layers, RUN in its own mount, pid, ipc and uts namespaces, pivoted, with
 * a container's default capabilities. Needs the right to mount.
 */
export class OverlayIsolation implements Isolation {
  readonly name = 'overlay';
  readonly isExclusive = false;
  readonly #workers = new WorkerPool(import.meta.url, 'rootfs-worker');

  /** Trees for mounts, by what they are of. They lie in the scratch space, and go with it. */
  readonly #gathered = new Map<string, Promise<GatheredTree>>();

  /** Whether something was mounted, so that no later failure comes from rights that are missing. */
  #hasMounted = false;

  async preflight(scratch: string): Promise<void> {
    await this.#requireRights(scratch);
    const space = await makeSpace(scratch, []);
    try {
      await this.perform({ kind: 'probe', space });
    } catch (error) {
      throw await mountRefused(error, scratch);
    } finally {
      await rm(space.directory, { recursive: true, force: true });
    }
  }

  /** Tells at once what need not be tried, before anything is fetched for it. */
  async #requireRights(scratch: string): Promise<void> {
    if (!mayMount()) throw await mountRefused(new Error('it may not mount'), scratch);
    requireCapabilities('running steps on an overlay', [...fileCapabilities, 'SETPCAP', 'SYS_CHROOT']);
  }

  async openRootfs(layers: LayerStack, options: RootfsOptions): Promise<Rootfs> {
    await this.#requireRights(options.scratch);
    return new OverlayRootfs(this, (await layers.directories()).reverse(), options);
  }

  async digestSources(
    layers: LayerStack,
    query: SourceQuery,
    options: { readonly modes: boolean },
    scratch: string,
    signal?: AbortSignal,
  ): Promise<Digest> {
    await this.#requireRights(scratch);
    const space = await makeSpace(scratch, []);
    try {
      const lowerCount = await linkSource(space, await layers.directories());
      const task = { kind: 'digest', space: { ...space, lowerCount }, query, modes: options.modes } as const;
      return (await this.perform(task, { signal })).result as Digest;
    } catch (error) {
      throw (await this.explain(error, scratch)) ?? error;
    } finally {
      await rm(space.directory, { recursive: true, force: true });
    }
  }

  async gather(
    source: CopySource,
    request: CopyRequest,
    directory: string,
    scratch: string,
    signal?: AbortSignal,
  ): Promise<void> {
    await this.#gather(source, request, directory, scratch, signal);
  }

  async #gather(
    source: CopySource,
    request: CopyRequest,
    directory: string,
    scratch: string,
    signal?: AbortSignal,
  ): Promise<Gathered> {
    const space = await makeSpace(scratch, []);
    try {
      const mounted = await mountedSource(space, source);
      const task = { kind: 'gather', space, source: mounted, request, directory } as const;
      return (await this.perform(task, { signal })).result as Gathered;
    } finally {
      await rm(space.directory, { recursive: true, force: true });
    }
  }

  /** What of a directory outside steps have mounted, copied once: as it was then, and as an image would have it. */
  gathered(request: CopyRequest, scratch: string, signal?: AbortSignal): Promise<GatheredTree> {
    const key = JSON.stringify(request.query);
    const known = this.#gathered.get(key);
    if (known !== undefined) return known;
    const directory = join(scratch, randomName('mounted-'));
    const tree = mkdir(directory, { mode: 0o755 }).then(async () => ({
      ...(await this.#gather({ kind: 'directory' }, request, directory, scratch, signal)),
      directory,
    }));
    this.#gathered.set(key, tree);
    return tree;
  }

  /** Has a worker do one task; aborting ends the worker and all its processes. */
  async perform(
    task: WorkerTask,
    hooks: TaskHooks = {},
  ): Promise<{ result: unknown; mountPoints: readonly string[] }> {
    const done = await performTask<WorkerTask>(this.#workers, task, hooks);
    this.#hasMounted = true;
    return { result: done.result, mountPoints: done.mountPoints ?? [] };
  }

  /** The error for the first task that failed, when that is because nothing can be mounted here. */
  async explain(error: unknown, scratch: string): Promise<KilnError | undefined> {
    if (this.#hasMounted || error instanceof KilnError || isAbortError(error)) return undefined;
    try {
      await this.preflight(scratch);
      return undefined;
    } catch (reason) {
      return reason instanceof KilnError ? reason : undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#workers.close();
  }
}

class OverlayRootfs implements Rootfs {
  readonly #isolation: OverlayIsolation;
  readonly #options: RootfsOptions;
  /** Nearest first. */
  #lowers: string[];
  #space: OverlaySpace | undefined;
  #mountPoints = new Set<string>();

  constructor(isolation: OverlayIsolation, lowers: string[], options: RootfsOptions) {
    this.#isolation = isolation;
    this.#lowers = lowers;
    this.#options = options;
  }

  async run(step: RunStep, mounts: readonly StepMount[], options: RunOptions): Promise<MountedRunResult> {
    const space = await this.#open();
    await using prepared = await this.#guard(() => this.#prepare(space, step, mounts, options.signal));
    const { result, mountPoints } = await this.#guard(() =>
      this.#isolation.perform(
        { kind: 'run', space, step, mounts: prepared.mounts },
        {
          signal: options.signal,
          onMessage: (message, worker) => passOn(message, worker, options),
        },
      ),
    );
    for (const path of mountPoints) this.#mountPoints.add(path);
    return { ...(result as RunResult), stamps: prepared.stamps };
  }

  async #prepare(
    space: OverlaySpace,
    step: RunStep,
    mounts: readonly StepMount[],
    signal: AbortSignal | undefined,
  ): Promise<PreparedMounts> {
    if (mounts.length === 0)
      return { mounts: [], stamps: [], [Symbol.asyncDispose]: () => Promise.resolve() };
    // Most steps have no mounts of their own.
    const { prepareMounts } = await import('./prepare-mounts.ts');
    return prepareMounts(mounts, {
      space,
      where: step.where,
      gather: (request) => this.#isolation.gathered(request, this.#options.scratch, signal),
    });
  }

  async copy(source: CopySource, request: CopyRequest, signal?: AbortSignal): Promise<string> {
    const space = await this.#open();
    const mounted = await mountedSource(space, source);
    const { result } = await this.#guard(() =>
      this.#isolation.perform({ kind: 'copy', space, source: mounted, request }, { signal }),
    );
    return result as string;
  }

  async makeDirectory(path: string, user: string, where: string, signal?: AbortSignal): Promise<void> {
    const space = await this.#open();
    await this.#guard(() => this.#isolation.perform({ kind: 'mkdir', space, path, user, where }, { signal }));
  }

  async seal(): Promise<SealedStep> {
    const space = await this.#open();
    const upper = join(space.directory, 'upper');
    removeMountPoints(upper, [...this.#mountPoints]);
    this.#mountPoints.clear();
    const { clampTime, ignored, isMergeable } = this.#options;
    if (isMergeable) await makeMergeable(upper);
    const diff = { upper, lowers: this.#lowers, clampTime, ignored };
    this.#lowers = [upper, ...this.#lowers];
    this.#space = undefined;
    return {
      files: { kind: 'upper', directory: upper },
      write: (output, signal) => writeLayer({ ...diff, ...output }, signal),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A step that was not sealed is thrown away; what was sealed belongs to the build.
    if (this.#space !== undefined) await rm(this.#space.directory, { recursive: true, force: true });
    this.#space = undefined;
  }

  async #open(): Promise<OverlaySpace> {
    this.#space ??= await makeSpace(this.#options.scratch, this.#lowers);
    return this.#space;
  }

  async #guard<Value>(work: () => Promise<Value>): Promise<Value> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof KilnError || isAbortError(error)) throw error;
      if (systemErrorCode(error) === 'ENOSPC')
        throw new EnvironmentError(`no space left in ${this.#options.scratch}`, {
          code: 'E_NO_SPACE',
          cause: error,
          remedy: 'Free some space there, or use another scratch directory.',
        });
      const reason = await this.#isolation.explain(error, this.#options.scratch);
      if (reason !== undefined) throw reason;
      throw new BuildError(`the step failed: ${messageOf(error)}`, { code: 'E_STEP_FAILED', cause: error });
    }
  }
}
