import { lstatSync, readlinkSync, type Stats } from 'node:fs';
import { posix } from 'node:path';
import { type BytePath, pathBuffer, pathText, toBytePath } from './byte-path.ts';

const maximumLinks = 255;

/** A path resolved as if a directory were `/`. */
export interface ResolvedPath {
  /** Where it is, below the root. */
  readonly path: string;
  /** What is there, not followed further; undefined when nothing is. */
  readonly stat: Stats | undefined;
}

export interface ResolveOptions {
  /** Whether a link in the last component is followed. */
  readonly followLast: boolean;
  /** Where a path below the root really is, for trees that do not all lie there. */
  readonly place?: (path: BytePath) => BytePath;
}

/**
 * Resolves a path inside a directory tree as a process whose root it is would: links are followed, `..` stops at the
 * root, and nothing leads out. Components that do not exist are kept as they are.
 *
 * Not safe against someone who changes the tree meanwhile; use it on trees that nobody else writes to.
 *
 * @throws Error with code `ELOOP` for too many links.
 */
export function resolveInRoot(root: string, path: string, options: ResolveOptions): ResolvedPath {
  const resolved = resolveBytesInRoot(toBytePath(root), toBytePath(path), options);
  return { path: pathText(resolved.path), stat: resolved.stat };
}

/** {@link resolveInRoot} for names that need not be text. */
export function resolveBytesInRoot(root: BytePath, path: BytePath, options: ResolveOptions): ResolvedPath {
  const { place = (full: BytePath): BytePath => full } = options;
  let current: string[] = [];
  const pending = path.split('/').filter((part) => part !== '' && part !== '.');
  let links = 0;
  let stat = lookUp(root);
  for (let part = pending.shift(); part !== undefined; part = pending.shift()) {
    if (part === '..') {
      current.pop();
      stat = lookUp(place(posix.join(root, ...current)));
      continue;
    }
    const here = posix.join(root, ...current, part);
    stat = lookUp(place(here));
    if (stat?.isSymbolicLink() === true && (options.followLast || pending.length > 0)) {
      if (++links > maximumLinks)
        throw Object.assign(new Error(`too many symbolic links in ${pathText(path)}`), { code: 'ELOOP' });
      const target = toBytePath(readlinkSync(pathBuffer(place(here)), 'buffer'));
      if (target.startsWith('/')) current = [];
      pending.unshift(...target.split('/').filter((piece) => piece !== '' && piece !== '.'));
      if (pending.length === 0) stat = lookUp(place(posix.join(root, ...current)));
      continue;
    }
    current.push(part);
  }
  return { path: posix.join(root, ...current), stat };
}

function lookUp(path: BytePath): Stats | undefined {
  try {
    return lstatSync(pathBuffer(path), { throwIfNoEntry: false });
  } catch (error) {
    // Below a file there is nothing.
    if (error instanceof Error && 'code' in error && error.code === 'ENOTDIR') return undefined;
    throw error;
  }
}
