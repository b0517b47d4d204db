import type { Digest } from '../../src/oci/index.ts';
import type { Isolation, Rootfs } from './types.ts';

/** Where no step can run. A build that takes everything from the cache does not notice. */
export class UnavailableIsolation implements Isolation {
  readonly name = 'none';
  readonly isExclusive = false;
  readonly #reason: Error;

  /** @param reason what every step fails with. */
  constructor(reason: Error) {
    this.#reason = reason;
  }

  preflight(): Promise<void> {
    return Promise.reject(this.#reason);
  }

  openRootfs(): Promise<Rootfs> {
    return Promise.reject(this.#reason);
  }

  digestSources(): Promise<Digest> {
    return Promise.reject(this.#reason);
  }

  gather(): Promise<void> {
    return Promise.reject(this.#reason);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}
