import type { Readable } from 'node:stream';
import { blobLayer, type Layer } from '../src/layer/index.ts';
import {
  type ChainID,
  chainIDs,
  type Descriptor,
  type Digest,
  formatReference,
  type Image,
  type ImageConfig,
  layerCompression,
  type Platform,
  type Reference,
} from '../src/oci/index.ts';
import type { ImageSource } from '../src/registry/index.ts';
import { KilnError } from '../src/support/index.ts';
import type { StoredImage, Volume } from '../src/volume/index.ts';
import type { BlobOrigin } from './image.ts';
import type { BringRequest } from './node-warmer.ts';

/** What a base is called, and where its blobs may lie in registries. */
export type BaseName = Pick<BaseImage, 'reference' | 'platform' | 'origins'>;

/** An image that a stage starts from or copies from. */
export interface BaseImage {
  readonly reference: Reference;
  /** What it was asked for; an image for an older processor may serve that. */
  readonly platform: Platform;
  /** Of its manifest, for the platform of the build. */
  readonly digest: Digest;
  readonly config: ImageConfig;
  /** Lowest first. */
  readonly layers: readonly Layer[];
  readonly chainID: ChainID | null;
  /** Where its blobs may lie in registries. */
  readonly origins: readonly BlobOrigin[];
  /** Waits until its layers lie on a volume; false when the build has to pull them. */
  readonly isThere: () => Promise<boolean>;
}

/** A base that lies on a volume. */
export function fromStored(
  { descriptor, config, layers }: Pick<StoredImage, 'descriptor' | 'config' | 'layers'>,
  name: BaseName,
): BaseImage {
  return baseImage({ ...name, digest: descriptor.digest }, config, layers, () => Promise.resolve(true));
}

/**
 * A base of which only the documents have been fetched.
 *
 * @throws KilnError `E_LAYER_UNSUPPORTED`.
 */
export function fromRegistry(
  documents: Documents,
  name: BaseName,
  repository: ImageSource,
  where: string,
): BaseImage {
  const layers = layersOf(documents, name.reference, where, (descriptor, signal) =>
    repository.openBlob(descriptor, signal),
  );
  return baseImage({ ...name, digest: documents.digest }, documents.config, layers, () =>
    Promise.resolve(false),
  );
}

/**
 * A base whose layers the node's warmer is bringing to the shared volume. Until they are there nothing waits for them but
 * what needs them, and if they do not come, they are the registry's.
 *
 * @throws KilnError `E_LAYER_UNSUPPORTED`.
 */
export function fromWarmer(
  documents: Documents,
  name: BaseName,
  places: { readonly request: BringRequest; readonly volume: Volume; readonly repository: ImageSource },
  where: string,
): BaseImage {
  const { request, volume, repository } = places;
  const isThere = async (): Promise<boolean> => 'image' in (await request.brought);
  const layers = layersOf(documents, name.reference, where, async (descriptor, signal) =>
    (await isThere())
      ? volume.blobs.open(descriptor.digest, signal)
      : repository.openBlob(descriptor, signal),
  );
  return baseImage({ ...name, digest: documents.digest }, documents.config, layers, isThere);
}

/** Manifest and configuration, and the digest of the manifest. */
type Documents = Pick<Image, 'manifest' | 'config'> & { readonly digest: Digest };

function baseImage(
  name: BaseName & Pick<BaseImage, 'digest'>,
  config: ImageConfig,
  layers: readonly Layer[],
  isThere: BaseImage['isThere'],
): BaseImage {
  const chainID = chainIDs(config.rootfs.diff_ids).at(-1) ?? null;
  return { ...name, config, layers, chainID, isThere };
}

function layersOf(
  { manifest, config }: Documents,
  reference: Reference,
  where: string,
  open: (descriptor: Descriptor, signal?: AbortSignal) => Promise<Readable>,
): Layer[] {
  return manifest.layers.map((descriptor, index) => {
    const diffID = config.rootfs.diff_ids[index];
    if (diffID === undefined || layerCompression(descriptor.mediaType) === undefined)
      throw new KilnError(
        `${formatReference(reference)} has a layer of the type ${descriptor.mediaType}, which cannot be unpacked`,
        { code: 'E_LAYER_UNSUPPORTED', category: 'registry', where },
      );
    return blobLayer({ open: (_digest, signal) => open(descriptor, signal) }, descriptor, diffID);
  });
}
