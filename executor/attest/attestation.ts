import { Readable } from 'node:stream';
import type { Layer } from '../../src/layer/index.ts';
import {
  type Descriptor,
  type DiffID,
  digestHex,
  digestOf,
  type ImageConfig,
  type Manifest,
  mediaTypes,
} from '../../src/oci/index.ts';
import { attestationAnnotations, type BuiltImage } from '../image.ts';

/** Something that is said of an image. */
export interface Attested {
  readonly predicateType: string;
  readonly predicate: object;
}

const statementType = 'application/vnd.in-toto+json';
/** What BuildKit gives as its platform, so that nobody takes it for an image of theirs. */
const noPlatform = { architecture: 'unknown', os: 'unknown' } as const;

/**
 * A manifest whose layers are in-toto statements (in-toto attestation 1.0) about an image, in the form in which BuildKit puts
 * them beside it in an index.
 *
 * @param names of the image, as package URLs; with none it is `_`.
 */
export function attestationManifest(
  image: BuiltImage,
  names: readonly string[],
  attested: readonly Attested[],
): BuiltImage {
  const digest = { sha256: digestHex(image.descriptor.digest) };
  const subject = (names.length === 0 ? ['_'] : names).map((name) => ({ name, digest }));
  const statements = attested.map(({ predicateType, predicate }) => ({
    predicateType,
    layer: bytesLayer(
      Buffer.from(
        JSON.stringify({ _type: 'https://in-toto.io/Statement/v1', subject, predicateType, predicate }),
      ),
    ),
  }));
  const config: ImageConfig = {
    ...noPlatform,
    rootfs: { type: 'layers', diff_ids: statements.map(({ layer }) => layer.diffID) },
  };
  const configBytes = Buffer.from(JSON.stringify(config));
  const manifest: Manifest = {
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config: { mediaType: mediaTypes.ociConfig, digest: digestOf(configBytes), size: configBytes.length },
    layers: statements.map(({ predicateType, layer }): Descriptor => ({
      mediaType: layer.mediaType,
      digest: layer.digest,
      size: layer.size,
      annotations: { 'in-toto.io/predicate-type': predicateType },
    })),
  };
  const manifestBytes = Buffer.from(JSON.stringify(manifest));
  return {
    manifest,
    manifestBytes,
    descriptor: {
      mediaType: mediaTypes.ociManifest,
      digest: digestOf(manifestBytes),
      size: manifestBytes.length,
      annotations: {
        [attestationAnnotations.digest]: image.descriptor.digest,
        [attestationAnnotations.type]: 'attestation-manifest',
      },
      platform: noPlatform,
    },
    configBytes,
    layers: statements.map(({ layer }) => ({ layer, origins: [] })),
  };
}

function bytesLayer(bytes: Buffer): Layer {
  const digest = digestOf(bytes);
  const open = (): Promise<Readable> => Promise.resolve(Readable.from([bytes]));
  return {
    digest,
    diffID: digest as string as DiffID,
    size: bytes.length,
    mediaType: statementType,
    compressed: open,
    uncompressed: open,
  };
}
