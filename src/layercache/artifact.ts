import { decodeManifest, type Descriptor, digestOf, type Manifest, mediaTypes } from '../oci/index.ts';
import { KilnError } from '../support/index.ts';
import type { Artifact } from './entry-store.ts';

/** The configuration of an artifact that has none (OCI image specification 1.1, "Guidance for an empty descriptor"). */
export const emptyConfig = {
  bytes: Buffer.from('{}'),
  descriptor: {
    mediaType: 'application/vnd.oci.empty.v1+json',
    digest: digestOf('{}'),
    size: 2,
  },
} as const;

/** The manifest of an artifact and the descriptor of its content. */
export function encodeArtifact({ type, content, annotations }: Artifact): {
  readonly manifestBytes: Uint8Array;
  readonly blob: Descriptor;
} {
  const blob = { mediaType: type, digest: digestOf(content), size: content.byteLength };
  const manifest: Manifest = {
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    artifactType: type,
    config: emptyConfig.descriptor,
    layers: [blob],
    ...(annotations === undefined ? {} : { annotations }),
  };
  return { manifestBytes: Buffer.from(JSON.stringify(manifest)), blob };
}

/** The content's descriptor of an artifact of a type. @throws KilnError `E_CACHE_CORRUPT` for anything else. */
export function decodeArtifact(bytes: Uint8Array, type: string, where: string): Descriptor {
  const { artifactType, layers } = decodeManifest(bytes, where);
  const [blob] = layers;
  if (artifactType === type && blob?.mediaType === type && layers.length === 1) return blob;
  throw new KilnError(`${where} is not of the type ${type}`, {
    code: 'E_CACHE_CORRUPT',
    category: 'registry',
  });
}
