import type { Layer } from '../layer/index.ts';
import type { Descriptor } from '../oci/index.ts';
import { type Progress, messageOf } from '../support/index.ts';
import type { ImageKey, IndexDatabase } from './index-db.ts';
import { keyOf, recordUses } from './index-uses.ts';
import { platformKey, refNameAnnotation } from './oci-layout.ts';

/** Milliseconds after which a process that stays, such as the warmer, has its uses written. */
const delay = 5000;

/**
 * Counts the uses of images by those of their layers. They are written when the volume is closed: a build must not wait
 * for the database before its first step.
 */
export class UseCounter {
  readonly #index: IndexDatabase;
  readonly #progress: Progress | undefined;
  /** Which image a layer handed out belongs to. */
  readonly #owners = new WeakMap<Layer, ImageKey>();
  readonly #pending = new Map<string, ImageKey>();

  constructor(index: IndexDatabase, progress: Progress | undefined) {
    this.#index = index;
    this.#progress = progress;
  }

  /** Notes that layers are those of an entry of `index.json`. */
  own(layers: readonly Layer[], descriptor: Descriptor): void {
    const reference = descriptor.annotations?.[refNameAnnotation];
    if (reference === undefined) return;
    for (const layer of layers)
      this.#owners.set(layer, { reference, platform: platformKey(descriptor.platform) });
  }

  count(layers: readonly Layer[]): void {
    for (const layer of layers) {
      const owner = this.#owners.get(layer);
      if (owner !== undefined) this.#pending.set(keyOf(owner), owner);
    }
    if (this.#pending.size > 0) setTimeout(() => this.#flushInBackground(), delay).unref();
  }

  /** Writes what was counted. */
  async flush(): Promise<void> {
    if (this.#pending.size === 0) return;
    const keys = [...this.#pending.values()];
    this.#pending.clear();
    await recordUses(this.#index, keys, Date.now());
  }

  #flushInBackground(): void {
    this.flush().catch((error: unknown) =>
      this.#progress?.warn(`uses of the volume were not counted: ${messageOf(error)}`),
    );
  }
}
