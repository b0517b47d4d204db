import { accessSync, constants, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemErrorCode } from '../support/index.ts';
import { type Account, readSubordinateMap, subordinateFiles } from './subordinate-ids.ts';
import { mount, namespaces, unshare } from './libc.ts';
import { processStatus } from './process-status.ts';

/** Something that is in the way, and what would remove it. */
export interface Obstacle {
  readonly reason: string;
  readonly remedy: string;
}

/**
 * What keeps an ordinary user of this place from making user namespaces; empty when nothing is known to.
 * Nothing is tried that could leave a trace.
 */
export function userNamespaceObstacles(): Obstacle[] {
  const obstacles: Obstacle[] = [];
  const add = (reason: string, remedy: string): void => void obstacles.push({ reason, remedy });
  if (readSetting('/proc/sys/user/max_user_namespaces') === '0')
    add('user.max_user_namespaces is 0', 'Set it with: sysctl user.max_user_namespaces=15000');
  if (readSetting('/proc/sys/kernel/unprivileged_userns_clone') === '0')
    add('kernel.unprivileged_userns_clone is 0', 'Set it with: sysctl kernel.unprivileged_userns_clone=1');
  if (isUnshareFiltered())
    add(
      'the seccomp profile of this container refuses user namespaces',
      'Use a profile that allows unshare(2) and mount(2), or a pod with hostUsers: false and SYS_ADMIN.',
    );
  if (findProgram('nsenter') === undefined) add('nsenter is not installed', 'Install util-linux.');
  return obstacles;
}

/**
 * What AppArmor of Ubuntu 23.10 and later does to user namespaces of ordinary users: they may be made, but nothing may be
 * mounted in them. So this counts only when mounting was refused.
 */
export function restrictedByAppArmor(): Obstacle | undefined {
  if (readSetting('/proc/sys/kernel/apparmor_restrict_unprivileged_userns') !== '1') return undefined;
  return {
    reason: 'AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)',
    remedy: 'Give the node of Kiln an AppArmor profile with the rule userns, or set that switch to 0.',
  };
}

/** What keeps a user from having ids beside their own; empty when nothing is known to. */
export function subordinateIdObstacles(account: Account): Obstacle[] {
  const obstacles: Obstacle[] = [];
  for (const program of ['newuidmap', 'newgidmap'])
    if (findProgram(program) === undefined)
      obstacles.push({
        reason: `${program} is not installed`,
        remedy: 'Install the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora).',
      });
  for (const kind of ['uid', 'gid'] as const)
    if (readSubordinateMap(kind, account) === undefined)
      obstacles.push({
        reason: `${subordinateFiles[kind]} has no line for ${account.name}`,
        remedy: `As root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ${account.name}`,
      });
  if (processStatus('NoNewPrivs') === '1')
    obstacles.push({
      reason: 'this process may gain no rights (no_new_privs), so newuidmap has none',
      remedy: 'In a pod, set allowPrivilegeEscalation: true.',
    });
  return obstacles;
}

/**
 * Asks the kernel for what it never grants to a process of several threads, as every Node process is: the kernel itself
 * answers EINVAL (unshare(2)), a seccomp filter before it EPERM.
 */
function isUnshareFiltered(): boolean {
  try {
    unshare(namespaces.user);
  } catch (error) {
    return systemErrorCode(error) === 'EPERM' || systemErrorCode(error) === 'ENOSYS';
  }
  return false;
}

/** Whether a seccomp filter refuses mount(2) whatever is mounted: the kernel itself looks at the path first. */
export function isMountFiltered(): boolean {
  try {
    mount(null, '/proc/self/no-such-file', null, 0, null);
  } catch (error) {
    return systemErrorCode(error) === 'EPERM' || systemErrorCode(error) === 'ENOSYS';
  }
  return false;
}

/**
 * The path of a program that Kiln calls; undefined when it is not installed. The administrator's directories
 * count too, which users' own paths often lack.
 */
export function findProgram(name: string): string | undefined {
  const directories = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/usr/bin', '/sbin', '/bin'];
  return directories
    .filter((directory) => directory.startsWith('/'))
    .map((directory) => join(directory, name))
    .find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // it is somewhere else
  }
}

function readSetting(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT' || systemErrorCode(error) === 'EACCES') return undefined;
    throw error;
  }
}
