import { lchownSync } from 'node:fs';
import { EnvironmentError, systemErrorCode } from '../support/index.ts';
import { formatIds, hasSingleId, idMap } from './id-map.ts';
import { getXattr, type PathBytes, removeXattr, setXattr } from './libc.ts';

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/**
 * Where a user namespace with a single id remembers who a file belongs to: there every file belongs to root, but layers
 * must name the owners that their image gives them. It never enters a layer.
 */
export const ownerAttribute = 'user.kiln.owner';

/**
 * lchown(2). In a user namespace with a single id the owner is remembered instead of given; links and device nodes,
 * which can carry no attribute, then belong to root.
 *
 * @throws EnvironmentError `E_ID_UNMAPPED` when the user namespace has no such id.
 */
export function setOwner(path: PathBytes, { uid, gid }: Owner): void {
  if (hasSingleId()) {
    rememberOwner(path, { uid, gid });
    return;
  }
  try {
    lchownSync(path, uid, gid);
  } catch (error) {
    if (systemErrorCode(error) !== 'EINVAL') throw error;
    throw unmappedId(`the owner ${uid}:${gid} of ${path.toString()}`);
  }
}

function rememberOwner(path: PathBytes, { uid, gid }: Owner): void {
  try {
    if (uid === 0 && gid === 0) removeXattr(path, ownerAttribute);
    else setXattr(path, ownerAttribute, Buffer.from(`${uid}:${gid}`));
  } catch (error) {
    const code = systemErrorCode(error);
    if (code !== 'EPERM' && code !== 'EOPNOTSUPP') throw error;
  }
}

/** Who a file belongs to in its image. @param stat of the path itself. */
export function ownerOf(
  path: PathBytes,
  stat: { readonly uid: number | bigint; readonly gid: number | bigint },
): Owner {
  const remembered = hasSingleId() ? getXattr(path, ownerAttribute)?.toString() : undefined;
  const ids = /^([0-9]{1,10}):([0-9]{1,10})$/.exec(remembered ?? '');
  return ids === null
    ? { uid: Number(stat.uid), gid: Number(stat.gid) }
    : { uid: Number(ids[1]), gid: Number(ids[2]) };
}

/** The error for an id that the user namespace lacks. @param what has the id, as `user 70000`. */
export function unmappedId(what: string, where?: string): EnvironmentError {
  return new EnvironmentError(`${what} is not among the ids of this user namespace (${ownIds()})`, {
    code: 'E_ID_UNMAPPED',
    where,
    remedy: hasSingleId()
      ? 'Give this user subordinate ids, in /etc/subuid and /etc/subgid.'
      : 'Give the user namespace more ids: /etc/subuid and /etc/subgid, or the range that the cluster gives to pods.',
  });
}

function ownIds(): string {
  const [users, groups] = [formatIds(idMap('uid')), formatIds(idMap('gid'))];
  return users === groups ? users : `users ${users}, groups ${groups}`;
}
