import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Digest } from '../../../src/oci/index.ts';
import { adoptOrphans, pinNameServices, setNotDumpable } from '../../../src/os/index.ts';
import { dockerConfigFiles } from '../../../src/registry/index.ts';
import type { Progress, TextFiles } from '../../../src/support/index.ts';
import type { SourceQuery } from '../../context/index.ts';
import { home, homeWork } from '../../home.ts';
import { fileCapabilities, requireCapabilities } from '../capabilities.ts';
import type { Isolation, LayerStack, Rootfs, RootfsOptions } from '../types.ts';
import { builderSecrets, ownPath, sparedPaths } from './builder-files.ts';
import { InplaceRootfs } from './inplace-rootfs.ts';
import { LinkedRootfs } from './linked-rootfs.ts';
import { Mutex } from './mutex.ts';
import { requireRoot } from './needs.ts';
import { markTaken, readContainerFacts, requireOwnContainer } from './own-container.ts';
import { pinOwnModules } from './pinned-modules.ts';
import { RootLock } from './root-lock.ts';
import { RootThread } from './root-thread.ts';
import { containerTerritory, type SlateOptions } from './slate.ts';
import { StepRunner } from './step-runner.ts';

export interface InplaceOptions {
  /** Paths that the build was given, besides mounts: context, Dockerfile, cache, outputs. */
  readonly given: readonly string[];
  /** Takes over the root file system also where it is not a container of Kiln's. */
  readonly force: boolean;
  /** Leaves an empty root also where the container ends with this process. */
  readonly cleanup: boolean;
  readonly progress: Progress;
  /** What reads the credentials. They are kept in memory, since their files are guarded while steps run. */
  readonly files: TextFiles;
}

/** What a build in place works with, once it has the root. */
interface Parts extends AsyncDisposable {
  readonly thread: RootThread;
  readonly steps: StepRunner;
}

/**
 * The `inplace` backend, for containers that may not mount: a stage's layers are unpacked over the container's own root,
 * steps run in it, and what they changed is found by looking at everything before and after. Kiln itself lies in a
 * directory of its own, with its own C library, and is neither touched nor part of any layer.
 */
export class InplaceIsolation implements Isolation {
  readonly name = 'inplace';
  readonly isExclusive = true;
  readonly #options: InplaceOptions;
  readonly #slate: SlateOptions;
  readonly #turns = new Mutex();
  #parts: Promise<Parts> | undefined;

  constructor(options: InplaceOptions) {
    this.#options = options;
    const spared = sparedPaths(process.env, options.given);
    this.#slate = { root: '/', work: homeWork, spared };
  }

  /**
   * Takes nothing over: that is done when a step must run.
   *
   * @throws EnvironmentError `E_INPLACE_USER`, `E_INPLACE_HOST`, `E_INPLACE_FOREIGN`, `E_CAPABILITY_MISSING`.
   */
  preflight(): Promise<void> {
    return Promise.resolve().then(() => {
      requireRoot();
      requireCapabilities('building in place', fileCapabilities);
      const territory = containerTerritory(this.#slate);
      requireOwnContainer(readContainerFacts(home, homeWork), territory, {
        home,
        force: this.#options.force,
      });
    });
  }

  async openRootfs(layers: LayerStack, options: RootfsOptions): Promise<Rootfs> {
    const { scratch, clampTime, isSource, signal } = options;
    if (options.isMergeable) return new LinkedRootfs((await this.#start(signal)).thread, options);
    const turn = await this.#turns.acquire(signal);
    try {
      const { thread, steps } = await this.#start(signal);
      const sources = await layers.sources();
      await thread.ask({ kind: 'open', layers: sources, isSource }, signal);
      return new InplaceRootfs({ thread, steps, scratch, clampTime, turn, progress: this.#options.progress });
    } catch (error) {
      turn[Symbol.dispose]();
      throw error;
    }
  }

  async digestSources(
    layers: LayerStack,
    query: SourceQuery,
    options: { readonly modes: boolean },
    scratch: string,
    signal?: AbortSignal,
  ): Promise<Digest> {
    const { thread } = await this.#start(signal);
    const tree = await thread.ask<string>({ kind: 'tree', layers: await layers.sources(), scratch }, signal);
    return thread.ask<Digest>({ kind: 'digest', tree, query, modes: options.modes }, signal);
  }

  #start(signal: AbortSignal | undefined): Promise<Parts> {
    return (this.#parts ??= this.#takeOver(signal));
  }

  /** Takes the root over: from here on, everything in it that is not spared is an image's. */
  async #takeOver(signal: AbortSignal | undefined): Promise<Parts> {
    const { progress, files } = this.#options;
    await this.preflight();
    await using cleanup = new AsyncDisposableStack();
    const { work } = this.#slate;
    mkdirSync(work, { recursive: true, mode: 0o700 });
    const waiting = (): void => progress.info('another build has the root of this container; waiting for it');
    cleanup.use(await RootLock.acquire(join(work, 'lock'), waiting, signal));
    markTaken(work);
    await this.#withdraw(files);
    const thread = cleanup.use(new RootThread(this.#slate, progress));
    const secrets = builderSecrets(process.env);
    const steps = cleanup.use(new StepRunner({ home, work, secrets, progress }));
    steps.warm();
    cleanup.defer(() => this.#leave(thread));
    const kept = cleanup.move();
    return { thread, steps, [Symbol.asyncDispose]: () => kept.disposeAsync() };
  }

  /** Makes this process independent of the root, and closed to what runs in it. */
  async #withdraw(files: TextFiles): Promise<void> {
    setNotDumpable();
    adoptOrphans();
    pinNameServices();
    const territory = containerTerritory(this.#slate);
    const isOwn = (directory: string): boolean =>
      territory.isExcluded(Buffer.from(directory).toString('latin1').replace(/^\/+/, ''));
    process.env.PATH = ownPath(process.env.PATH ?? '', isOwn);
    await Promise.all([...dockerConfigFiles(process.env).map((path) => files.keep(path)), pinOwnModules()]);
  }

  /**
   * Leaves an empty root to the next build, and to whatever starts next in this container. When this is its first process
   * the container ends with it, and what was moved away need not be deleted.
   */
  async #leave(thread: RootThread): Promise<void> {
    await thread.ask({ kind: 'finish', isDeleting: process.pid !== 1 || this.#options.cleanup });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const parts = await this.#parts?.catch(() => undefined); // the failure has been thrown where it matters
    await parts?.[Symbol.asyncDispose]();
  }
}
