import {
  type Descriptor,
  type DiffID,
  type Digest,
  type Image,
  decodeIndex,
  indexMediaTypes,
  manifestMediaTypes,
  maximumDocumentSize,
} from '../oci/index.ts';
import type { OciLayout } from './oci-layout.ts';
import { isDamage, readImage } from './stored-image.ts';

/** A blob by what its descriptor says. */
export interface BlobFacts {
  readonly digest: Digest;
  readonly size: number;
}

/** What an entry of `index.json` refers to. It follows from the entry's digest alone, so it never changes. */
export interface Contents {
  /** The manifest, its configuration and its layers; for an index of images those of all of them. */
  readonly blobs: readonly BlobFacts[];
  /** Lowest first. */
  readonly diffIDs: readonly DiffID[];
  /** False when a document is missing or damaged, so that the rest is not known. */
  readonly known: boolean;
}

export function contentsOf({ descriptor, manifest, config }: Image): Contents {
  const blobs = [descriptor, manifest.config, ...manifest.layers];
  return {
    blobs: blobs.map(({ digest, size }) => ({ digest, size })),
    diffIDs: config.rootfs.diff_ids,
    known: true,
  };
}

/** Reads what an entry refers to from the blobs. Documents of other tools that are neither image nor index have no parts. */
export async function readContents(layout: OciLayout, descriptor: Descriptor): Promise<Contents> {
  const own = { digest: descriptor.digest, size: descriptor.size };
  try {
    if (manifestMediaTypes.includes(descriptor.mediaType)) {
      return contentsOf(await readImage(layout, descriptor));
    }
    if (!indexMediaTypes.includes(descriptor.mediaType)) return { blobs: [own], diffIDs: [], known: true };
    const { manifests } = decodeIndex(
      await layout.blobs.read(descriptor.digest, maximumDocumentSize),
      descriptor.digest,
    );
    const parts = await Promise.all(manifests.map((manifest) => readContents(layout, manifest)));
    return {
      blobs: [own, ...parts.flatMap(({ blobs }) => blobs)],
      diffIDs: parts.flatMap(({ diffIDs }) => diffIDs),
      known: parts.every(({ known }) => known),
    };
  } catch (error) {
    if (!isDamage(error)) throw error;
    return { blobs: [own], diffIDs: [], known: false };
  }
}
