import { open } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type PQueue from 'p-queue';
import type { Layer } from '../layer/index.ts';
import { type LayerCompression, layerCompression } from '../oci/index.ts';
import { KilnError, isAbortError, systemErrorCode } from '../support/index.ts';
import { createHash } from 'node:crypto';
import { type BlobDirectory, appendStream, corrupt } from './blobs.ts';
import { LockedDirectory } from './ingest.ts';
import type { LayerDirectory, LayerFile } from './layers.ts';
import { Lease } from './leases.ts';

/** Unpacks layers of images into a {@link LayerDirectory}, as many at a time as there are processors. */
export class Unpacker {
  readonly #blobs: BlobDirectory;
  readonly #layers: LayerDirectory;
  #queue: Promise<PQueue> | undefined;
  #concurrency = availableParallelism();

  constructor(blobs: BlobDirectory, layers: LayerDirectory) {
    this.#blobs = blobs;
    this.#layers = layers;
  }

  /**
   * Makes sure that a layer is unpacked, from its blob on the volume or else from its own stream.
   *
   * @throws KilnError `E_BLOB_CORRUPT` when the blob is not what its digest says (it is dropped), `E_LAYER_UNSUPPORTED`
   * for a media type that is no layer, and what unpacking throws for a hostile or damaged tar.
   */
  async ensure(layer: Layer, signal?: AbortSignal): Promise<void> {
    const compression = compressionOf(layer);
    if (await this.#layers.serves(layer.diffID)) return;
    this.#queue ??= import('p-queue').then(
      ({ default: Queue }) => new Queue({ concurrency: this.#concurrency }),
    );
    const queue = await this.#queue;
    await queue.add(() => this.#ensureNow(layer, compression, signal));
  }

  /** Changes how many layers are unpacked at the same time, if there are so many processors. */
  async limit(count: number): Promise<void> {
    this.#concurrency = Math.min(count, availableParallelism());
    if (this.#queue !== undefined) (await this.#queue).concurrency = this.#concurrency;
  }

  async #ensureNow(layer: Layer, compression: LayerCompression, signal?: AbortSignal): Promise<void> {
    let fromBlob = false as boolean;
    const provide = async (): Promise<LayerFile & AsyncDisposable> => {
      const stored = await this.#fromBlob(layer, compression);
      fromBlob = stored !== undefined;
      return stored ?? (await this.#fromStream(layer, compression, signal));
    };
    try {
      await this.#layers.ensure(layer.diffID, provide, signal);
    } catch (error) {
      // A damaged blob shows itself in many ways while it is unpacked; its digest tells.
      if (fromBlob && !isAbortError(error) && !(await this.#blobs.verify(layer.digest, signal)))
        throw corrupt(layer.digest, this.#blobs.path(layer.digest));
      throw error;
    }
  }

  async #fromBlob(
    layer: Layer,
    compression: LayerCompression,
  ): Promise<(LayerFile & AsyncDisposable) | undefined> {
    const file = this.#blobs.path(layer.digest);
    const lease = await Lease.tryAcquire(file);
    if (lease === undefined) return undefined;
    if ((await this.#blobs.stat(layer.digest))?.size === layer.size)
      return { file, compression, [Symbol.asyncDispose]: () => lease[Symbol.asyncDispose]() };
    await lease[Symbol.asyncDispose]();
    return undefined;
  }

  /** A layer that lies elsewhere is copied aside for as long as unpacking lasts; its blob is not kept. */
  async #fromStream(
    layer: Layer,
    compression: LayerCompression,
    signal?: AbortSignal,
  ): Promise<LayerFile & AsyncDisposable> {
    await using cleanup = new AsyncDisposableStack();
    const work = cleanup.use(await LockedDirectory.create(this.#blobs.ingestDirectory, 'layer-'));
    const file = join(work.path, 'blob');
    try {
      await copyLayer(layer, file, signal);
    } catch (error) {
      // Once more: another place is then asked, if there is one.
      if (systemErrorCode(error) !== 'E_BLOB_CORRUPT') throw error;
      await copyLayer(layer, file, signal);
    }
    const kept = cleanup.move();
    return { file, compression, [Symbol.asyncDispose]: () => kept.disposeAsync() };
  }
}

/** @throws KilnError `E_BLOB_CORRUPT` when the layer is not what its digest and size say. */
async function copyLayer(layer: Layer, file: string, signal: AbortSignal | undefined): Promise<void> {
  await using handle = await open(file, 'w', 0o600);
  const hash = createHash('sha256');
  const size = await appendStream(handle, await layer.compressed(signal), hash, layer.size, signal);
  if (size !== layer.size || `sha256:${hash.digest('hex')}` !== layer.digest)
    throw corrupt(layer.digest, 'layer stream');
}

function compressionOf(layer: Layer): LayerCompression {
  const compression = layerCompression(layer.mediaType);
  if (compression !== undefined) return compression;
  throw new KilnError(`cannot unpack a layer of type ${layer.mediaType}`, {
    code: 'E_LAYER_UNSUPPORTED',
    category: 'registry',
    where: layer.digest,
  });
}
