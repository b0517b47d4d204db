import { chmodSync, chownSync, existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { Territory } from '../../src/layer/index.ts';
import { resolveInRoot } from '../../src/os/index.ts';
import { BuildError } from '../../src/support/index.ts';
import { resolveUser } from './owner.ts';

/**
 * Makes a directory of a tree with its parents, as WORKDIR does; one that is there stays as it is.
 *
 * @param user as in USER: who new directories belong to.
 * @param where the Dockerfile and line, for messages.
 * @param territory where the tree's files are, when not all of them are below the root.
 * @throws BuildError `E_WORKDIR` when something else is there, `E_USER_NOT_FOUND`.
 */
export function makeDirectory(
  root: string,
  path: string,
  user: string,
  where: string,
  territory: Territory = new Territory({ root }),
): void {
  const place = (full: string): string => territory.place(full);
  const resolved = resolveInRoot(root, path, { followLast: true, place });
  const isScaffold = (full: string): boolean => territory.isScaffold(territory.relative(full));
  if (resolved.stat?.isDirectory() === true && !isScaffold(resolved.path)) return;
  if (resolved.stat !== undefined && !resolved.stat.isDirectory())
    throw new BuildError(`${path} is not a directory`, { code: 'E_WORKDIR', where });
  const owner = resolveUser(root, user, where);
  const missing: string[] = [];
  for (
    let current = resolved.path;
    !existsSync(place(current)) || isScaffold(current);
    current = dirname(current)
  )
    missing.unshift(current);
  for (const directory of missing) {
    if (isScaffold(directory)) territory.adopt(territory.relative(directory));
    else mkdirSync(place(directory));
    chmodSync(place(directory), 0o755);
    chownSync(place(directory), owner.uid, owner.gid);
  }
}
