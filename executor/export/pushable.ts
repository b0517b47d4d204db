import { Readable } from 'node:stream';
import type { Descriptor, Digest } from '../../src/oci/index.ts';
import type { OpenBlob } from '../../src/registry/index.ts';
import type { BlobOrigin, BuildOutput, BuiltImage } from '../image.ts';

/** A blob that is pushed, from wherever it is. */
export interface PushableBlob {
  readonly descriptor: Descriptor;
  readonly open: OpenBlob;
  /** Where else it lies. */
  readonly origins: readonly BlobOrigin[];
  /** Nobody has seen that its size is what the descriptor says. */
  readonly checkSize?: boolean;
}

/** A manifest or index that is pushed. */
export interface PushableDocument {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
}

/** All that is pushed for one name. */
export interface Pushable {
  /** Each once. */
  readonly blobs: readonly PushableBlob[];
  /** What the root refers to; each after what it refers to itself. */
  readonly children: readonly PushableDocument[];
  /** What the name is of. */
  readonly root: PushableDocument;
}

/** What was built, as it is pushed. */
export function pushableOf({ images, index }: BuildOutput): Pushable {
  const documents = images.map(({ descriptor, manifestBytes: bytes }) => ({ descriptor, bytes }));
  const root = index ?? documents.pop();
  if (root === undefined) throw new Error('nothing was built');
  const blobs = new Map<Digest, PushableBlob>();
  for (const blob of images.flatMap(blobsOf)) blobs.set(blob.descriptor.digest, blob);
  return { blobs: [...blobs.values()], children: documents, root };
}

function blobsOf({ layers, manifest, configBytes }: BuiltImage): PushableBlob[] {
  return [
    ...layers.map(({ layer, origins, isSizeClaimed: checkSize = false }) => ({
      descriptor: { mediaType: layer.mediaType, digest: layer.digest, size: layer.size },
      open: (signal?: AbortSignal) => layer.compressed(signal),
      origins,
      checkSize,
    })),
    {
      descriptor: manifest.config,
      open: () => Promise.resolve(Readable.from([configBytes])),
      origins: [],
    },
  ];
}
