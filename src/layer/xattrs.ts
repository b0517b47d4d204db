import { getXattr, listXattrs, type PathBytes } from '../os/index.ts';

/**
 * Whether a layer keeps an extended attribute: capabilities, ACLs and the users' own. Not those of overlayfs, nor of the
 * host's security modules, which mean something on one machine only.
 */
export function isImageXattr(name: string): boolean {
  return (
    name === 'security.capability' ||
    name.startsWith('system.posix_acl_') ||
    (name.startsWith('user.') && !name.startsWith('user.overlay.'))
  );
}

/** The extended attributes of a path itself that a layer keeps, sorted by name. */
export function imageXattrs(path: PathBytes): ReadonlyMap<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (const name of listXattrs(path).filter(isImageXattr)) {
    const value = getXattr(path, name);
    if (value !== undefined) found.set(name, value);
  }
  return found;
}
