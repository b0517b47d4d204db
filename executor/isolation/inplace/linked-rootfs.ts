import { join } from 'node:path';
import type { CapturedLayer } from '../../../src/layer/index.ts';
import { randomName } from '../../../src/support/index.ts';
import type { CopyRequest } from '../../context/index.ts';
import type { CopySource, Rootfs, MountedRunResult, RootfsOptions, SealedStep } from '../types.ts';
import { sealedStep } from './inplace-rootfs.ts';
import type { LinkedCopy } from './messages.ts';
import type { RootThread } from './root-thread.ts';

/** What one copy with `--link` is made in. It needs nothing of the root, so that it waits for no other stage. */
export class LinkedRootfs implements Rootfs {
  readonly #thread: RootThread;
  readonly #options: RootfsOptions;
  #layer: CapturedLayer | undefined;

  constructor(thread: RootThread, options: RootfsOptions) {
    this.#thread = thread;
    this.#options = options;
  }

  async copy(source: CopySource, request: CopyRequest, signal?: AbortSignal): Promise<string> {
    const { scratch, clampTime, ignored } = this.#options;
    const tree =
      source.kind === 'layers'
        ? await this.#thread.ask<string>(
            { kind: 'tree', layers: await source.layers.sources(), scratch },
            signal,
          )
        : undefined;
    const capture = { output: join(scratch, randomName('captured-')), clampTime, ignored };
    const { stamp, layer } = await this.#thread.ask<LinkedCopy>(
      { kind: 'link', source: tree, request, capture },
      signal,
    );
    this.#layer = layer;
    return stamp;
  }

  run(): Promise<MountedRunResult> {
    return Promise.reject(new Error('a copy onto nothing runs no command'));
  }

  makeDirectory(): Promise<void> {
    return Promise.reject(new Error('a copy onto nothing has no working directory'));
  }

  seal(): Promise<SealedStep> {
    return Promise.resolve(sealedStep(this.#layer));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}
