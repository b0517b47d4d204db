import type { Progress, TemporaryDirectory } from '../src/support/index.ts';
import type { BuildOptions } from './options.ts';
import { type BuildVolumes, openVolumes } from './volumes.ts';
import { waitForWarmer } from './wait-for-warmer.ts';

/** The volumes of a build and its scratch space, opened when they are first needed. */
export class Workplace implements AsyncDisposable {
  readonly #options: BuildOptions;
  readonly #progress: Progress;
  readonly #signal: AbortSignal;
  #volumes: Promise<BuildVolumes> | undefined;
  #scratch: Promise<TemporaryDirectory> | undefined;

  constructor(options: BuildOptions, progress: Progress, signal: AbortSignal) {
    this.#options = options;
    this.#progress = progress;
    this.#signal = signal;
  }

  /** Waits for the node's warmer first, when that was asked for: it may be about to make the volume. */
  volumes(): Promise<BuildVolumes> {
    return (this.#volumes ??= this.#openVolumes());
  }

  /** The build's own directory; its path. */
  async scratch(): Promise<string> {
    this.#scratch ??= this.volumes().then((volumes) => volumes.scratch());
    return (await this.#scratch).path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What could not be opened was told by whoever needed it.
    const [scratch, volumes] = await Promise.allSettled([this.#scratch, this.#volumes]);
    if (scratch.status === 'fulfilled') await scratch.value?.[Symbol.asyncDispose]();
    if (volumes.status === 'fulfilled') await volumes.value?.[Symbol.asyncDispose]();
  }

  async #openVolumes(): Promise<BuildVolumes> {
    const { cacheDirectory, waitForWarmerSeconds } = this.#options;
    if (waitForWarmerSeconds !== undefined)
      await waitForWarmer(cacheDirectory, waitForWarmerSeconds, this.#progress, this.#signal);
    return openVolumes(this.#options, this.#progress);
  }
}
