import { mkdirSync, rmSync } from 'node:fs';
import { captureLayer, Territory, TreeChanges, TreeState } from '../../../src/layer/index.ts';
import { copyInto, type CopyRequest } from '../../context/index.ts';
import type { Capture, LinkedCopy } from './messages.ts';

/**
 * Carries out a COPY or ADD with `--link`: onto nothing, in a directory of its own, so that the root stays what it is. Runs on
 * the calling thread.
 */
export async function linkedCopy(
  request: CopyRequest,
  { output, clampTime, ignored }: Capture,
): Promise<LinkedCopy> {
  const root = `${output}-tree`;
  mkdirSync(root, { mode: 0o755 });
  try {
    const territory = new Territory({ root });
    const before = TreeState.read(territory);
    const stamp = await copyInto(root, request);
    const changes = new TreeChanges(before, TreeState.read(territory));
    for (const path of ignored) changes.ignore(path);
    return { stamp, layer: captureLayer(changes.entries(territory, clampTime), output) };
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}
