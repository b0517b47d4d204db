import { mkdir, readFile, rm, stat, symlink, writeFile, chmod, chown } from 'node:fs/promises';
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
import type { CopyRequest, SourceQuery } from '../context/index.ts';
import { fileCapabilities, requireCapabilities } from './capabilities.ts';
import type { MountedSource, OverlaySpace, WorkerTask } from './messages.ts';
import { mayMount, mountRefused } from './mount-rights.ts';
import { removeMountPoints } from './mounts.ts';
import { passOn, performTask, type TaskHooks, WorkerPool } from './task-worker.ts';
import type {
  CopySource,
  Isolation,
  LayerStack,
  Rootfs,
  RootfsOptions,
  RunOptions,
  RunResult,
  RunStep,
  SealedStep,
} from './types.ts';

/**
 * The `overlay` backend: overlayfs over unpacked layers, RUN in its own mount, pid, ipc and uts namespaces, pivoted, with
 * a container's default capabilities. Needs the right to mount.
 */
export class OverlayIsolation implements Isolation {
  readonly name = 'overlay';
  readonly isExclusive = false;
  readonly #workers = new WorkerPool(import.meta.url, 'rootfs-worker');

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

  async run(step: RunStep, options: RunOptions): Promise<RunResult> {
    const space = await this.#open();
    const { result, mountPoints } = await this.#guard(() =>
      this.#isolation.perform(
        { kind: 'run', space, step },
        {
          signal: options.signal,
          onMessage: (message, worker) => passOn(message, worker, options),
        },
      ),
    );
    for (const path of mountPoints) this.#mountPoints.add(path);
    return result as RunResult;
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
    const { clampTime, isMergeable } = this.#options;
    if (isMergeable) await makeMergeable(upper);
    const diff = { upper, lowers: this.#lowers, clampTime };
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

/** Makes the directories of one layer's work; `lowers` nearest first. */
async function makeSpace(scratch: string, lowers: readonly string[]): Promise<OverlaySpace> {
  const directory = join(scratch, randomName('step-'));
  for (const name of ['upper', 'work', 'merged', 'source', 'empty'])
    await mkdir(join(directory, name), { recursive: true });
  const nearest = lowers[0];
  if (nearest !== undefined) {
    // The merged root shows the upper directory's own attributes.
    const { mode, uid, gid } = await stat(nearest);
    await chown(join(directory, 'upper'), uid, gid);
    await chmod(join(directory, 'upper'), mode & 0o7777);
  } else await chmod(join(directory, 'upper'), 0o755);
  const targets = lowers.length === 0 ? ['empty'] : lowers;
  await makeStubs(join(directory, 'stubs'));
  await Promise.all(
    [...targets, 'stubs'].map((target, index) => symlink(target, join(directory, String(index)))),
  );
  const files = await writeNetworkFiles(directory);
  return { directory, lowerCount: targets.length, files };
}

/**
 * Makes the lowest layer of RUN steps: the places where /proc, /dev and the like are mounted, for images that lack them.
 * Made in the upper directory instead, they would change the times of their parents, and so the layer.
 */
async function makeStubs(directory: string): Promise<void> {
  for (const name of ['proc', 'sys', 'dev', 'etc'])
    await mkdir(join(directory, name), { recursive: true, mode: 0o755 });
  for (const name of ['resolv.conf', 'hosts', 'hostname']) await writeFile(join(directory, 'etc', name), '');
}

/** Makes the files to copy from ready to be mounted by the worker. */
async function mountedSource(space: OverlaySpace, source: CopySource): Promise<MountedSource> {
  if (source.kind === 'directory') return source;
  const layers = await source.layers.directories();
  await linkSource(space, layers);
  return { kind: 'layers', layers: layers.length === 0 ? [''] : layers };
}

/** Links a stack of layers (lowest first) into a space as `s0`…, nearest first, replacing an earlier one. */
async function linkSource(space: OverlaySpace, layers: readonly string[]): Promise<number> {
  const targets = layers.length === 0 ? ['empty'] : [...layers].reverse();
  for (const [index, target] of targets.entries()) {
    const link = join(space.directory, `s${index}`);
    await rm(link, { force: true });
    await symlink(target, link);
  }
  return targets.length;
}

async function writeNetworkFiles(directory: string): Promise<string[]> {
  const hosts = '127.0.0.1\tlocalhost kiln\n::1\tlocalhost ip6-localhost ip6-loopback\n';
  const resolv = await readFile('/etc/resolv.conf', 'utf8').catch((error: unknown) => {
    if (systemErrorCode(error) === 'ENOENT') return '';
    throw error;
  });
  const contents = { 'resolv.conf': resolv, hosts, hostname: 'kiln\n' };
  await Promise.all(Object.entries(contents).map(([name, text]) => writeFile(join(directory, name), text)));
  return Object.keys(contents);
}
