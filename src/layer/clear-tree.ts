import { lstatSync, mkdirSync, readdirSync, readlinkSync, renameSync, rmdirSync, rmSync } from 'node:fs';
import { EnvironmentError, systemErrorCode } from '../support/index.ts';
import type { Relocation, Territory } from './territory.ts';

const maximumLinks = 40;

/**
 * Removes something from a tree with all that is in it, but never an excluded path nor a directory that leads to one.
 *
 * @returns whether it is gone; otherwise it is a directory with only such directories in it.
 */
export function removeTree(territory: Territory, path: string): boolean {
  if (!territory.leadsToExclusion(path)) {
    rmSync(territory.bytes(path), { recursive: true, force: true });
    return true;
  }
  for (const name of namesIn(territory, path)) removeTree(territory, childPath(path, name));
  return false;
}

/** The names in a directory of the tree, those in the shadow too. */
export function namesIn(territory: Territory, directory: string): string[] {
  const excluded = territory.excludedNames(directory);
  const names = readdirSync(territory.bytes(directory), { encoding: 'latin1' });
  if (excluded.length === 0) return names;
  const shadowed = excluded.filter(
    (name) => lstatSync(territory.bytes(childPath(directory, name)), { throwIfNoEntry: false }) !== undefined,
  );
  return [...names.filter((name) => !excluded.includes(name)), ...shadowed];
}

/** `directory/name`, or the name alone in the root. */
export function childPath(directory: string, name: string): string {
  return directory === '' ? name : `${directory}/${name}`;
}

/**
 * Makes way for something that is no directory. A directory with mounts in it cannot be removed; where a link to a
 * directory is to take its place (as `/var/run` is one to `/run`), what is in it moves to the link's target, so that the
 * mounts keep their names.
 *
 * @param link where the link leads that will be made; undefined for anything else.
 * @throws EnvironmentError `E_INPLACE_MOUNT` when a mount is in the way that cannot be moved.
 */
export function makeWay(territory: Territory, path: string, link: Buffer | undefined): void {
  if (removeTree(territory, path)) return;
  const target = link === undefined ? undefined : directoryOf(territory, path, link.toString('latin1'));
  if (target === undefined || target === path || target.startsWith(`${path}/`))
    throw inTheWay(territory, path);
  territory.moved(path, target, moveInto(territory, path, target));
}

function inTheWay(territory: Territory, path: string, cause?: unknown): EnvironmentError {
  const mounts = territory.exclusions.filter((excluded) => excluded.startsWith(`${path}/`));
  const text = (name: string): string => `/${Buffer.from(name, 'latin1').toString()}`;
  return new EnvironmentError(
    `${text(mounts[0] ?? path)} belongs to this container, and the image has something else at ${text(path)}`,
    {
      code: 'E_INPLACE_MOUNT',
      cause,
      remedy: 'Mount it somewhere else, for example below /kiln/mounts.',
    },
  );
}

/** Moves what is in a directory into another one; directories that both have are merged. */
function moveInto(territory: Territory, from: string, to: string): Relocation[] {
  const moved: Relocation[] = [];
  const move = (source: string, target: string): void => {
    for (const name of readdirSync(territory.bytes(source), { encoding: 'latin1' })) {
      const [old, place] = [childPath(source, name), childPath(target, name)];
      const existing = lstatSync(territory.bytes(place), { throwIfNoEntry: false });
      if (existing?.isDirectory() === true && territory.leadsToExclusion(old)) {
        move(old, place);
        continue;
      }
      if (existing !== undefined) throw inTheWay(territory, from);
      try {
        renameSync(realBytes(territory, old), realBytes(territory, place));
      } catch (error) {
        // The directory of a mount can be moved, a mount itself cannot.
        throw systemErrorCode(error) === 'EBUSY' ? inTheWay(territory, from, error) : error;
      }
      moved.push({ from: old, to: place });
    }
    rmdirSync(territory.bytes(source));
  };
  move(from, to);
  return moved;
}

/** A path below the root itself, whether excluded or not. */
export function realBytes(territory: Territory, path: string): Buffer {
  return Buffer.from(`${territory.root}/${path}`, 'latin1');
}

/** The real directory that a link at `path` will lead to, made where it is missing; undefined when it is none. */
function directoryOf(territory: Territory, path: string, link: string): string | undefined {
  let current = link.startsWith('/') ? [] : path.split('/').slice(0, -1);
  const pending = components(link);
  let links = 0;
  for (let part = pending.shift(); part !== undefined; part = pending.shift()) {
    if (part === '..') {
      current.pop();
      continue;
    }
    const place = [...current, part].join('/');
    const stat = lstatSync(territory.bytes(place), { throwIfNoEntry: false });
    if (stat?.isSymbolicLink() === true) {
      if (++links > maximumLinks) return undefined;
      const target = readlinkSync(territory.bytes(place), 'buffer').toString('latin1');
      if (target.startsWith('/')) current = [];
      pending.unshift(...components(target));
      continue;
    }
    if (stat === undefined) mkdirSync(territory.bytes(place), 0o755);
    else if (!stat.isDirectory()) return undefined;
    current.push(part);
  }
  return current.join('/');
}

function components(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.');
}
