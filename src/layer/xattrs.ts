import {
  getXattr,
  hasSysAdmin,
  inUserNamespace,
  listXattrs,
  ownerAttribute,
  type PathBytes,
} from '../os/index.ts';

/**
 * Where overlayfs keeps its own attributes: `trusted.overlay.`, or, for mounts of a user namespace (mount option
 * `userxattr`), `user.overlay.` (Documentation/filesystems/overlayfs.rst, "User xattr").
 */
export type OverlayMark = 'trusted' | 'user';

export const overlayMarks: readonly OverlayMark[] = ['trusted', 'user'];

/** The attributes that this process's overlay mounts read and write. Without SYS_ADMIN nobody sees trusted ones. */
export function ownOverlayMark(): OverlayMark {
  return inUserNamespace() || !hasSysAdmin() ? 'user' : 'trusted';
}

/** The attributes an unpacked layer gets: root writes both, so that builds in user namespaces can use its layers too. */
export function writtenOverlayMarks(): readonly OverlayMark[] {
  return ownOverlayMark() === 'user' ? ['user'] : overlayMarks;
}

/** The attribute of a directory that hides everything below it. */
export function opaqueAttribute(mark: OverlayMark): string {
  return `${mark}.overlay.opaque`;
}

/**
 * Whether a layer keeps an extended attribute: capabilities, ACLs and the users' own. Not those of overlayfs, of Kiln, nor
 * of the host's security modules, which mean something on one machine only.
 */
export function isImageXattr(name: string): boolean {
  return (
    name === 'security.capability' ||
    name.startsWith('system.posix_acl_') ||
    (name.startsWith('user.') && !name.startsWith('user.overlay.') && name !== ownerAttribute)
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
