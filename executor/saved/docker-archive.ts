import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { blobLayer, decompress, recompressLayer } from '../../src/layer/index.ts';
import {
  decodeConfig,
  type Descriptor,
  type DiffID,
  type Digest,
  digestOf,
  mediaTypes,
} from '../../src/oci/index.ts';
import { KilnError, messageOf, randomName } from '../../src/support/index.ts';
import type { Pushable, PushableBlob } from '../export/pushable.ts';
import { compressionOf } from './compression.ts';
import { readDocument, type SavedFiles } from './saved-files.ts';
import { unreadable } from './tar-files.ts';

interface ArchivedImage {
  readonly Config: string;
  readonly RepoTags: readonly string[] | null;
  readonly Layers: readonly string[];
}

export interface ArchiveParts {
  readonly files: SavedFiles;
  /** What messages call it. */
  readonly path: string;
  /** Which of several images. */
  readonly name: string | undefined;
  /** A directory for layers that have to be compressed, which stay there until they are pushed. */
  readonly scratch: string;
  readonly signal: AbortSignal | undefined;
}

/**
 * The image of an archive as `docker save` of before Docker 25, podman and skopeo write it: layers as they are unpacked, no
 * manifest. The layers are compressed, and it becomes an image of Docker's format.
 *
 * @throws UsageError `E_IMAGE_UNREADABLE`, also when a layer is not what the configuration says.
 */
export async function dockerArchiveImage(parts: ArchiveParts): Promise<Pushable> {
  const { files, path } = parts;
  const { Config, Layers } = await chooseImage(parts);
  const configBytes = await readDocument(files, Config);
  if (configBytes === undefined) throw unreadable(path, `${Config} is missing`);
  const { diff_ids: diffIDs } = decodeConfig(configBytes, path).rootfs;
  if (diffIDs.length !== Layers.length)
    throw unreadable(path, `it has ${Layers.length} layers, and its configuration ${diffIDs.length}`);
  const blobs: PushableBlob[] = [];
  for (const [position, name] of Layers.entries())
    blobs.push(await layerBlob(parts, name, diffIDs[position] as DiffID));
  const config: Descriptor = {
    mediaType: mediaTypes.dockerConfig,
    digest: digestOf(configBytes),
    size: configBytes.length,
  };
  const bytes = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaTypes.dockerManifest,
      config,
      layers: blobs.map(({ descriptor }) => descriptor),
    }),
  );
  const unique = new Map(blobs.map((blob) => [blob.descriptor.digest, blob]));
  const own = { descriptor: config, open: () => Promise.resolve(Readable.from([configBytes])), origins: [] };
  const descriptor = { mediaType: mediaTypes.dockerManifest, digest: digestOf(bytes), size: bytes.length };
  return { blobs: [...unique.values(), own], children: [], root: { descriptor, bytes } };
}

async function chooseImage({ files, path, name }: ArchiveParts): Promise<ArchivedImage> {
  const document = await readDocument(files, 'manifest.json');
  if (document === undefined) throw unreadable(path, 'there is neither index.json nor manifest.json');
  const images = parseImages(document, path);
  const named = images.filter(
    ({ RepoTags }) => name === undefined || RepoTags?.some((tag) => tag === name || tag.endsWith(`:${name}`)),
  );
  const [image, ...others] = named;
  if (image === undefined)
    throw unreadable(path, `it has no image${name === undefined ? '' : ` of the name ${name}`}`);
  if (others.length === 0) return image;
  const names = named.flatMap(({ RepoTags }) => RepoTags ?? []).join(', ');
  throw unreadable(path, `it has several images (${names}); name one, as in ${path}:NAME`);
}

function parseImages(document: Buffer, path: string): ArchivedImage[] {
  try {
    const images: unknown = JSON.parse(document.toString('utf8'));
    if (Array.isArray(images) && images.every(isImage)) return images;
  } catch (error) {
    throw unreadable(path, 'its manifest.json is not JSON', error);
  }
  throw unreadable(path, 'its manifest.json is no list of images');
}

function isImage(value: unknown): value is ArchivedImage {
  const { Config, RepoTags, Layers } = (value ?? {}) as Partial<Record<keyof ArchivedImage, unknown>>;
  const isTexts = (list: unknown): boolean =>
    Array.isArray(list) && list.every((item) => typeof item === 'string');
  return typeof Config === 'string' && isTexts(Layers) && (RepoTags == null || isTexts(RepoTags));
}

async function layerBlob(
  { files, path, scratch, signal }: ArchiveParts,
  name: string,
  diffID: DiffID,
): Promise<PushableBlob> {
  const size = await files.size(name);
  if (size === undefined) throw unreadable(path, `${name} is missing`);
  const open = (): Promise<Readable> => files.open(name);
  const compression = await compressionOf(await open());
  if (compression === 'zstd')
    throw unreadable(path, `${name} is compressed with zstd, which Docker's format cannot be`);
  if (compression === 'gzip') {
    const plain = await hashOf(decompress(await open(), 'gzip'), path, signal);
    if (plain !== diffID) throw unreadable(path, `${name} is damaged`);
    const digest = await hashOf(await open(), path, signal);
    return { descriptor: { mediaType: mediaTypes.dockerLayerGzip, digest, size }, open, origins: [] };
  }
  const descriptor = { mediaType: mediaTypes.dockerLayerTar, digest: diffID as string as Digest, size };
  const output = join(scratch, randomName('layer-'));
  const layer = await recompressLayer(
    blobLayer({ open }, descriptor, diffID),
    { output, compression: 'gzip' },
    signal,
  ).catch((error: unknown) => {
    if (error instanceof KilnError && error.code === 'E_BLOB_CORRUPT')
      throw unreadable(path, `${name} is damaged`, error);
    throw error;
  });
  const { digest } = layer;
  return {
    descriptor: { mediaType: mediaTypes.dockerLayerGzip, digest, size: layer.size },
    open: (s) => layer.compressed(s),
    origins: [],
  };
}

async function hashOf(stream: Readable, path: string, signal: AbortSignal | undefined): Promise<Digest> {
  const hash = createHash('sha256');
  try {
    await pipeline(stream, hash, signal === undefined ? {} : { signal });
  } catch (error) {
    signal?.throwIfAborted();
    throw unreadable(path, messageOf(error), error);
  }
  return `sha256:${hash.digest('hex')}` as Digest;
}
