import { chmodSync, lstatSync, mkdirSync } from 'node:fs';
import { dirname, posix } from 'node:path';
import { Territory } from '../../src/layer/index.ts';
import {
  type BytePath,
  pathBuffer,
  pathText,
  resolveBytesInRoot,
  setOwner,
  toBytePath,
} from '../../src/os/index.ts';
import { BuildError } from '../../src/support/index.ts';
import { resolveUser } from './owner.ts';
import { lookUp } from './sources.ts';

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
  const place = (full: BytePath): BytePath => territory.place(full);
  const isScaffold = (full: BytePath): boolean => territory.isScaffold(territory.relative(full));
  const bytes = toBytePath(root);
  const resolved = resolveBytesInRoot(bytes, toBytePath(path), { followLast: true, place });
  if (resolved.stat?.isDirectory() === true && !isScaffold(resolved.path)) return;
  const owner = resolveUser(root, user, where);
  const missing: BytePath[] = [];
  let nearest = resolved.path;
  for (; lookUp(place(nearest)) === undefined || isScaffold(nearest); nearest = dirname(nearest))
    missing.unshift(nearest);
  if (!lstatSync(pathBuffer(place(nearest))).isDirectory())
    throw new BuildError(`/${pathText(posix.relative(bytes, nearest))} is not a directory`, {
      code: 'E_WORKDIR',
      where,
      remedy: 'Give WORKDIR another path, or remove the file in an earlier step.',
    });
  for (const full of missing) {
    const directory = pathBuffer(place(full));
    if (isScaffold(full)) territory.adopt(territory.relative(full));
    else mkdirSync(directory);
    chmodSync(directory, 0o755);
    setOwner(directory, owner);
  }
}
