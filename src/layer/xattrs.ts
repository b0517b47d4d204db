import { getXattr, listXattrs, type PathBytes } from '../os/index.ts';

/**
 * The extended attributes of a path itself that a layer keeps, sorted by name: capabilities, ACLs and the users' own.
 * Not those of overlayfs, nor of the host's security modules, which mean something on one machine only.
 */
export function imageXattrs(path: PathBytes): ReadonlyMap<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (const name of listXattrs(path)) {
    const kept =
      name === 'security.capability' ||
      name.startsWith('system.posix_acl_') ||
      (name.startsWith('user.') && !name.startsWith('user.overlay.'));
    const value = kept ? getXattr(path, name) : undefined;
    if (value !== undefined) found.set(name, value);
  }
  return found;
}
