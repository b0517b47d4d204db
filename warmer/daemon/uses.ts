import { messageOf, type Progress } from '../../src/support/index.ts';
import type { Volume } from '../../src/volume/index.ts';
import type { ImageRequest } from './image-key.ts';

/** Counts uses of images on behalf of builds, which can only read the volume. Disposing it waits for what is under way. */
export class Uses implements AsyncDisposable {
  readonly #volume: Pick<Volume, 'markUsed'>;
  readonly #progress: Progress;
  readonly #counting = new Set<Promise<void>>();

  constructor(volume: Pick<Volume, 'markUsed'>, progress: Progress) {
    this.#volume = volume;
    this.#progress = progress;
  }

  count({ reference, platform }: ImageRequest): void {
    const counting = this.#volume
      .markUsed(reference, platform)
      .catch((error: unknown) =>
        this.#progress.warn(`the use of ${reference.repository} was not counted: ${messageOf(error)}`),
      )
      .finally(() => this.#counting.delete(counting));
    this.#counting.add(counting);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#counting);
  }
}
