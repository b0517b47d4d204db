import { readdir } from 'node:fs/promises';
import { getXattr, pathBuffer, removeXattr, toBytePath } from '../os/index.ts';
import { opaqueAttribute, ownOverlayMark } from './xattrs.ts';

/**
 * Makes an upper directory that was written over nothing fit to lie on any other layer. overlayfs marks the directories that
 * it makes as opaque, also where there is nothing to hide; above other layers they would hide those.
 */
export async function makeMergeable(upper: string): Promise<void> {
  await clearMarks(toBytePath(upper), opaqueAttribute(ownOverlayMark()));
}

async function clearMarks(directory: string, attribute: string): Promise<void> {
  const entries = await readdir(pathBuffer(directory), { withFileTypes: true, encoding: 'buffer' });
  for (const entry of entries) {
    if (!entry.isDirectory()) continue;
    const path = `${directory}/${toBytePath(entry.name)}`;
    if (getXattr(pathBuffer(path), attribute) !== undefined) removeXattr(pathBuffer(path), attribute);
    await clearMarks(path, attribute);
  }
}
