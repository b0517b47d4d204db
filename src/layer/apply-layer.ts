import { KilnError } from '../support/index.ts';
import { applyDirectory } from './apply-directory.ts';
import type { LayerProblems } from './layer-problems.ts';
import type { LayerSource } from './layer-source.ts';
import type { Territory } from './territory.ts';
import { TreeWriter } from './tree-writer.ts';
import { readArchive, spaceError } from './unpack.ts';

/**
 * Applies a layer to a tree, on the calling thread: what it has is written, what it marks as deleted is removed, so that
 * the tree is what an overlay of the layer on it would show. Excluded paths are never touched.
 *
 * @returns what could not be made for lack of a capability.
 * @throws KilnError `E_LAYER_CORRUPT` when the content is not what the DiffID says, `E_TAR_UNSAFE`, `E_TAR_MALFORMED`;
 *   EnvironmentError `E_NO_SPACE`, `E_INPLACE_MOUNT`. The tree is then to be thrown away.
 */
export async function applyLayer(territory: Territory, source: LayerSource): Promise<LayerProblems> {
  try {
    return source.kind === 'directory'
      ? applyDirectory(territory, source)
      : await applyArchive(territory, source);
  } catch (error) {
    throw spaceError(error, territory.root === '' ? '/' : territory.root) ?? error;
  }
}

async function applyArchive(
  territory: Territory,
  source: Extract<LayerSource, { kind: 'archive' }>,
): Promise<LayerProblems> {
  const writer = new TreeWriter({ root: territory.root, whiteouts: 'apply' }, territory);
  try {
    const diffID = await readArchive(source, writer);
    writer.finish();
    if (diffID !== source.diffID) throw corrupt(source, diffID);
    return writer.problems;
  } catch (error) {
    writer.abort();
    throw error;
  }
}

function corrupt({ file, diffID }: Extract<LayerSource, { kind: 'archive' }>, found: string): KilnError {
  return new KilnError(`the layer's content has digest ${found}, its image says ${diffID}`, {
    code: 'E_LAYER_CORRUPT',
    category: 'registry',
    where: file,
    remedy: 'The blob was altered, or the image made by a broken tool; remove it and pull the image again.',
  });
}
