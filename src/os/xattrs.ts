import { getXattr, listXattrs, type PathBytes } from './libc.ts';

/**
 * The extended attributes that belong to a file wherever it goes, sorted by name: capabilities, ACLs and the users' own.
 * Not those of overlayfs, nor of the host's security modules, which mean something on one machine only.
 */
export function portableXattrs(path: PathBytes): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (const name of listXattrs(path)) {
    const portable =
      name === 'security.capability' ||
      name.startsWith('system.posix_acl_') ||
      (name.startsWith('user.') && !name.startsWith('user.overlay.'));
    const value = portable ? getXattr(path, name) : undefined;
    if (value !== undefined) found.set(name, value);
  }
  return found;
}
