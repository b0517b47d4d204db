import { existsSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { pathInTree, standardInput } from './context/index.ts';

/**
 * Where the Dockerfile is, as kaniko looks for it: as given, or else inside the context; `-` is standard input.
 *
 * @param root of the tree that the context lies in, when it was fetched: no link of it leads to a file of this machine.
 */
export function dockerfilePath(path: string, context: string, root?: string): string {
  if (path === standardInput) return path;
  const joined = join(context, path);
  const inside = root === undefined ? joined : pathInTree(root, joined);
  if (isAbsolute(path) || existsSync(inside) || !existsSync(path)) return isAbsolute(path) ? path : inside;
  return resolve(path);
}
