import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  hasId,
  hasSingleId,
  idMap,
  mount,
  mountFlags,
  resolveInRoot,
  setOwner,
  unmappedId,
} from '../../src/os/index.ts';
import { BuildError, systemErrorCode } from '../../src/support/index.ts';
import type { OverlaySpace, WorkerMount } from './messages.ts';
import { mountLayers, type MountPoints } from './mounts.ts';
import type { StepFileOwner } from './types.ts';

/** What is mounted in the place of a target. */
interface Prepared {
  readonly kind: 'directory' | 'file';
  /** @param target where, made when it was missing. */
  readonly mountAt: (target: string) => void;
}

const { bind, noDev, noExec, noSuid, readOnly, remount } = mountFlags;

/**
 * Mounts what a RUN alone sees, in the mount namespace of the calling thread. Directories come before what is mounted in them.
 * Places that are made for it are noted, so that they are not left in the layer.
 *
 * @throws BuildError `E_COPY_SOURCE_NOT_FOUND`, `E_MOUNT_TARGET`; EnvironmentError `E_ID_UNMAPPED`.
 */
export function mountForStep(
  root: string,
  space: OverlaySpace,
  mounts: readonly WorkerMount[],
  points: MountPoints,
  where: string,
): void {
  const files = new PrivateFiles(space, mounts);
  for (const each of [...mounts].sort((a, b) => (a.target < b.target ? -1 : 1))) {
    const prepared = prepare(each, space, files, where);
    try {
      prepared.mountAt(points.prepare(each.target, prepared.kind));
    } catch (error) {
      const code = systemErrorCode(error);
      if (code !== 'ENOTDIR' && code !== 'EEXIST' && code !== 'ELOOP') throw error;
      throw new BuildError(`nothing can be mounted at ${each.target}: it is no ${prepared.kind}`, {
        code: 'E_MOUNT_TARGET',
        where,
        cause: error,
        remedy: 'Give another target, or make it what is mounted there in an earlier step.',
      });
    }
  }
}

function prepare(each: WorkerMount, space: OverlaySpace, files: PrivateFiles, where: string): Prepared {
  switch (each.kind) {
    case 'tree':
      return prepareTree(each, space, where);
    case 'cache':
      return {
        kind: 'directory',
        mountAt: (target) => {
          mount(each.directory, target, null, bind, null);
          if (each.readOnly) makeReadOnly(target);
        },
      };
    case 'tmpfs':
      return {
        kind: 'directory',
        mountAt: (target) => {
          const size = each.size === undefined ? '' : `,size=${each.size}`;
          mount('tmpfs', target, 'tmpfs', noSuid, `mode=1777${size}`);
        },
      };
    case 'file':
      return { kind: 'file', mountAt: (target) => mount(files.path(each), target, null, bind, null) };
    case 'socket':
      return { kind: 'file', mountAt: (target) => mount(each.path, target, null, bind, null) };
  }
}

function prepareTree(
  { prefix, layerCount: count, path, treeName, readOnly: isReadOnly }: Extract<WorkerMount, { kind: 'tree' }>,
  space: OverlaySpace,
  where: string,
): Prepared {
  const tree = mountLayers(space, { prefix, count, at: `${prefix}merged`, writable: !isReadOnly });
  const source = resolveInRoot(tree, path, { followLast: true });
  if (source.stat === undefined)
    throw new BuildError(`"${path}" is not in ${treeName}`, {
      code: 'E_COPY_SOURCE_NOT_FOUND',
      where,
      remedy: 'Check the path; it is relative to the root of that tree.',
    });
  return {
    kind: source.stat.isDirectory() ? 'directory' : 'file',
    mountAt: (target) => mount(source.path, target, null, bind, null),
  };
}

/**
 * Forbids writing below a mount. In a user namespace the flags of what was mounted outside are locked, so those must be
 * named too (mount_namespaces(7)).
 */
function makeReadOnly(target: string): void {
  const attempts = [0, noSuid | noDev, noSuid | noDev | noExec];
  for (const [index, flags] of attempts.entries())
    try {
      mount(null, target, null, bind | remount | readOnly | flags, null);
      return;
    } catch (error) {
      if (systemErrorCode(error) !== 'EPERM' || index === attempts.length - 1) throw error;
    }
}

/** The files that a step is given, such as secrets, in memory: never on a disk, and gone with the step. */
class PrivateFiles {
  readonly #paths = new Map<WorkerMount, string>();

  constructor({ directory }: OverlaySpace, mounts: readonly WorkerMount[]) {
    const files = mounts.filter((each) => each.kind === 'file');
    if (files.length === 0) return;
    const place = join(directory, 'files');
    mkdirSync(place);
    const quiet = noSuid | noDev | (files.some(({ mode }) => (mode & 0o111) !== 0) ? 0 : noExec);
    mount('tmpfs', place, 'tmpfs', quiet, 'mode=711');
    for (const [index, file] of files.entries()) {
      const path = join(place, String(index));
      writeFileSync(path, file.content, { flag: 'wx', mode: 0o600 });
      giveTo(path, file);
      this.#paths.set(file, path);
    }
    mount(null, place, null, remount | readOnly | quiet, null);
  }

  path(file: WorkerMount): string {
    return this.#paths.get(file) ?? '';
  }
}

/** Gives a file its owner and mode. @throws EnvironmentError `E_ID_UNMAPPED`. */
function giveTo(path: string, { uid, gid, mode }: StepFileOwner): void {
  if (!hasSingleId()) {
    if (!hasId(idMap('uid'), uid)) throw unmappedId(`user ${uid}`);
    if (!hasId(idMap('gid'), gid)) throw unmappedId(`group ${gid}`);
  }
  setOwner(path, { uid, gid });
  chmodSync(path, mode & 0o777);
}
