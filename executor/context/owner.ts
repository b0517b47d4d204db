import { readFileSync } from 'node:fs';
import { resolveInRoot } from '../../src/os/index.ts';
import { BuildError, systemErrorCode } from '../../src/support/index.ts';

export interface UserIdentity {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly home: string;
}

interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

interface Group {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

const maximumId = 0xffff_fffe;

/**
 * Who `user[:group]` is in a root file system, from its own `/etc/passwd` and `/etc/group`. Empty means root.
 *
 * @throws BuildError `E_USER_NOT_FOUND` for a name that is not there.
 */
export function resolveUser(root: string, text: string, where: string): UserIdentity {
  const [user = '', group] = text.split(':', 2);
  const accounts = readAccounts(root);
  const account = user === '' ? accounts.find(({ uid }) => uid === 0) : findAccount(accounts, user);
  const uid = account?.uid ?? numericId(user === '' ? '0' : user);
  if (uid === undefined) throw unknown('user', user, 'passwd', where);
  const groups = readGroups(root);
  if (group !== undefined && group !== '') {
    const gid = numericId(group) ?? groups.find(({ name }) => name === group)?.gid;
    if (gid === undefined) throw unknown('group', group, 'group', where);
    return { uid, gid, groups: [gid], home: account?.home ?? '/' };
  }
  const gid = account?.gid ?? 0;
  const supplementary =
    account === undefined
      ? []
      : groups.filter(({ members }) => members.includes(account.name)).map((entry) => entry.gid);
  return { uid, gid, groups: [...new Set([gid, ...supplementary])], home: account?.home ?? '/' };
}

/** Owner of copied files, as `--chown` gives it: a user alone means the group of the same id or name. */
export function resolveOwner(root: string, text: string, where: string): { uid: number; gid: number } {
  const { uid, gid } = resolveUser(root, text, where);
  if (text.includes(':')) return { uid, gid };
  const [user = ''] = text.split(':', 1);
  return { uid, gid: numericId(user) === undefined ? gid : uid };
}

function unknown(kind: string, name: string, file: string, where: string): BuildError {
  return new BuildError(`${kind} "${name}" is not in the image's /etc/${file}`, {
    code: 'E_USER_NOT_FOUND',
    where,
    remedy: `Create the ${kind} in an earlier RUN, or give a number.`,
  });
}

function numericId(text: string): number | undefined {
  return /^[0-9]+$/.test(text) && Number(text) <= maximumId ? Number(text) : undefined;
}

function findAccount(accounts: readonly Account[], user: string): Account | undefined {
  const id = numericId(user);
  return (
    accounts.find(({ name }) => name === user) ??
    (id === undefined ? undefined : accounts.find(({ uid }) => uid === id))
  );
}

function readAccounts(root: string): Account[] {
  return readFields(root, 'etc/passwd').flatMap(([name = '', , uid = '', gid = '', , home = '']) => {
    const ids = [numericId(uid), numericId(gid)];
    return ids[0] === undefined || ids[1] === undefined
      ? []
      : [{ name, uid: ids[0], gid: ids[1], home: home === '' ? '/' : home }];
  });
}

function readGroups(root: string): Group[] {
  return readFields(root, 'etc/group').flatMap(([name = '', , gid = '', members = '']) => {
    const id = numericId(gid);
    return id === undefined ? [] : [{ name, gid: id, members: members.split(',') }];
  });
}

function readFields(root: string, file: string): string[][] {
  const { path, stat } = resolveInRoot(root, file, { followLast: true });
  if (stat?.isFile() !== true || stat.size > 16 * 1024 * 1024) return [];
  try {
    return readFileSync(path, 'utf8')
      .split('\n')
      .map((line) => line.trim().split(':'));
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return [];
    throw error;
  }
}
