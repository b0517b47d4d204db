import {
  type ChainID,
  decodeManifest,
  type Descriptor,
  type DiffID,
  isDigest,
  type ImageConfig,
  type Manifest,
  mediaTypes,
  digestOf,
  hostPlatform,
  parsePlatform,
  layerCompression,
} from '../oci/index.ts';
import { type CanonicalValue, KilnError } from '../support/index.ts';
import { decodeOrigin, encodeOrigin, type EntryOrigin } from './entry-origin.ts';
import { encodeFileList, type FileList } from './file-list.ts';
import { type CacheKey, keyOfDescription } from './keys.ts';
import { decodeSignature, encodeSignature, type EntrySignature } from './signature.ts';

/** A step's stored result. */
export interface CacheEntry {
  readonly key: CacheKey;
  /** The rootfs it was made on; null for an empty one. It is a hit only on exactly that. */
  readonly parentChainID: ChainID | null;
  /** Null when the step ran and changed nothing. */
  readonly layer: { readonly descriptor: Descriptor; readonly diffID: DiffID } | null;
  readonly created: Date;
  /** Version of Kiln that made it. */
  readonly creator: string;
  /** The instruction as it is written, variables not expanded, for people. */
  readonly createdBy: string;
  /** Where it was made; undefined when that was not said. No key depends on it. */
  readonly origin: EntryOrigin | undefined;
  /** What the key is the hash of. */
  readonly description: CanonicalValue;
  /** Not yet verified. */
  readonly signature?: EntrySignature | undefined;
}

/** Annotations of an entry's manifest. */
export const entryAnnotations = {
  description: 'dev.kiln.cache.key',
  parentChainID: 'dev.kiln.cache.parent-chain',
  diffID: 'dev.kiln.cache.diff-id',
  creator: 'dev.kiln.cache.creator',
  createdBy: 'dev.kiln.cache.created-by',
  origin: 'dev.kiln.cache.origin',
  created: 'org.opencontainers.image.created',
  signature: 'dev.kiln.cache.signature',
} as const;

/** The documents of an entry: an ordinary OCI image with one layer or none. */
export interface EncodedEntry {
  readonly manifestBytes: Uint8Array;
  readonly configBytes: Uint8Array;
  readonly config: Descriptor;
}

const longestText = 4096;

/**
 * Writes an entry as an image manifest and configuration.
 *
 * @param files what a copy took, for whoever asks why the next one missed. It is kept in the configuration, which no build reads.
 */
export function encodeEntry(entry: CacheEntry, files?: FileList): EncodedEntry {
  const created = entry.created.toISOString();
  const config: ImageConfig = {
    created,
    ...(entry.origin === undefined ? hostPlatform() : parsePlatform(entry.origin.base.platform)),
    rootfs: { type: 'layers', diff_ids: entry.layer === null ? [] : [entry.layer.diffID] },
    ...(files === undefined ? {} : encodeFileList(files)),
  };
  const configBytes = Buffer.from(JSON.stringify(config));
  const configDescriptor: Descriptor = {
    mediaType: mediaTypes.ociConfig,
    digest: digestOf(configBytes),
    size: configBytes.length,
  };
  const manifest: Manifest = {
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config: configDescriptor,
    layers: entry.layer === null ? [] : [entry.layer.descriptor],
    annotations: {
      [entryAnnotations.description]: JSON.stringify(entry.description),
      [entryAnnotations.parentChainID]: entry.parentChainID ?? 'scratch',
      ...(entry.layer === null ? {} : { [entryAnnotations.diffID]: entry.layer.diffID }),
      [entryAnnotations.creator]: entry.creator,
      [entryAnnotations.createdBy]: entry.createdBy.slice(0, longestText),
      [entryAnnotations.created]: created,
      ...(entry.origin === undefined ? {} : { [entryAnnotations.origin]: encodeOrigin(entry.origin) }),
      ...(entry.signature === undefined
        ? {}
        : { [entryAnnotations.signature]: encodeSignature(entry.signature) }),
    },
  };
  return { manifestBytes: Buffer.from(JSON.stringify(manifest)), configBytes, config: configDescriptor };
}

function corrupt(why: string): KilnError {
  return new KilnError(`the cache entry is not valid: ${why}`, {
    code: 'E_CACHE_CORRUPT',
    category: 'registry',
  });
}

/**
 * Reads the manifest of the entry that is stored under `key`. Nothing in it is believed: the description must hash to the
 * key, so an entry put under another key is found out.
 *
 * @throws KilnError `E_CACHE_CORRUPT`, `E_OCI_MALFORMED`.
 */
export function decodeEntry(key: CacheKey, bytes: Uint8Array): CacheEntry {
  return decodeStoredEntry(key, bytes).entry;
}

/** As {@link decodeEntry}, with the descriptor of the configuration. */
export function decodeStoredEntry(
  key: CacheKey,
  bytes: Uint8Array,
): { readonly entry: CacheEntry; readonly config: Descriptor } {
  const manifest = decodeManifest(bytes, `cache entry ${key.slice(0, 12)}`);
  return { entry: entryOf(key, manifest), config: manifest.config };
}

function entryOf(key: CacheKey, manifest: Manifest): CacheEntry {
  const annotations = manifest.annotations ?? {};
  const text = (name: string): string => {
    const value = annotations[name];
    if (typeof value !== 'string') throw corrupt(`it has no annotation ${name}`);
    return value;
  };
  const description = parseDescription(text(entryAnnotations.description));
  if (keyOfDescription(description) !== key) throw corrupt('it was made for another key');
  const parent = text(entryAnnotations.parentChainID);
  if (parent !== 'scratch' && !isDigest(parent)) throw corrupt('its parent chain is no digest');
  const created = new Date(text(entryAnnotations.created));
  if (Number.isNaN(created.getTime())) throw corrupt('its date cannot be read');
  return {
    key,
    parentChainID: parent === 'scratch' ? null : (parent as ChainID),
    layer: decodeLayer(manifest, annotations[entryAnnotations.diffID]),
    created,
    creator: text(entryAnnotations.creator),
    createdBy: text(entryAnnotations.createdBy),
    origin: decodeOrigin(annotations[entryAnnotations.origin]),
    description,
    signature: decodeSignature(annotations[entryAnnotations.signature]),
  };
}

function parseDescription(text: string): CanonicalValue {
  try {
    return JSON.parse(text) as CanonicalValue;
  } catch (cause) {
    throw new KilnError('the cache entry is not valid: its key object is not JSON', {
      code: 'E_CACHE_CORRUPT',
      category: 'registry',
      cause,
    });
  }
}

function decodeLayer(manifest: Manifest, diffID: string | undefined): CacheEntry['layer'] {
  if (manifest.layers.length > 1) throw corrupt('it has more than one layer');
  const descriptor = manifest.layers[0];
  if (descriptor === undefined) {
    if (diffID !== undefined) throw corrupt('it names a DiffID but has no layer');
    return null;
  }
  if (!isDigest(diffID)) throw corrupt('its DiffID is no digest');
  if (layerCompression(descriptor.mediaType) === undefined)
    throw corrupt(`its layer is of the type ${descriptor.mediaType}`);
  return { descriptor, diffID: diffID as DiffID };
}
