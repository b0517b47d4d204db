import type { Layer, LayerSource } from '../src/layer/index.ts';
import type { DiffID } from '../src/oci/index.ts';
import { SingleFlight } from '../src/support/index.ts';
import type { Volume } from '../src/volume/index.ts';
import type { PlacedLayer } from './image.ts';

export interface LayerSourcesOptions {
  /** In the order of looking; the last one is writable. */
  readonly volumes: readonly Volume[];
  /** Puts the blobs of a base on the writable volume. */
  readonly pull: (base: NonNullable<PlacedLayer['base']>) => Promise<void>;
  readonly signal: AbortSignal;
}

/**
 * Finds layers in a form that can be applied to a tree: unpacked on a volume, or as a blob; what is nowhere is fetched
 * first. What was found stays on its volume until this is disposed.
 */
export class LayerSources implements AsyncDisposable {
  readonly #options: LayerSourcesOptions;
  readonly #finding = new SingleFlight<DiffID, LayerSource>();
  readonly #found = new Map<DiffID, LayerSource>();
  readonly #leases: AsyncDisposable[] = [];

  constructor(options: LayerSourcesOptions) {
    this.#options = options;
  }

  async find(placed: PlacedLayer): Promise<LayerSource> {
    const { diffID } = placed.layer;
    return this.#found.get(diffID) ?? this.#finding.run(diffID, () => this.#find(placed));
  }

  async #find({ layer, base }: PlacedLayer): Promise<LayerSource> {
    const { pull, signal } = this.#options;
    if (base !== undefined && !(await base.isThere())) await pull(base);
    let source = await this.#lease(layer);
    if (source === undefined) {
      await this.#options.volumes.at(-1)?.blobs.ingest(layer, await layer.compressed(signal), signal);
      source = await this.#lease(layer);
    }
    if (source === undefined) throw new Error(`no volume has layer ${layer.digest}`);
    this.#found.set(layer.diffID, source);
    return source;
  }

  async #lease(layer: Layer): Promise<LayerSource | undefined> {
    for (const volume of this.#options.volumes) {
      const leased = await volume.acquireSource(layer);
      if (leased === undefined) continue;
      this.#leases.push(leased);
      return leased.source;
    }
    return undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const lease of this.#leases) await lease[Symbol.asyncDispose]();
  }
}
