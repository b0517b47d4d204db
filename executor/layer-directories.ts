import { join } from 'node:path';
import { makeAttributeLayer, type UnpackedTree } from '../src/layer/index.ts';
import type { Digest } from '../src/oci/index.ts';
import { randomName } from '../src/support/index.ts';
import type { LayerLease, Volume } from '../src/volume/index.ts';
import type { PlacedLayer } from './image.ts';

export interface LayerDirectoriesOptions {
  /** In the order of looking; the last one is writable. */
  readonly volumes: readonly Volume[];
  /** Puts a cold base on the writable volume. */
  readonly pull: (base: NonNullable<PlacedLayer['base']>) => Promise<void>;
  readonly scratch: string;
  readonly signal: AbortSignal;
}

/** Finds layers as lower directories of overlays. What was found stays on its volume until this is disposed. */
export class LayerDirectories implements AsyncDisposable {
  readonly #options: LayerDirectoriesOptions;
  readonly #found = new Map<Digest, Promise<UnpackedTree>>();
  readonly #leases: LayerLease[] = [];
  /** Directories with the attributes of stacks of layers, by the paths of those; undefined where none is needed. */
  readonly #attributes = new Map<string, string | undefined>();

  constructor(options: LayerDirectoriesOptions) {
    this.#options = options;
  }

  /** The unpacked tree of a layer. */
  find(placed: PlacedLayer): Promise<UnpackedTree> {
    const { diffID } = placed.layer;
    const known = this.#found.get(diffID);
    if (known !== undefined) return known;
    const tree = this.#acquire(placed);
    this.#found.set(diffID, tree);
    return tree;
  }

  async #acquire(placed: PlacedLayer): Promise<UnpackedTree> {
    const { volumes, pull, signal } = this.#options;
    if (placed.base !== undefined && !(await placed.base.isThere())) await pull(placed.base);
    for (const volume of volumes) {
      const lease = await volume.acquireLayers([placed.layer], signal);
      const path = lease?.paths[0];
      if (lease === undefined || path === undefined) continue;
      this.#leases.push(lease);
      return { path, implied: lease.implied[0] ?? [] };
    }
    throw new Error(`no volume could unpack layer ${placed.layer.digest}`);
  }

  /**
   * The directories that make an overlay of trees, lowest first; each once, since overlayfs refuses one twice. Where a
   * layer does not describe directories of those below it, there is one more with their attributes.
   */
  stack(trees: readonly UnpackedTree[]): string[] {
    const paths = trees.map(({ path }) => path);
    const unique = trees.filter(({ path }, index) => paths.lastIndexOf(path) === index);
    const count = unique.findLastIndex(({ implied }) => implied.length > 0) + 1;
    const attributes = this.#attributesOf(unique.slice(0, count));
    const above = attributes === undefined ? [] : [attributes];
    return [...unique.slice(0, count), ...above.map((path) => ({ path })), ...unique.slice(count)].map(
      ({ path }) => path,
    );
  }

  #attributesOf(trees: readonly UnpackedTree[]): string | undefined {
    // One layer hides nothing of others.
    if (trees.length < 2) return undefined;
    const key = trees.map(({ path }) => path).join('\0');
    if (this.#attributes.has(key)) return this.#attributes.get(key);
    const target = join(this.#options.scratch, randomName('attributes-'));
    const made = makeAttributeLayer(trees, target) ? target : undefined;
    this.#attributes.set(key, made);
    return made;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const lease of this.#leases) await lease[Symbol.asyncDispose]();
  }
}
