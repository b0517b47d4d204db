import type { Digest } from '../oci/index.ts';
import { FileTable } from './file-table.ts';
import type { ImageKey } from './index-db.ts';

/** An image by its entry of `index.json`. Times in milliseconds since the epoch. */
export interface InventoryImage extends ImageKey {
  /** Number of its manifest in the inventory. */
  readonly manifest: number;
  readonly pulledAt: number;
  readonly checkedAt: number;
  readonly pinned: boolean;
  /** False for an image that another tool put here: prune leaves it alone. */
  readonly ours: boolean;
}

/** What each manifest, or index of images, refers to, in packed form: part `i` is from `starts[i]` to `starts[i + 1]`. */
export interface PackedParts {
  readonly starts: Int32Array;
  readonly ids: Int32Array;
}

export interface InventoryParts {
  /** In the order of `index.json`. */
  readonly images: readonly InventoryImage[];
  /** Manifests of other entries of `index.json`, that are no images with a name. */
  readonly others: readonly number[];
  /** Digests of the manifests, each 32 bytes. */
  readonly digests: Uint8Array;
  /** 0 for a manifest that is missing or damaged, so that its parts are not known. */
  readonly known: Uint8Array;
  readonly manifestBlobs: PackedParts;
  readonly manifestLayers: PackedParts;
  readonly blobs: FileTable;
  readonly layers: FileTable;
}

/** Everything that lies on a volume, and what refers to it. */
export class Inventory {
  readonly parts: InventoryParts;
  readonly #digests: FileTable;

  constructor(parts: InventoryParts) {
    this.parts = parts;
    const { digests } = parts;
    this.#digests = new FileTable({
      names: digests,
      sizes: new Float64Array(digests.length / 32),
      states: new Uint8Array(digests.length / 32),
    });
  }

  get images(): readonly InventoryImage[] {
    return this.parts.images;
  }

  get blobs(): FileTable {
    return this.parts.blobs;
  }

  /** Unpacked layers. */
  get layers(): FileTable {
    return this.parts.layers;
  }

  /** The manifests of all entries of `index.json`, one for each. */
  *entries(): Generator<number> {
    yield* this.parts.others;
    for (const { manifest } of this.parts.images) yield manifest;
  }

  digest(manifest: number): Digest {
    return `sha256:${this.#digests.name(manifest)}` as Digest;
  }

  isKnown(manifest: number): boolean {
    return this.parts.known[manifest] === 1;
  }

  /** Numbers of the blobs that a manifest refers to; for an image: manifest, configuration, layers. */
  blobsOf(manifest: number): Int32Array {
    return partsOf(this.parts.manifestBlobs, manifest);
  }

  /** Numbers of the layers that a manifest refers to, lowest first. */
  layersOf(manifest: number): Int32Array {
    return partsOf(this.parts.manifestLayers, manifest);
  }
}

function partsOf({ starts, ids }: PackedParts, manifest: number): Int32Array {
  return ids.subarray(starts[manifest] ?? 0, starts[manifest + 1] ?? 0);
}
