import {
  chooseByPlatform,
  decodeConfig,
  decodeIndex,
  decodeManifest,
  formatPlatform,
  formatReference,
  type Image,
  indexMediaTypes,
  manifestMediaTypes,
  maximumDocumentSize,
  type Platform,
  platformServes,
  type Reference,
  referenceTarget,
} from '../oci/index.ts';
import { KilnError } from '../support/index.ts';
import type { RegistryClient } from './client.ts';

/** An image with the digest that its reference names: the index's, when there is one. */
export interface FetchedImage extends Image {
  readonly topDigest: Image['descriptor']['digest'];
}

/**
 * Fetches manifest and configuration of an image; of an index, those that serve `platform` best. No layer is touched.
 *
 * @returns undefined when the registry has no such manifest.
 * @throws KilnError `E_PLATFORM_NOT_FOUND`, `E_OCI_MALFORMED`, `E_BLOB_CORRUPT`; RegistryError.
 */
export async function fetchImage(
  client: RegistryClient,
  reference: Reference,
  platform: Platform,
  signal?: AbortSignal,
): Promise<FetchedImage | undefined> {
  const source = client.source(reference);
  const where = formatReference(reference);
  const top = await source.getManifest(referenceTarget(reference), signal);
  if (top === undefined) return undefined;
  let found = top;
  if (indexMediaTypes.includes(top.descriptor.mediaType)) {
    const entries = decodeIndex(top.bytes, where).manifests;
    const match = chooseByPlatform(entries, platform);
    if (match === undefined)
      throw new KilnError(`${where} has no image for ${formatPlatform(platform)}`, {
        code: 'E_PLATFORM_NOT_FOUND',
        category: 'registry',
        remedy: `It has ${[...new Set(entries.flatMap((entry) => (entry.platform === undefined ? [] : [formatPlatform(entry.platform)])))].join(', ')}.`,
      });
    const manifest = await source.getManifest(match.digest, signal);
    if (manifest === undefined)
      throw new KilnError(`${where}: the index names ${match.digest}, which is not there`, {
        code: 'E_MANIFEST_NOT_FOUND',
        category: 'registry',
      });
    found = manifest;
  }
  if (!manifestMediaTypes.includes(found.descriptor.mediaType))
    throw new KilnError(
      `${where} is no image: its media type is ${JSON.stringify(found.descriptor.mediaType)}`,
      { code: 'E_OCI_MALFORMED', category: 'registry' },
    );
  const manifest = decodeManifest(found.bytes, where);
  const configBytes = await source.readBlob(manifest.config, maximumDocumentSize, signal);
  const config = decodeConfig(configBytes, where);
  if (config.rootfs.diff_ids.length !== manifest.layers.length)
    throw new KilnError(
      `malformed image ${where}: ${manifest.layers.length} layers, ${config.rootfs.diff_ids.length} diff_ids`,
      { code: 'E_OCI_MALFORMED', category: 'registry' },
    );
  if (!platformServes(config, platform))
    throw new KilnError(
      `${where} is an image for ${formatPlatform(config)}, not for ${formatPlatform(platform)}`,
      {
        code: 'E_PLATFORM_NOT_FOUND',
        category: 'registry',
        remedy: `Choose another tag or give --platform ${formatPlatform(config)}.`,
      },
    );
  return {
    descriptor: found.descriptor,
    manifest,
    manifestBytes: found.bytes,
    config,
    configBytes,
    topDigest: top.descriptor.digest,
  };
}
