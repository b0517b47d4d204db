import type { Layer } from '../layer/index.ts';
import type { LayerDirectory } from './layers.ts';
import { acquireAll, type LayerLease, type Lease } from './leases.ts';
import { explained } from './storage.ts';
import type { Unpacker } from './unpack.ts';

/** What layers are leased from. */
export interface LayerStock {
  readonly directory: string;
  readonly writable: boolean;
  readonly layers: LayerDirectory;
  readonly unpacker: Unpacker;
  readonly countUses: (layers: readonly Layer[]) => Promise<void>;
}

/**
 * Leases the unpacked trees of layers, unpacking what is missing where that may be done. A layer that occurs twice is given
 * once, at its highest place: that gives the same tree, and overlayfs refuses a directory twice.
 *
 * @returns undefined when the volume is read-only and a layer is not unpacked.
 */
export async function acquireLayers(
  stock: LayerStock,
  layers: readonly Layer[],
  signal: AbortSignal | undefined,
): Promise<LayerLease | undefined> {
  const unique = layers.filter(
    (layer, position) => layers.findLastIndex(({ diffID }) => diffID === layer.diffID) === position,
  );
  const leases = await acquireAll(unique, (layer) => acquire(stock, layer, signal));
  if (leases === undefined) return undefined;
  await stock.countUses(unique);
  const seals = await Promise.all(unique.map(({ diffID }) => stock.layers.seal(diffID)));
  return {
    paths: unique.map(({ diffID }) => stock.layers.tree(diffID)),
    implied: seals.map((seal) => seal?.implied ?? []),
    [Symbol.asyncDispose]: () => leases[Symbol.asyncDispose](),
  };
}

/** Leases one layer; undefined when it is not there and cannot be made. */
async function acquire(
  { directory, writable, layers, unpacker }: LayerStock,
  layer: Layer,
  signal: AbortSignal | undefined,
): Promise<Lease | undefined> {
  for (;;) {
    signal?.throwIfAborted();
    const lease = await layers.lease(layer.diffID);
    if (lease !== undefined || !writable) return lease;
    await explained(directory, () => unpacker.ensure(layer, signal));
  }
}
