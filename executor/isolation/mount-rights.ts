import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { rm, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  formatIds,
  hasSingleId,
  hasSysAdmin,
  idMap,
  inUserNamespace,
  isMountFiltered,
  type Obstacle,
  restrictedByAppArmor,
  setXattr,
  userNamespaceObstacles,
} from '../../src/os/index.ts';
import {
  EnvironmentError,
  messageOf,
  randomName,
  rootlessUser,
  systemErrorCode,
} from '../../src/support/index.ts';

/**
 * What this process may do with mounts, from best to worst: root of the machine; root of a user namespace; root of one
 * that has no other id; an ordinary user, who can become one of these; root without the right to mount.
 */
export type MountRights = 'root' | 'namespace-root' | 'single-id' | 'user' | 'none';

/** Looks at this process; mounts nothing. */
export function mountRights(): MountRights {
  if (process.geteuid?.() !== 0) return 'user';
  if (!hasSysAdmin()) return 'none';
  if (!inUserNamespace()) return 'root';
  return hasSingleId() ? 'single-id' : 'namespace-root';
}

/** Whether there is a right to mount; something else may still be in the way. */
export function mayMount(): boolean {
  return !['user', 'none'].includes(mountRights());
}

/** Whether overlay file systems can be mounted in `scratch` for all that can be told without trying. */
export async function canSurelyMount(scratch: string): Promise<boolean> {
  if (!mayMount() || isMountFiltered() || securityLabel() !== undefined) return false;
  return (await statfs(scratch)).type !== overlayMagic;
}

/** {@link mountRights} for a person: `alice as root of a user namespace with the ids 0-65536`. */
export function describeMountRights(): string {
  const user = rootlessUser();
  const who = user === undefined ? 'root' : `${user.name} as root`;
  switch (mountRights()) {
    case 'root':
      return 'root';
    case 'namespace-root':
      return `${who} of a user namespace with the ids ${formatIds(idMap('uid'))}`;
    case 'single-id':
      return `${who} of a user namespace with a single id`;
    case 'user':
      return 'an ordinary user';
    case 'none':
      return 'root without SYS_ADMIN';
  }
}

/** What a build with a single id cannot do, in one line; undefined for every other. */
export function singleIdStatement(): string | undefined {
  if (!hasSingleId()) return undefined;
  const reason = rootlessUser()?.singleIdReason;
  const why = reason === undefined ? '' : ` (${reason})`;
  return `there is no id but root's here${why}: RUN as another user and chown to one fail, files that a step rewrites become root's, and nothing is stored in a shared layer cache`;
}

/** Linux 5.11 lets user namespaces mount overlay file systems; 5.8 lets them make whiteouts. */
const overlayInUserNamespaces = [5, 11] as const;

/** Something that is in the way of mounting, and what would remove it. */
export interface MountObstacle extends Obstacle {
  /** Lines that a pod lacks, as paths into it and their values. */
  readonly pod?: readonly string[];
}

const container = 'spec.containers[].securityContext';

/** The error for an overlay file system that could not be mounted in `scratch`, naming what is missing as exactly as can be told. */
export async function mountRefused(error: unknown, scratch: string): Promise<EnvironmentError> {
  const { reason, remedy } = await mountObstacle(error, scratch);
  return new EnvironmentError(`this place cannot mount overlay file systems: ${reason}`, {
    code: 'E_ISOLATION_OVERLAY',
    where: scratch,
    cause: error,
    remedy,
  });
}

/** What was in the way when an overlay file system could not be mounted in `scratch`, as exactly as can be told. */
export async function mountObstacle(error: unknown, scratch: string): Promise<MountObstacle> {
  const rights = mountRights();
  if (rights === 'user') return userNamespaceObstacles()[0] ?? unknown(error);
  if (rights === 'none')
    return {
      reason: 'it lacks the capability SYS_ADMIN',
      remedy: 'Give the pod SYS_ADMIN in its own user namespace (hostUsers: false).',
      pod: ['spec.hostUsers: false', `${container}.capabilities.add: [SYS_ADMIN]`],
    };
  if (isMountFiltered())
    return {
      reason: 'the seccomp profile refuses mount(2)',
      remedy: 'Use the seccomp profile RuntimeDefault, which allows it together with SYS_ADMIN.',
      pod: [`${container}.seccompProfile.type: RuntimeDefault`],
    };
  const code = systemErrorCode(error);
  const label = securityLabel();
  if (code === 'EACCES' && label !== undefined)
    return {
      reason: `the security profile ${label} refuses mount(2)`,
      remedy:
        'Give the pod another: appArmorProfile Unconfined, or with SELinux the type container_engine_t.',
      pod: [`${container}.appArmorProfile.type: Unconfined`],
    };
  const onOverlay = (await statfs(scratch)).type === overlayMagic;
  if (onOverlay && code !== 'EPERM' && code !== 'EACCES')
    return {
      reason: "the scratch space lies on the container's own overlay",
      remedy: 'Put it on a volume (emptyDir), with --scratch-dir.',
      pod: [
        'spec.volumes: [{ name: scratch, emptyDir: {} }]',
        'spec.containers[].volumeMounts: [{ name: scratch, mountPath: /scratch }]',
      ],
    };
  return (inUserNamespace() ? await namespaceObstacle(scratch) : undefined) ?? unknown(error);
}

/** AppArmor's profile or SELinux' context of this process; undefined when it has none. */
export function securityLabel(): string | undefined {
  try {
    const label = readFileSync('/proc/self/attr/current', 'latin1').replace(/[\0\n]+$/, '');
    return label === '' || label === 'unconfined' ? undefined : label;
  } catch (error) {
    if (['EINVAL', 'ENOENT'].includes(systemErrorCode(error) ?? '')) return undefined; // no such module
    throw error;
  }
}

const overlayMagic = 0x794c7630;

async function namespaceObstacle(scratch: string): Promise<MountObstacle | undefined> {
  if (isOlder(release(), overlayInUserNamespaces))
    return {
      reason: `Linux ${release()} does not let user namespaces mount them; that takes 5.11`,
      remedy: 'Use a newer kernel, or root of the machine.',
    };
  const restriction = restrictedByAppArmor();
  if (restriction !== undefined) return restriction;
  if (await keepsUserAttributes(scratch)) return undefined;
  return {
    reason: 'the file system keeps no attributes of users (user.*), which user namespaces need',
    remedy: 'Put the scratch space on ext4, XFS or Btrfs, or on tmpfs of Linux 6.6 or later.',
  };
}

function unknown(error: unknown): MountObstacle {
  return {
    reason: messageOf(error),
    remedy: 'Run as root, or give the pod SYS_ADMIN in its own user namespace (hostUsers: false).',
  };
}

export function isOlder(version: string, [major, minor]: readonly [number, number]): boolean {
  const [, ownMajor = 0, ownMinor = 0] = (/^([0-9]+)\.([0-9]+)/.exec(version) ?? []).map(Number);
  return ownMajor < major || (ownMajor === major && ownMinor < minor);
}

async function keepsUserAttributes(directory: string): Promise<boolean> {
  const path = join(directory, randomName('probe-'));
  await writeFile(path, '');
  try {
    setXattr(path, 'user.kiln.probe', Buffer.from('y'));
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'EOPNOTSUPP') return false;
    throw error;
  } finally {
    await rm(path);
  }
}
