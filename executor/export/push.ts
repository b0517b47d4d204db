import { Readable } from 'node:stream';
import { type Descriptor, formatReference, type Reference } from '../../src/oci/index.ts';
import type { RegistryClient, Repository } from '../../src/registry/index.ts';
import type { BuildOutput, BuiltImage, PlacedLayer } from '../image.ts';

/** Pushes what was built to one destination; of an index first the images, which have no name there but their digest. */
export async function pushOutput(
  client: RegistryClient,
  { images, index }: BuildOutput,
  destination: Reference,
  signal?: AbortSignal,
): Promise<void> {
  const { registry, repository } = destination;
  const place = index === undefined ? destination : { registry, repository };
  await Promise.all(images.map((image) => pushImage(client, image, place, signal)));
  if (index === undefined) return;
  const { mediaType, digest } = index.descriptor;
  const target = destination.tag ?? digest;
  await client.repository(destination).putManifest(target, mediaType, index.bytes, signal);
}

/**
 * Pushes an image to one destination: layers (mounted from a repository of the same registry where possible) and
 * configuration first, the manifest last, so that a tag never names an image that is not all there.
 */
async function pushImage(
  client: RegistryClient,
  image: BuiltImage,
  destination: Reference,
  signal?: AbortSignal,
): Promise<void> {
  const repository = client.repository(destination);
  const layers = new Map(image.layers.map((placed) => [placed.layer.digest, placed]));
  await Promise.all([
    ...[...layers.values()].map((placed) => pushLayer(repository, placed, signal)),
    pushBytes(repository, image.manifest.config, image.configBytes, signal),
  ]);
  const target = destination.tag ?? image.descriptor.digest;
  await repository.putManifest(target, image.descriptor.mediaType, image.manifestBytes, signal);
}

async function pushLayer(repository: Repository, placed: PlacedLayer, signal?: AbortSignal): Promise<void> {
  const { layer, origins, isSizeClaimed: checkSize = false } = placed;
  const mountFrom = repository.mountable(origins);
  const descriptor: Descriptor = { mediaType: layer.mediaType, digest: layer.digest, size: layer.size };
  await repository.uploadBlob(descriptor, (s) => layer.compressed(s), { mountFrom, checkSize }, signal);
}

async function pushBytes(
  repository: Repository,
  descriptor: Descriptor,
  bytes: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  await repository.uploadBlob(descriptor, () => Promise.resolve(Readable.from([bytes])), {}, signal);
}

/** The destination with the digest that was pushed, as `--image-name-with-digest-file` of kaniko writes it. */
export function destinationWithDigest(destination: Reference, { descriptor }: BuildOutput): string {
  return formatReference({
    registry: destination.registry,
    repository: destination.repository,
    digest: descriptor.digest,
  });
}
