import {
  type Descriptor,
  isDigest,
  maximumDocumentSize,
  parseReference,
  referenceTarget,
} from '../../src/oci/index.ts';
import type { ImageSource, RegistryClient } from '../../src/registry/index.ts';
import { OciLayout } from '../../src/volume/index.ts';
import type { BlobOrigin } from '../image.ts';

/** Where images are that are to be joined: a repository, or an OCI layout. */
export interface ImagePlace {
  /** What the image's name means: a manifest or an index; undefined when there is none. */
  readonly find: (signal?: AbortSignal) => Promise<NamedDocument | undefined>;
  /** A manifest of an index. */
  readonly read: (descriptor: Descriptor, signal?: AbortSignal) => Promise<Uint8Array | undefined>;
  readonly blobs: Pick<ImageSource, 'openBlob' | 'readBlob'>;
  /** Repositories that its blobs may be mounted from. */
  readonly origins: readonly BlobOrigin[];
}

export interface NamedDocument {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
}

/**
 * Reads the name of an image: a reference, or `oci:DIRECTORY`, with `:TAG` or `@sha256:…` for another one than `latest`.
 *
 * @throws UsageError; EnvironmentError `E_VOLUME_NOT_FOUND` for a directory that is no layout.
 */
export async function openPlace(text: string, client: RegistryClient): Promise<ImagePlace> {
  const named = /^oci:(.+?)(?:@(sha256:[0-9a-f]{64})|:([a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}))?$/.exec(text);
  if (named !== null) return placeInLayout(named[1] ?? '', named[2] ?? named[3] ?? 'latest');
  const reference = parseReference(text);
  const source = client.source(reference);
  return {
    find: (signal) => source.getManifest(referenceTarget(reference), signal),
    read: async ({ digest }, signal) => (await source.getManifest(digest, signal))?.bytes,
    blobs: source,
    origins: client.places(reference),
  };
}

async function placeInLayout(directory: string, name: string): Promise<ImagePlace> {
  const layout = await OciLayout.open(directory, { access: 'read-only' });
  const read = ({ digest }: Descriptor): Promise<Uint8Array> =>
    layout.blobs.read(digest, maximumDocumentSize);
  return {
    find: async () => {
      const entries = isDigest(name) ? await layout.readIndex() : await layout.descriptorsNamed(name);
      const descriptor = isDigest(name) ? entries.find(({ digest }) => digest === name) : entries[0];
      return descriptor && { descriptor, bytes: await read(descriptor) };
    },
    read,
    blobs: {
      openBlob: ({ digest }, signal) => layout.blobs.open(digest, signal),
      readBlob: ({ digest }, limit) => layout.blobs.read(digest, limit),
    },
    origins: [],
  };
}
