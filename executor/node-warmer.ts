import { formatPlatform, formatReference, type Platform, type Reference } from '../src/oci/index.ts';
import { messageOf, type Progress } from '../src/support/index.ts';
import type { AnnouncedImage, NodeClient, StoredImage, Volume } from '../src/volume/index.ts';

/** How a request to the node's warmer ended: the image is on the shared volume and leased, or it is not. */
export type Brought =
  | { readonly image: StoredImage; readonly how: 'warm' | 'pulled' | 'joined' }
  /** A clause that says why, for people. */
  | { readonly missing: string };

/** An image that the node's warmer was asked for. */
export interface BringRequest {
  /** What it is made of, as soon as that is known; undefined when it is brought or refused before. */
  readonly announced: Promise<AnnouncedImage | undefined>;
  /** Never rejects. */
  readonly brought: Promise<Brought>;
}

export interface NodeWarmerParts {
  readonly client: NodeClient;
  /** The volume that both sides see, which the build can only read. */
  readonly volume: Volume;
  /** The name of the build in all it says to the warmer. */
  readonly build: string;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

/**
 * Has base images brought onto a volume that the build can only read, by the warmer that can write it. What has been
 * brought is leased until this is disposed; what is still on its way then is no longer waited for.
 */
export class NodeWarmer implements AsyncDisposable {
  readonly volume: Volume;
  readonly #parts: NodeWarmerParts;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #leases = new AsyncDisposableStack();
  readonly #requests: Promise<unknown>[] = [];

  constructor(parts: NodeWarmerParts) {
    this.volume = parts.volume;
    this.#parts = parts;
    this.#signal = AbortSignal.any([parts.signal, this.#stop.signal]);
  }

  /** Asks for an image. */
  request(reference: Reference, platform: Platform): BringRequest {
    const { promise: announced, resolve } = Promise.withResolvers<AnnouncedImage | undefined>();
    const brought = this.#bring(reference, platform, resolve)
      .catch((error: unknown) => {
        return { missing: this.#signal.aborted ? 'the build ended' : messageOf(error) };
      })
      .finally(() => resolve(undefined));
    this.#requests.push(brought);
    return { announced, brought };
  }

  /** Keeps something until the build ends. */
  keep(lease: AsyncDisposable): void {
    this.#leases.use(lease);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await Promise.allSettled(this.#requests);
    await this.#leases.disposeAsync();
  }

  async #bring(
    reference: Reference,
    platform: Platform,
    onImage: (image: AnnouncedImage) => void,
  ): Promise<Brought> {
    const { client, build } = this.#parts;
    const name = formatReference(reference);
    using transfer = this.#transfer(name);
    const held = await client.ensure(
      { reference: name, platform: formatPlatform(platform), build },
      { onImage, onProgress: (bytes, total) => transfer.tell(bytes, total), signal: this.#signal },
    );
    if (held.outcome === 'absent') return { missing: `no warmer serves this node: ${held.detail}` };
    using _held = held;
    // The warmer's word is not enough: what counts is what is found, and what this build has leases on.
    const image = await this.volume.find(reference, platform, this.#signal);
    const layers = image && (await this.volume.acquireLayers(image.layers, this.#signal));
    if (image === undefined || layers === undefined)
      return { missing: "the node's warmer says that it is ready, but it is not on this volume" };
    this.keep(layers);
    return { image, how: held.outcome };
  }

  /** Shows a transfer for as long as one goes on. */
  #transfer(name: string): Disposable & { tell(bytes: number, total: number): void } {
    let last: { readonly bytes: number; readonly total: number } | undefined;
    const emit = (done: boolean): void => {
      if (last === undefined) return;
      const label = `the node's warmer fetched ${name}`;
      this.#parts.progress.emit({
        type: 'transfer',
        id: `warmer ${name}`,
        direction: 'pull',
        label,
        ...last,
        done,
      });
    };
    return {
      tell: (bytes, total) => {
        if (total === 0) return;
        last = { bytes, total };
        emit(false);
      },
      [Symbol.dispose]: () => emit(true),
    };
  }
}
