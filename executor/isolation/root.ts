import {
  changeDirectory,
  changeRoot,
  mount,
  mountFlags,
  mountPoints,
  pivotRoot,
  unmount,
} from '../../src/os/index.ts';
import { systemErrorCode } from '../../src/support/index.ts';
import { outermost } from './mounts.ts';

/** Makes the mounted tree the root of the calling thread, and lets go of everything else in its mount namespace. */
export function enterRoot(root: string): void {
  changeDirectory(root);
  try {
    // Old and new root stacked on each other: no directory for the old one is needed (pivot_root(2), NOTES).
    pivotRoot('.', '.');
  } catch (error) {
    if (systemErrorCode(error) !== 'EPERM') throw error;
    moveRoot(root);
    return;
  }
  unmount('.', { detach: true });
  changeDirectory('/');
}

/**
 * The way without pivot_root(2), which the seccomp profiles of containerd and Docker refuse also to those who may mount.
 * The tree is moved onto the old root, so that `..` can never lead there, and everything else that was mounted is
 * unmounted. What is left below is the container's own root, which the init still stands in: the step may not look
 * into that, since the init has all capabilities and the step has fewer (ptrace(2), "access mode checking").
 */
function moveRoot(root: string): void {
  const others = outermost(
    mountPoints().filter((point) => point !== '/' && point !== root && !point.startsWith(`${root}/`)),
  );
  mount('.', '/', null, mountFlags.move, null);
  for (const point of others)
    try {
      unmount(point, { detach: true });
    } catch (error) {
      // It was below the tree's own place, or a mount of another user namespace holds it; it is out of reach now.
      if (!['EINVAL', 'ENOENT'].includes(systemErrorCode(error) ?? '')) throw error;
    }
  changeRoot('.');
  changeDirectory('/');
}
