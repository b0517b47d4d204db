import { SingleFlight } from '../../src/support/index.ts';
import type { StoredImageSummary, Volume, VolumeUsage } from '../../src/volume/index.ts';
import type { Clock } from './clock.ts';
import { keyOf } from './image-key.ts';

/** What was read less than this ago answers again; whoever changes the volume says so. In milliseconds. */
const maximumAge = 5000;

/** Remembers what a costly question gave. */
class Remembered<T> {
  readonly #clock: Clock;
  readonly #ask: () => Promise<T>;
  readonly #flight = new SingleFlight<number, T>();
  #version = 0;
  #last: { readonly at: number; readonly value: T } | undefined;

  constructor(clock: Clock, ask: () => Promise<T>) {
    this.#clock = clock;
    this.#ask = ask;
  }

  async get(): Promise<T> {
    const now = this.#clock.now();
    if (this.#last !== undefined && now - this.#last.at < maximumAge) return this.#last.value;
    const version = this.#version;
    // Who asks after a change does not join an answer that was begun before it.
    const value = await this.#flight.run(version, this.#ask);
    if (version === this.#version) this.#last = { at: now, value };
    return value;
  }

  forget(): void {
    this.#version += 1;
    this.#last = undefined;
  }
}

/** What lies on the volume, without reading it again for every question. */
export class VolumeView {
  readonly #images: Remembered<ReadonlyMap<string, StoredImageSummary>>;
  readonly #usage: Remembered<VolumeUsage>;

  constructor(volume: Pick<Volume, 'images' | 'usage'>, clock: Clock) {
    this.#images = new Remembered(clock, async () => {
      const images = await volume.images();
      return new Map(images.map((image) => [keyOf(image), image]));
    });
    this.#usage = new Remembered(clock, () => volume.usage());
  }

  /** The images by key. */
  images(): Promise<ReadonlyMap<string, StoredImageSummary>> {
    return this.#images.get();
  }

  usage(): Promise<VolumeUsage> {
    return this.#usage.get();
  }

  /** The volume has changed. */
  changed(): void {
    this.#images.forget();
    this.#usage.forget();
  }
}

/** True when a build would start with a mount. */
export function isWarm(image: StoredImageSummary | undefined): image is StoredImageSummary {
  return image !== undefined && image.complete && image.unpacked;
}
