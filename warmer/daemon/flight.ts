import type { Digest, Image } from '../../src/oci/index.ts';
import type { ImageName, StoredImage } from '../../src/volume/index.ts';
import type { ImageRequest } from './image-key.ts';
import type { PullRecord } from './types.ts';

/** Why an image could not be brought. */
export type FlightFailure =
  | {
      readonly outcome: 'failed' | 'skipped_disk';
      readonly error: unknown;
      /** The registry as a whole did not answer: that says nothing about the image. */
      readonly registryAway: boolean;
    }
  | {
      readonly outcome: 'rate_limited';
      readonly error: unknown;
      readonly registryAway: true;
      /** Milliseconds that the registry wants to be left alone for, when it says so. */
      readonly retryAfter: number | undefined;
    };

/** How bringing an image ended. */
export type FlightEnd =
  | { readonly outcome: 'pulled' | 'fresh'; readonly image: StoredImage }
  | FlightFailure
  /** The registry is left alone until then (milliseconds since 1970); nothing was asked. */
  | { readonly outcome: 'postponed'; readonly until: number }
  | { readonly outcome: 'stopped'; readonly error: unknown };

/** What those who wait for an image hear while it is brought. */
export interface FlightListener {
  /** Bytes of layers that have arrived, of all that were missing. */
  onProgress?(bytes: number, total: number): void;
  /** At most once; not when nothing has to be fetched. */
  onImage?(image: Pick<Image, 'manifestBytes' | 'configBytes'>): void;
}

/** An image on its way; however many want it, it is brought once. */
export class Flight {
  readonly request: ImageRequest;
  readonly name: ImageName;
  readonly reason: PullRecord['reason'];
  phase: 'pending' | 'checking' | 'pulling' = 'pending';
  /** A build waits for it. */
  urgent: boolean;
  /** Lets it go before others that wait. */
  hurry: () => void = () => undefined;
  /** Settles, and never rejects, when it has ended. */
  readonly done: Promise<FlightEnd>;
  readonly end: (end: FlightEnd) => void;
  #transfer: { readonly bytes: number; readonly total: number } | undefined;
  #image: Image | undefined;
  readonly #listeners = new Set<FlightListener>();

  constructor(request: ImageRequest, name: ImageName, reason: PullRecord['reason']) {
    this.request = request;
    this.name = name;
    this.reason = reason;
    this.urgent = reason === 'build';
    ({ promise: this.done, resolve: this.end } = Promise.withResolvers<FlightEnd>());
  }

  get transfer(): { readonly bytes: number; readonly total: number } | undefined {
    return this.#transfer;
  }

  /** The manifest that is fetched, once that is known. */
  get digest(): Digest | undefined {
    return this.#image?.descriptor.digest;
  }

  /** Follows it, from what is known already on. Disposing the result ends that. */
  follow(listener: FlightListener): Disposable {
    this.#listeners.add(listener);
    if (this.#image !== undefined) listener.onImage?.(this.#image);
    if (this.#transfer !== undefined) listener.onProgress?.(this.#transfer.bytes, this.#transfer.total);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  tellImage(image: Image): void {
    this.#image = image;
    for (const listener of this.#listeners) listener.onImage?.(image);
  }

  tellProgress(bytes: number, total: number): void {
    this.#transfer = { bytes, total };
    for (const listener of this.#listeners) listener.onProgress?.(bytes, total);
  }
}
