import { blobLayer } from '../../src/layer/index.ts';
import {
  decodeConfig,
  decodeIndex,
  decodeManifest,
  type Descriptor,
  formatPlatform,
  indexMediaTypes,
  manifestMediaTypes,
  maximumDocumentSize,
  normalizePlatform,
  type Platform,
} from '../../src/oci/index.ts';
import type { RegistryClient } from '../../src/registry/index.ts';
import { KilnError, type Progress, UsageError } from '../../src/support/index.ts';
import type { BuiltImage } from '../image.ts';
import { type ImagePlace, openPlace } from './image-places.ts';

/** Images that were made elsewhere, as a build's own would be: their documents in memory, their layers where they are. */
export interface JoinedImage {
  readonly image: BuiltImage;
  readonly platform: Platform;
}

/**
 * Reads the images that are to be joined; of an index, all that it has. No layer is fetched.
 *
 * @param names references, and `oci:DIRECTORY:TAG`.
 * @throws KilnError `E_IMAGE_NOT_FOUND`, `E_OCI_MALFORMED`, `E_INDEX_DUPLICATE_PLATFORM`; RegistryError.
 */
export async function readImages(
  names: readonly string[],
  client: RegistryClient,
  progress: Progress,
  signal?: AbortSignal,
): Promise<JoinedImage[]> {
  const found = new Map<string, { readonly name: string; readonly joined: JoinedImage }>();
  for (const name of names)
    for (const joined of await readNamed(name, client, progress, signal)) {
      const platform = formatPlatform(joined.platform);
      const before = found.get(platform);
      if (before !== undefined)
        throw new UsageError(`${before.name} and ${name} are both for ${platform}`, {
          code: 'E_INDEX_DUPLICATE_PLATFORM',
          remedy: 'Whoever pulls would get the first one: leave one of them out.',
        });
      found.set(platform, { name, joined });
    }
  return [...found.values()].map(({ joined }) => joined);
}

async function readNamed(
  name: string,
  client: RegistryClient,
  progress: Progress,
  signal?: AbortSignal,
): Promise<JoinedImage[]> {
  const place = await openPlace(name, client);
  const top = await place.find(signal);
  if (top === undefined) throw notFound(name);
  if (!indexMediaTypes.includes(top.descriptor.mediaType))
    return [await readImage(name, place, top.descriptor, top.bytes, signal)];
  const images: JoinedImage[] = [];
  for (const descriptor of decodeIndex(top.bytes, name).manifests) {
    // Attestations of BuildKit's have this platform, and are about an image of an index that they would not be in.
    if (descriptor.platform?.os === 'unknown') {
      progress.warn(`${name}: ${descriptor.digest} is no image, but about one, and is left out`);
      continue;
    }
    const bytes = await place.read(descriptor, signal);
    if (bytes === undefined) throw notFound(`${name}: ${descriptor.digest}`);
    images.push(await readImage(name, place, descriptor, bytes, signal));
  }
  return images;
}

async function readImage(
  name: string,
  place: ImagePlace,
  { mediaType, digest, size }: Descriptor,
  manifestBytes: Uint8Array,
  signal?: AbortSignal,
): Promise<JoinedImage> {
  if (!manifestMediaTypes.includes(mediaType))
    throw new KilnError(`${name} is no image: its media type is ${JSON.stringify(mediaType)}`, {
      code: 'E_OCI_MALFORMED',
      category: 'registry',
    });
  const manifest = decodeManifest(manifestBytes, name);
  const configBytes = await place.blobs.readBlob(manifest.config, maximumDocumentSize, signal);
  const config = decodeConfig(configBytes, name);
  const layers = manifest.layers.map((descriptor, index) => {
    const diffID = config.rootfs.diff_ids[index];
    if (diffID === undefined)
      throw new KilnError(
        `malformed image ${name}: ${manifest.layers.length} layers, ${config.rootfs.diff_ids.length} diff_ids`,
        { code: 'E_OCI_MALFORMED', category: 'registry' },
      );
    const open = { open: (_digest: unknown, s?: AbortSignal) => place.blobs.openBlob(descriptor, s) };
    return { layer: blobLayer(open, descriptor, diffID), origins: place.origins };
  });
  const platform = platformOf(config);
  const descriptor = { mediaType, digest, size, platform };
  return { image: { manifest, manifestBytes, descriptor, configBytes, layers }, platform };
}

/** Without whatever else a configuration has. */
function platformOf({ os, architecture, variant, 'os.version': version }: Platform): Platform {
  const platform = normalizePlatform({ os, architecture, ...(variant === undefined ? {} : { variant }) });
  return version === undefined ? platform : { ...platform, 'os.version': version };
}

function notFound(name: string): KilnError {
  return new KilnError(`there is no image ${name}`, {
    code: 'E_IMAGE_NOT_FOUND',
    category: 'registry',
    where: name,
    remedy: 'Check its name and tag; one of an OCI layout is written oci:DIRECTORY:TAG.',
  });
}
