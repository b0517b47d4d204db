import { Readable } from 'node:stream';
import { OciLayout } from '../../src/volume/index.ts';
import type { BuiltImage } from '../image.ts';

/**
 * Adds an image to an OCI image layout directory, which is made when it is missing; a manifest of the same name is
 * replaced, others stay.
 */
export async function writeLayout(
  image: BuiltImage,
  directory: string,
  name: string,
  signal?: AbortSignal,
): Promise<void> {
  const layout = await OciLayout.open(directory, { access: 'read-write' });
  for (const { layer } of image.layers) {
    const descriptor = { mediaType: layer.mediaType, digest: layer.digest, size: layer.size };
    if ((await layout.blobs.stat(layer.digest, signal)) !== undefined) continue;
    await layout.blobs.ingest(descriptor, await layer.compressed(signal), signal);
  }
  await layout.blobs.ingest(image.manifest.config, Readable.from([image.configBytes]), signal);
  await layout.putManifest(image.descriptor.mediaType, image.manifestBytes, {
    name,
    ...(image.descriptor.platform === undefined ? {} : { platform: image.descriptor.platform }),
  });
}
