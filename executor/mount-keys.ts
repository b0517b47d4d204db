import type { CacheKey } from '../src/layercache/index.ts';
import type { Digest } from '../src/oci/index.ts';
import type { CanonicalValue } from '../src/support/index.ts';
import type { MountOperation, MountOwner } from './steps.ts';

/** What stands for the files of a mount in a key: themselves, or the stage or image that they are from. */
export type MountContent = { readonly content: Digest } | { readonly source: CacheKey } | undefined;

/**
 * A mount as it counts in the key of its step. As in BuildKit, of a cache neither its content nor its name and sharing
 * count, of secrets and agents only what the Dockerfile says; of files where they are, and not where they were taken from.
 */
export function describeMount(mount: MountOperation, content: MountContent): CanonicalValue {
  const { type } = mount;
  switch (type) {
    case 'bind': {
      const { target, readOnly, source } = mount;
      return defined({ type, target, readOnly, ...describeContent(content, source) });
    }
    case 'cache': {
      const { target, readOnly, source } = mount;
      return defined({ type, target, readOnly, ...ownerOf(mount), ...describeContent(content, source) });
    }
    case 'tmpfs':
      return defined({ type, target: mount.target, size: mount.size });
    case 'secret': {
      const { id, target, env, required } = mount;
      return defined({ type, id, target, env, required, ...ownerOf(mount, secretMode) });
    }
    case 'ssh': {
      const { id, target, required } = mount;
      return defined({ type, id, target, required, ...ownerOf(mount, socketMode) });
    }
  }
}

/** Permission bits of a secret's file and of an agent's socket when none are given. */
export const secretMode = 0o400;
export const socketMode = 0o600;

function ownerOf(
  { mode, uid, gid }: MountOwner,
  defaultMode?: number,
): Record<string, CanonicalValue | undefined> {
  const written = mode ?? defaultMode;
  const isDefault = defaultMode !== undefined;
  return {
    mode: written?.toString(8),
    uid: uid ?? (isDefault ? 0 : undefined),
    gid: gid ?? (isDefault ? 0 : undefined),
  };
}

function describeContent(content: MountContent, path: string): Record<string, CanonicalValue> {
  if (content === undefined) return {};
  return 'content' in content ? { content: content.content } : { source: content.source, path };
}

function defined(fields: Readonly<Record<string, CanonicalValue | undefined>>): CanonicalValue {
  return Object.fromEntries(
    Object.entries(fields).filter((field): field is [string, CanonicalValue] => field[1] !== undefined),
  );
}
