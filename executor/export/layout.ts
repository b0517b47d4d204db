import { Readable } from 'node:stream';
import { OciLayout, refNameAnnotation } from '../../src/volume/index.ts';
import type { BuildOutput, BuiltImage } from '../image.ts';

/**
 * Adds what was built to an OCI image layout directory, which is made when it is missing, in place of all that has the same
 * name there; others stay. An index stands there under the name alone, and the images below it.
 */
export async function writeLayout(
  { images, index }: BuildOutput,
  directory: string,
  name: string,
  signal?: AbortSignal,
): Promise<void> {
  const layout = await OciLayout.open(directory, { access: 'read-write' });
  for (const image of images) await writeBlobs(layout, image, signal);
  const [only] = images;
  const { mediaType, platform } = index?.descriptor ?? only?.descriptor ?? {};
  const bytes = index?.bytes ?? only?.manifestBytes;
  if (mediaType === undefined || bytes === undefined) throw new Error('nothing was built');
  if (index !== undefined)
    for (const { descriptor, manifestBytes } of images)
      await layout.blobs.ingest(descriptor, Readable.from([manifestBytes]), signal);
  const entry = await layout.putManifest(mediaType, bytes, {
    name,
    ...(platform === undefined ? {} : { platform }),
  });
  if ((await layout.descriptorsNamed(name)).length === 1) return;
  await layout.updateIndex((manifests) =>
    manifests.filter(
      ({ digest, annotations }) => annotations?.[refNameAnnotation] !== name || digest === entry.digest,
    ),
  );
}

async function writeBlobs(layout: OciLayout, image: BuiltImage, signal?: AbortSignal): Promise<void> {
  for (const { layer } of image.layers) {
    const descriptor = { mediaType: layer.mediaType, digest: layer.digest, size: layer.size };
    const there = await layout.blobs.stat(layer.digest, signal);
    if (there?.size === layer.size) continue;
    await layout.blobs.ingest(descriptor, await layer.compressed(signal), signal);
  }
  await layout.blobs.ingest(image.manifest.config, Readable.from([image.configBytes]), signal);
}
