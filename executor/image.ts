import type { Layer } from '../src/layer/index.ts';
import {
  type ContainerConfig,
  type Descriptor,
  digestOf,
  type HistoryEntry,
  type ImageConfig,
  type Index,
  layerCompression,
  type Manifest,
  mediaTypes,
  type Platform,
} from '../src/oci/index.ts';
import { UsageError } from '../src/support/index.ts';
import type { BaseImage } from './bases.ts';

/** A repository that already holds a blob, from which a registry can mount it elsewhere. */
export interface BlobOrigin {
  readonly registry: string;
  readonly repository: string;
}

/** A layer of the image being built, and where else its blob lies. */
export interface PlacedLayer {
  readonly layer: Layer;
  readonly origins: readonly BlobOrigin[];
  /** The image it came with, for a layer of a base. */
  readonly base?: BaseImage;
  /** Its size is what a layer cache says; nothing has read it. */
  readonly isSizeClaimed?: boolean;
}

/** A finished image: its documents in memory, its layers wherever they are. */
export interface BuiltImage {
  readonly manifest: Manifest;
  readonly manifestBytes: Uint8Array;
  /** Of the manifest. */
  readonly descriptor: Descriptor;
  readonly configBytes: Uint8Array;
  readonly layers: readonly PlacedLayer[];
}

/** An index of finished images: its document in memory. */
export interface BuiltIndex {
  readonly bytes: Uint8Array;
  readonly descriptor: Descriptor;
}

/** What is exported: one image, or several with the index that names them. */
export interface BuildOutput {
  readonly images: readonly BuiltImage[];
  readonly index: BuiltIndex | undefined;
  /** Of the index, or else of the one image. */
  readonly descriptor: Descriptor;
}

export const imageFormats = ['oci', 'docker'] as const;
/** Whose media types the documents have: those of the OCI image specification, or of Docker's schema 2. */
export type ImageFormat = (typeof imageFormats)[number];

/** What an image is assembled from. */
export interface ImageParts {
  readonly format: ImageFormat;
  /** Of the manifest. */
  readonly annotations: ReadonlyMap<string, string>;
  /** What the image says it is for. */
  readonly platform: Platform;
  readonly config: ContainerConfig;
  readonly author: string | undefined;
  readonly history: readonly HistoryEntry[];
  readonly layers: readonly PlacedLayer[];
  readonly created: Date;
}

/**
 * Writes configuration and manifest of an image (OCI image specification 1.1, or Docker's schema 2).
 * The manifest uses the media types of one of them throughout: a layer is the same bytes under both names,
 * and some registries refuse a mixture.
 *
 * @throws UsageError `E_IMAGE_FORMAT` when a layer has a compression that the format does not know.
 */
export function assembleImage(parts: ImageParts): BuiltImage {
  const { format, annotations, platform, config, author, history, layers, created } = parts;
  const types = formats[format];
  const imageConfig: ImageConfig = {
    created: created.toISOString(),
    ...(author === undefined ? {} : { author }),
    ...platform,
    config,
    rootfs: { type: 'layers', diff_ids: layers.map(({ layer }) => layer.diffID) },
    history,
  };
  const configBytes = Buffer.from(JSON.stringify(imageConfig));
  const manifest: Manifest = {
    schemaVersion: 2,
    mediaType: types.manifest,
    config: { mediaType: types.config, digest: digestOf(configBytes), size: configBytes.length },
    layers: layers.map(({ layer }) => ({
      mediaType: layerType(layer, format),
      digest: layer.digest,
      size: layer.size,
    })),
    ...(annotations.size === 0 ? {} : { annotations: Object.fromEntries(annotations) }),
  };
  const manifestBytes = Buffer.from(JSON.stringify(manifest));
  return {
    manifest,
    manifestBytes,
    descriptor: {
      mediaType: types.manifest,
      digest: digestOf(manifestBytes),
      size: manifestBytes.length,
      platform,
    },
    configBytes,
    layers,
  };
}

/** One image as it is; several, in their order, with an index. */
export function outputOf(
  images: readonly BuiltImage[],
  annotations: ReadonlyMap<string, string> = new Map(),
): BuildOutput {
  const [first, ...others] = images;
  if (first !== undefined && others.length === 0)
    return { images, index: undefined, descriptor: first.descriptor };
  const index = assembleIndex(
    images.map(({ descriptor }) => descriptor),
    annotations,
  );
  return { images, index, descriptor: index.descriptor };
}

/** Writes an index (OCI image specification 1.1), or of Docker's images alone the list that Docker has for it. */
export function assembleIndex(
  manifests: readonly Descriptor[],
  annotations: ReadonlyMap<string, string> = new Map(),
): BuiltIndex {
  // Docker's list knows no annotations.
  const isDocker =
    annotations.size === 0 && manifests.every(({ mediaType }) => mediaType === mediaTypes.dockerManifest);
  const mediaType = isDocker ? mediaTypes.dockerManifestList : mediaTypes.ociIndex;
  const index: Index = {
    schemaVersion: 2,
    mediaType,
    manifests,
    ...(annotations.size === 0 ? {} : { annotations: Object.fromEntries(annotations) }),
  };
  const bytes = Buffer.from(JSON.stringify(index));
  return { bytes, descriptor: { mediaType, digest: digestOf(bytes), size: bytes.length } };
}

/** The annotations by which an index tells an attestation from an image, and says what it is about; BuildKit's. */
export const attestationAnnotations = {
  type: 'vnd.docker.reference.type',
  digest: 'vnd.docker.reference.digest',
} as const;

/** Whether what was built says something of an image and is none itself. */
export function isAttestation({ descriptor }: BuiltImage): boolean {
  return descriptor.annotations?.[attestationAnnotations.type] === 'attestation-manifest';
}

/**
 * Checks that layers can be in an image of a format.
 *
 * @throws UsageError `E_IMAGE_FORMAT`.
 */
export function requireFormat(layers: readonly Layer[], format: ImageFormat): void {
  for (const layer of layers) layerType(layer, format);
}

const formats = {
  oci: {
    manifest: mediaTypes.ociManifest,
    config: mediaTypes.ociConfig,
    layers: { none: mediaTypes.ociLayerTar, gzip: mediaTypes.ociLayerGzip, zstd: mediaTypes.ociLayerZstd },
  },
  docker: {
    manifest: mediaTypes.dockerManifest,
    config: mediaTypes.dockerConfig,
    layers: { none: mediaTypes.dockerLayerTar, gzip: mediaTypes.dockerLayerGzip, zstd: undefined },
  },
} as const;

function layerType({ digest, mediaType }: Layer, format: ImageFormat): string {
  const compression = layerCompression(mediaType);
  if (compression === undefined) return mediaType;
  const type = formats[format].layers[compression];
  if (type !== undefined) return type;
  throw new UsageError(
    `the layer ${digest} is compressed with ${compression}, which images of Docker's format cannot be`,
    {
      code: 'E_IMAGE_FORMAT',
      remedy: 'Add --force-compression, or leave out --image-format docker.',
    },
  );
}
