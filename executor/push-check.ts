import { parseReference } from '../src/oci/index.ts';
import { type RegistryClient, RegistryError, type RepositoryName } from '../src/registry/index.ts';
import { KilnError, type Progress } from '../src/support/index.ts';
import type { OutputOptions } from './options.ts';

export interface PushCheckParts {
  readonly client: RegistryClient;
  readonly outputs: Pick<OutputOptions, 'destinations' | 'push' | 'checkPush'>;
  /** The layer cache that will be written: a repository or `oci:DIR`. */
  readonly cache: string | undefined;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

/**
 * Finds out whether the image may be pushed while the build is being planned, so that a long build does not end with a
 * refusal: in each repository an upload is begun, and given up. A refusal counts, and a registry that cannot be reached. One that has a
 * fault now may have none when the image is there.
 */
export class PushCheck implements AsyncDisposable {
  readonly #parts: PushCheckParts;
  readonly #controller = new AbortController();
  readonly #signal: AbortSignal;
  readonly #cancelled: Promise<void>[] = [];
  #settled = false;
  /**
   * Fulfilled when nothing is in the way of the push.
   *
   * @throws KilnError as the registry refused it.
   */
  readonly allowed: Promise<void>;

  /** Begins. */
  constructor(parts: PushCheckParts) {
    this.#parts = parts;
    this.#signal = AbortSignal.any([parts.signal, this.#controller.signal]);
    this.allowed = parts.outputs.checkPush ? this.#check() : Promise.resolve();
    // Who waits for it hears of it; a build that fails before does not.
    const settle = (): void => void (this.#settled = true);
    this.allowed.then(settle, settle);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What has begun is given up in the registries too, but nothing else is waited for.
    if (!this.#settled) this.#controller.abort();
    await Promise.allSettled([this.allowed]);
    await Promise.allSettled(this.#cancelled);
  }

  async #check(): Promise<void> {
    const { outputs, cache } = this.#parts;
    const repositories = new Map(
      (outputs.push ? outputs.destinations : []).map((name) => [`${name.registry}/${name.repository}`, name]),
    );
    const checks = [...repositories.values()].map((name) => this.#try(name));
    const written = cache === undefined || cache.startsWith('oci:') ? undefined : parseReference(cache);
    if (written !== undefined && !repositories.has(`${written.registry}/${written.repository}`))
      checks.push(this.#tryCache(written));
    await Promise.all(checks);
  }

  async #try(name: RepositoryName): Promise<void> {
    const failure = await this.#begin(name);
    if (failure === undefined) return;
    const { code, category, remedy, cause, message } = failure;
    if (isPassing(failure)) {
      this.#parts.progress.warn(`whether the image may be pushed is not known yet: ${message}`);
      return;
    }
    throw new KilnError(`nothing was built, since it could not be pushed: ${message}`, {
      ...{ code, category, cause },
      remedy: remedy ?? 'With --skip-push-permission-check the build begins all the same.',
    });
  }

  /** Without its cache a build is slower, and no worse. */
  async #tryCache(name: RepositoryName): Promise<void> {
    const failure = await this.#begin(name);
    if (failure !== undefined)
      this.#parts.progress.warn(`what is built will not be kept in the layer cache: ${failure.message}`);
  }

  /** Begins an upload, and gives it up. @returns why the registry takes none. */
  async #begin(name: RepositoryName): Promise<KilnError | undefined> {
    try {
      const { cancelled } = await this.#parts.client.repository(name).tryPush(this.#signal);
      this.#cancelled.push(cancelled);
      return undefined;
    } catch (error) {
      if (error instanceof KilnError) return error;
      throw error;
    }
  }
}

/** What another attempt may not meet: faults, and limits of requests. */
function isPassing(error: KilnError): boolean {
  return error instanceof RegistryError && (error.status >= 500 || error.status === 429);
}
