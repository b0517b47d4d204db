import { type KilnError, type Progress } from '../../support/index.ts';
import { RegistryError } from '../errors.ts';

/** For how long a mirror that does not work is passed over, in milliseconds. */
const pauseMilliseconds = 60_000;

/** What is known of one mirror, by all that ask it. */
export class MirrorHealth {
  readonly #name: string;
  readonly #progress: Progress | undefined;
  #pausedUntil = 0;
  #warned = false;

  constructor(name: string, progress: Progress | undefined) {
    this.#name = name;
    this.#progress = progress;
  }

  /** False for a while after the mirror could not be reached, wanted to be left alone, or sent something wrong. */
  get usable(): boolean {
    return performance.now() >= this.#pausedUntil;
  }

  /** Takes note of a failure. The first is told as a warning, the others are not. */
  failed(error: KilnError): void {
    const lasting = /^E_(?:REGISTRY_UNAVAILABLE|REGISTRY_RATE_LIMITED|REGISTRY_CERTIFICATE|BLOB_CORRUPT)$/;
    if (lasting.test(error.code)) {
      const asked = error instanceof RegistryError ? (error.retryAfter ?? 0) : 0;
      this.#pausedUntil = performance.now() + Math.max(asked, pauseMilliseconds);
    }
    if (this.#warned) return;
    this.#warned = true;
    this.#progress?.warn(
      `the mirror ${this.#name} could not be used (${error.message}); others are asked where it fails`,
    );
  }
}
