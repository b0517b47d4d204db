import type { Layer, LayerSource } from '../layer/index.ts';
import { layerCompression } from '../oci/index.ts';
import type { BlobDirectory } from './blobs.ts';
import type { LayerDirectory } from './layers.ts';
import { Lease } from './leases.ts';

/** A layer on the volume, which stays there until this is disposed. */
export interface LeasedSource extends AsyncDisposable {
  readonly source: LayerSource;
}

/**
 * Leases a layer in the form that is fastest to apply to a tree: unpacked, or else as the blob.
 *
 * @returns undefined when the volume has it in neither.
 */
export async function leaseSource(
  blobs: BlobDirectory,
  layers: LayerDirectory,
  layer: Layer,
): Promise<LeasedSource | undefined> {
  const { diffID, digest, size, mediaType } = layer;
  const unpacked = await layers.leaseFiles(diffID);
  const { opaque, implied } = unpacked?.seal ?? {};
  // What was unpacked by an earlier version does not tell which directories are opaque, or described by nothing.
  if (unpacked !== undefined && opaque !== undefined && implied !== undefined)
    return leased(unpacked.lease, { kind: 'directory', diffID, path: layers.tree(diffID), opaque, implied });
  await unpacked?.lease[Symbol.asyncDispose]();
  const file = blobs.path(digest);
  const compression = layerCompression(mediaType);
  const blob = compression === undefined ? undefined : await Lease.tryAcquire(file);
  if (blob === undefined || compression === undefined) return undefined;
  if ((await blobs.stat(digest))?.size === size)
    return leased(blob, { kind: 'archive', diffID, file, compression });
  await blob[Symbol.asyncDispose]();
  return undefined;
}

function leased(lease: Lease, source: LayerSource): LeasedSource {
  return { source, [Symbol.asyncDispose]: () => lease[Symbol.asyncDispose]() };
}
