import { readFileSync, readlinkSync } from 'node:fs';
import { systemErrorCode } from '../support/index.ts';

/** One line of `/proc/self/uid_map` (user_namespaces(7)). */
export interface IdRange {
  readonly inside: number;
  readonly outside: number;
  readonly count: number;
}

export type IdKind = 'uid' | 'gid';

/** The user namespace that every machine starts with has this inode (PROC_USER_INIT_INO of the kernel). */
const firstUserNamespace = 'user:[4026531837]';

const everyId: readonly IdRange[] = [{ inside: 0, outside: 0, count: 0xffff_ffff }];

let inside: boolean | undefined;
const maps = new Map<IdKind, readonly IdRange[]>();

/**
 * True when this process is in a user namespace of its own: trusted attributes cannot be used, devices cannot be made.
 * Neither this nor the ids change while a process of several threads lives, so both are read once a thread.
 */
export function inUserNamespace(): boolean {
  inside ??= ![firstUserNamespace, undefined].includes(ownUserNamespace());
  return inside;
}

/** Undefined where the kernel has no user namespaces. */
function ownUserNamespace(): string | undefined {
  try {
    return readlinkSync('/proc/self/ns/user');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** The ids that this process's user namespace has. */
export function idMap(kind: IdKind): readonly IdRange[] {
  const known = maps.get(kind);
  if (known !== undefined) return known;
  const map =
    ownUserNamespace() === undefined ? everyId : parseIdMap(readFileSync(`/proc/self/${kind}_map`, 'utf8'));
  maps.set(kind, map);
  return map;
}

export function parseIdMap(text: string): IdRange[] {
  return text
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .flatMap(([start, outside, count]) =>
      start === undefined || outside === undefined || count === undefined
        ? []
        : [{ inside: start, outside, count }],
    );
}

/** Whether a map has an id. */
export function hasId(map: readonly IdRange[], id: number): boolean {
  return map.some((range) => id >= range.inside && id < range.inside + range.count);
}

/** True in a user namespace that knows root and nobody else: no file can belong to anyone else there. */
export function hasSingleId(): boolean {
  const ids = idMap('uid');
  return inUserNamespace() && ids.length === 1 && ids[0]?.count === 1;
}

/** A map as people write it: `0-65536`. */
export function formatIds(map: readonly IdRange[]): string {
  const merged: { first: number; last: number }[] = [];
  for (const range of [...map].sort((a, b) => a.inside - b.inside)) {
    const last = range.inside + range.count - 1;
    const before = merged.at(-1);
    if (before !== undefined && before.last + 1 === range.inside) before.last = last;
    else merged.push({ first: range.inside, last });
  }
  return merged.map(({ first, last }) => (first === last ? String(first) : `${first}-${last}`)).join(', ');
}
