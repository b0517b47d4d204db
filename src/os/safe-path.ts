import { lstatSync, readlinkSync, type Stats } from 'node:fs';
import { posix } from 'node:path';

const maximumLinks = 255;

/** A path resolved as if a directory were `/`. */
export interface ResolvedPath {
  /** Where it is, below the root. */
  readonly path: string;
  /** What is there, not followed further; undefined when nothing is. */
  readonly stat: Stats | undefined;
}

/**
 * Resolves a path inside a directory tree as a process whose root it is would: links are followed, `..` stops at the
 * root, and nothing leads out. Components that do not exist are kept as they are.
 *
 * Not safe against someone who changes the tree meanwhile; use it on trees that nobody else writes to.
 *
 * @param options `followLast`: whether a link in the last component is followed; `place`: where a path of the tree really
 *   is, for trees that do not all lie below the root.
 * @throws Error with code `ELOOP` for too many links.
 */
export function resolveInRoot(
  root: string,
  path: string,
  options: { readonly followLast: boolean; readonly place?: (path: string) => string },
): ResolvedPath {
  const { place = (path: string): string => path } = options;
  let current: string[] = [];
  const pending = path.split('/').filter((part) => part !== '' && part !== '.');
  let links = 0;
  let stat: Stats | undefined = lstatSync(root, { throwIfNoEntry: false });
  for (let part = pending.shift(); part !== undefined; part = pending.shift()) {
    if (part === '..') {
      current.pop();
      stat = lstatSync(place(posix.join(root, ...current)), { throwIfNoEntry: false });
      continue;
    }
    const here = posix.join(root, ...current, part);
    stat = lookUp(place(here));
    if (stat?.isSymbolicLink() === true && (options.followLast || pending.length > 0)) {
      if (++links > maximumLinks)
        throw Object.assign(new Error(`too many symbolic links in ${path}`), { code: 'ELOOP' });
      const target = readlinkSync(place(here));
      if (target.startsWith('/')) current = [];
      pending.unshift(...target.split('/').filter((piece) => piece !== '' && piece !== '.'));
      if (pending.length === 0) stat = lstatSync(place(posix.join(root, ...current)));
      continue;
    }
    current.push(part);
  }
  return { path: posix.join(root, ...current), stat };
}

function lookUp(path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    // Below a file there is nothing.
    if (error instanceof Error && 'code' in error && error.code === 'ENOTDIR') return undefined;
    throw error;
  }
}
