import type { Stats } from 'node:fs';
import { hasSingleId, lostGroupBit, setXattr } from '../os/index.ts';
import { systemErrorCode } from '../support/index.ts';
import type { TarEntry } from './tar-reader.ts';

/**
 * Gives a file the extended attributes of its entry, but for those that would let an archive act on the machine.
 *
 * @param attempt carries out the setting of one attribute.
 */
export function setEntryXattrs(place: Buffer, entry: TarEntry, attempt: (set: () => void) => void): void {
  for (const [name, value] of entry.xattrs) {
    // overlayfs' own attributes would let an archive redirect or hide what is below it.
    if (name.startsWith('trusted.') || /^user\.(?:overlay|kiln)\./.test(name) || name === 'security.selinux')
      continue;
    // An access control list can only name ids that there are.
    if (name.startsWith('system.posix_acl_') && hasSingleId()) continue;
    attempt(() => {
      try {
        setXattr(place, name, value);
      } catch (error) {
        if (systemErrorCode(error) !== 'EOPNOTSUPP') throw error;
      }
    });
  }
}

export const setGroupId = 0o2000;

/** @throws EnvironmentError when a set-group-id bit that was just set is not there. */
export function requireGroupBit(stat: Stats, path: string): void {
  if ((stat.mode & setGroupId) === 0) throw lostGroupBit(Buffer.from(path, 'latin1').toString());
}
