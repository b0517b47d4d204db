import { join } from 'node:path';
import {
  type CapturedLayer,
  compressCaptured,
  type LayerFacts,
  spaceError,
} from '../../../src/layer/index.ts';
import { EnvironmentError, type Progress, randomName } from '../../../src/support/index.ts';
import type { CopyRequest } from '../../context/index.ts';
import { listenIn } from '../listen-in.ts';
import type {
  CopySource,
  MountedRunResult,
  Rootfs,
  RunOptions,
  RunStep,
  SealedStep,
  StepMount,
} from '../types.ts';
import type { PlacedMounts, RootMount, RootTask, StepView } from './messages.ts';
import type { RootThread } from './root-thread.ts';
import type { StepRunner } from './step-runner.ts';

export interface InplaceRootfsParts {
  readonly thread: RootThread;
  readonly steps: StepRunner;
  readonly scratch: string;
  /** No modification time in a layer is later, in seconds since the epoch. */
  readonly clampTime: number | undefined;
  /** Absolute paths that are in no layer. */
  readonly ignored: readonly string[];
  /** Given back when the root file system is closed. */
  readonly turn: Disposable;
  readonly progress: Progress;
}

/** A stage in the root of the container, as long as it is its turn. */
export class InplaceRootfs implements Rootfs {
  readonly #parts: InplaceRootfsParts;
  #isClosed = false;

  constructor(parts: InplaceRootfsParts) {
    this.#parts = parts;
  }

  async run(step: RunStep, mounts: readonly StepMount[], options: RunOptions): Promise<MountedRunResult> {
    const { workingDirectory, network, where } = step;
    if (network === 'none') throw noNetwork(where);
    const view = await this.#ask<StepView>({ kind: 'step', workingDirectory }, options.signal);
    this.#requireOwnDirectory(step, view);
    if (mounts.length === 0) return { ...(await this.#parts.steps.run(step, options)), stamps: [] };
    const task = { kind: 'place', mounts: await this.#rootMounts(mounts, options.signal), where } as const;
    try {
      const { paths, stamps } = await this.#ask<PlacedMounts>(task);
      options.signal?.throwIfAborted();
      await using _sockets = await listenAt(mounts, paths);
      return { ...(await this.#parts.steps.run(step, options)), stamps };
    } finally {
      await this.#ask({ kind: 'unplace' });
    }
  }

  /** Mounts as the thread of the root knows them: trees of layers are made for it. */
  #rootMounts(mounts: readonly StepMount[], signal: AbortSignal | undefined): Promise<RootMount[]> {
    return Promise.all(
      mounts.map(async (mount): Promise<RootMount> => {
        const { kind, target } = mount;
        if (kind === 'socket' || kind === 'tmpfs') return { kind, target };
        if (kind !== 'tree') return mount;
        const root = await this.#treeOf(mount.source, signal);
        const query = root === undefined ? mount.query : { ...mount.query, root };
        return { kind, target, query, keepOwners: root !== undefined };
      }),
    );
  }

  /** A directory with the files of layers; undefined for a source that is a directory already. */
  async #treeOf(source: CopySource, signal: AbortSignal | undefined): Promise<string | undefined> {
    const { scratch } = this.#parts;
    if (source.kind === 'directory') return undefined;
    return this.#ask<string>({ kind: 'tree', layers: await source.layers.sources(), scratch }, signal);
  }

  #requireOwnDirectory(step: RunStep, { foreignDirectory, hidden }: StepView): void {
    if (foreignDirectory !== undefined)
      throw new EnvironmentError(
        `the step runs in ${step.workingDirectory}, but ${foreignDirectory} belongs to this container, and what the step does there would not be in the image`,
        {
          code: 'E_INPLACE_PATH',
          where: step.where,
          remedy: `Mount what is there somewhere else, for example below /kiln/mounts.`,
        },
      );
    if (hidden.length > 0)
      this.#parts.progress.warn(
        `the step at ${step.where} does not see what the image has at ${hidden.join(', ')}: these paths belong to this container`,
      );
  }

  async copy(source: CopySource, request: CopyRequest, signal?: AbortSignal): Promise<string> {
    const tree = await this.#treeOf(source, signal);
    return this.#ask<string>({ kind: 'copy', source: tree, request }, signal);
  }

  async makeDirectory(path: string, user: string, where: string, signal?: AbortSignal): Promise<void> {
    await this.#ask({ kind: 'mkdir', path, user, where }, signal);
  }

  async seal(): Promise<SealedStep> {
    const { scratch, clampTime, ignored } = this.#parts;
    const capture = { output: join(scratch, randomName('captured-')), clampTime, ignored };
    return sealedStep(await this.#ask<CapturedLayer | undefined>({ kind: 'snapshot', capture }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const { thread, turn } = this.#parts;
    await thread.ask({ kind: 'close' }).finally(() => turn[Symbol.dispose]());
  }

  async #ask<Result>(task: RootTask, signal?: AbortSignal): Promise<Result> {
    try {
      return await this.#parts.thread.ask<Result>(task, signal);
    } catch (error) {
      throw spaceError(error, '/') ?? error;
    }
  }
}

/** Has the sockets of a step listen in their places. */
async function listenAt(
  mounts: readonly StepMount[],
  paths: readonly string[],
): Promise<AsyncDisposableStack> {
  await using stack = new AsyncDisposableStack();
  for (const [index, mount] of mounts.entries())
    if (mount.kind === 'socket') stack.use(await listenIn(paths[index] ?? mount.target, mount));
  return stack.move();
}

function noNetwork(where: string): EnvironmentError {
  return new EnvironmentError(
    'RUN --network=none cannot be had in place: the step has the network of the container',
    {
      code: 'E_INPLACE_NETWORK',
      where,
      remedy:
        'Build where something can be mounted (--isolation overlay), or leave it out and keep the network from the whole pod with a NetworkPolicy.',
    },
  );
}

/** A step whose changes were captured. @param layer undefined when there were none. */
export function sealedStep(layer: CapturedLayer | undefined): SealedStep {
  return {
    files: { kind: 'captured', layer },
    write: async (request, signal) => layer && compress(layer, request, signal),
  };
}

async function compress(
  layer: CapturedLayer,
  request: Parameters<SealedStep['write']>[0],
  signal?: AbortSignal,
): Promise<LayerFacts> {
  const facts = await compressCaptured(layer, request, signal);
  // It lay where later steps could reach it.
  if (facts.diffID === layer.diffID) return facts;
  throw new EnvironmentError(`the layer of a step was changed before it was compressed (${layer.file})`, {
    code: 'E_INPLACE_ALTERED',
    remedy: 'A later step has written to the scratch space; do not trust this build.',
  });
}
