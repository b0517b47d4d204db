import { recompressLayer } from '../src/layer/index.ts';
import { type Digest, layerCompression } from '../src/oci/index.ts';
import type { PlacedLayer } from './image.ts';
import type { BuildSession } from './session.ts';

/**
 * Gives the compression of the build to the layers that have another one, such as those of a base. Their content stays,
 * and what has that compression already is not touched, whatever its level.
 *
 * @throws KilnError `E_BLOB_CORRUPT`; EnvironmentError `E_NO_SPACE`.
 */
export async function withOneCompression(
  layers: readonly PlacedLayer[],
  session: BuildSession,
): Promise<PlacedLayer[]> {
  const made = new Map<Digest, Promise<PlacedLayer>>();
  return Promise.all(
    layers.map(async (placed) => {
      const { digest, mediaType } = placed.layer;
      if (layerCompression(mediaType) === session.compression.compression) return placed;
      const anew = made.get(digest) ?? recompressed(placed, session);
      made.set(digest, anew);
      return anew;
    }),
  );
}

async function recompressed({ layer }: PlacedLayer, session: BuildSession): Promise<PlacedLayer> {
  const { compression, progress, signal } = session;
  const before = layerCompression(layer.mediaType) ?? 'none';
  progress.info(`compressing ${layer.digest} anew: ${before} becomes ${compression.compression}`);
  const request = { output: session.scratchFile(), ...compression };
  const written = await session.writing(async () => ({
    layer: await recompressLayer(layer, request, signal),
    origins: [],
  }));
  if (written === undefined) throw new Error(`nothing became of ${layer.digest}`);
  return written;
}
