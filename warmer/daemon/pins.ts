import { parsePlatform, parseReference } from '../../src/oci/index.ts';
import { messageOf, type Progress } from '../../src/support/index.ts';
import type { ImageName, StoredImageSummary, Volume } from '../../src/volume/index.ts';
import { keyOf } from './image-key.ts';

/** Pins what the configuration says is pinned, and takes back only pins of its own: those of people stay. */
export class Pins {
  readonly #volume: Pick<Volume, 'setPinned'>;
  readonly #progress: Progress;
  readonly #own: Map<string, ImageName>;

  /** @param own images that an earlier daemon pinned. */
  constructor(volume: Pick<Volume, 'setPinned'>, progress: Progress, own: readonly ImageName[]) {
    this.#volume = volume;
    this.#progress = progress;
    this.#own = new Map(own.map((name) => [keyOf(name), name]));
  }

  /** What has to survive a restart. */
  state(): ImageName[] {
    return [...this.#own.values()];
  }

  /**
   * Brings pins up to date.
   *
   * @param wanted keys of images that are to be pinned.
   * @param images what lies on the volume.
   * @returns true when any was changed.
   */
  async update(
    wanted: ReadonlySet<string>,
    images: ReadonlyMap<string, StoredImageSummary>,
  ): Promise<boolean> {
    let changed = false;
    for (const key of this.#own.keys()) if (!wanted.has(key) && !images.has(key)) this.#own.delete(key);
    for (const [key, { reference, platform, pinned }] of images) {
      if (wanted.has(key) && !pinned) {
        this.#own.set(key, { reference, platform });
        changed = (await this.#set({ reference, platform }, true)) || changed;
      } else if (!wanted.has(key) && this.#own.delete(key) && pinned)
        changed = (await this.#set({ reference, platform }, false)) || changed;
    }
    return changed;
  }

  async #set({ reference, platform }: ImageName, pinned: boolean): Promise<boolean> {
    try {
      await this.#volume.setPinned(parseReference(reference), parsePlatform(platform), pinned);
      return true;
    } catch (error) {
      this.#progress.warn(`${reference} was not ${pinned ? 'pinned' : 'unpinned'}: ${messageOf(error)}`);
      return false;
    }
  }
}
