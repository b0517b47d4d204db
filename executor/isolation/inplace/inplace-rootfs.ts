import { join } from 'node:path';
import {
  type CapturedLayer,
  compressCaptured,
  type LayerFacts,
  spaceError,
} from '../../../src/layer/index.ts';
import { EnvironmentError, type Progress, randomName } from '../../../src/support/index.ts';
import type { CopyRequest } from '../../context/index.ts';
import type { CopySource, Rootfs, RunOptions, RunResult, RunStep, SealedStep } from '../types.ts';
import type { RootTask, StepView } from './messages.ts';
import type { RootThread } from './root-thread.ts';
import type { StepRunner } from './step-runner.ts';

export interface InplaceRootfsParts {
  readonly thread: RootThread;
  readonly steps: StepRunner;
  readonly scratch: string;
  /** No modification time in a layer is later, in seconds since the epoch. */
  readonly clampTime: number | undefined;
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

  async run(step: RunStep, options: RunOptions): Promise<RunResult> {
    const { workingDirectory } = step;
    const view = await this.#ask<StepView>({ kind: 'step', workingDirectory }, options.signal);
    this.#requireOwnDirectory(step, view);
    return this.#parts.steps.run(step, options);
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
    const { scratch } = this.#parts;
    const tree =
      source.kind === 'layers'
        ? await this.#ask<string>({ kind: 'tree', layers: await source.layers.sources(), scratch }, signal)
        : undefined;
    return this.#ask<string>({ kind: 'copy', source: tree, request }, signal);
  }

  async makeDirectory(path: string, user: string, where: string, signal?: AbortSignal): Promise<void> {
    await this.#ask({ kind: 'mkdir', path, user, where }, signal);
  }

  async seal(): Promise<SealedStep> {
    const { scratch, clampTime } = this.#parts;
    const capture = { output: join(scratch, randomName('captured-')), clampTime };
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
