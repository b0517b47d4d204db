import { readFileSync } from 'node:fs';
import { systemErrorCode } from '../support/index.ts';
import type { IdKind, IdRange } from './id-map.ts';

/** A user as the account database has them. */
export interface Account {
  /** The name, or the id as text when the account has none. */
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

/** Files of shadow's subid(5), by kind of id. */
export const subordinateFiles: Readonly<Record<IdKind, string>> = { uid: '/etc/subuid', gid: '/etc/subgid' };

/** The kernel takes this many lines of a map (user_namespaces(7)). */
const maximumRanges = 340;
const maximumId = 0xffff_ffff;

/**
 * The map that gives a user the part of root, and their subordinate ids everybody else: 0 is the user, 1 and those that
 * follow are the subordinate ids in the order of the file.
 *
 * @param text what the file of subid(5) says.
 * @returns undefined when the user has none.
 */
export function subordinateMap(text: string, account: Account, own: number): IdRange[] | undefined {
  const map: IdRange[] = [{ inside: 0, outside: own, count: 1 }];
  let next = 1;
  for (const line of text.split('\n')) {
    const [name, start = '', length = ''] = line.trim().split(':');
    if (name !== account.name && name !== String(account.uid)) continue;
    if (!/^[0-9]+$/.test(start) || !/^[0-9]+$/.test(length)) continue;
    const count = Math.min(Number(length), maximumId - next);
    if (count < 1 || map.length === maximumRanges) continue;
    map.push({ inside: next, outside: Number(start), count });
    next += count;
  }
  return map.length > 1 ? map : undefined;
}

/** {@link subordinateMap} of this machine. */
export function readSubordinateMap(kind: IdKind, account: Account): IdRange[] | undefined {
  try {
    const text = readFileSync(subordinateFiles[kind], 'utf8');
    return subordinateMap(text, account, kind === 'uid' ? account.uid : account.gid);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT' || systemErrorCode(error) === 'EACCES') return undefined;
    throw error;
  }
}
