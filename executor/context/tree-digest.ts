import { createHash, type Hash } from 'node:crypto';
import { closeSync, lstatSync, openSync, readlinkSync, readSync, type Stats } from 'node:fs';
import { basename, posix } from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';
import { type Digest } from '../../src/oci/index.ts';
import { getXattr, ownerOf } from '../../src/os/index.ts';
import { matchSources, type SourceQuery } from './sources.ts';

export interface TreeDigestOptions {
  /** Whether owners count: they do where a copy keeps them, that is from a stage or image. */
  readonly owners: boolean;
  /** Whether permission bits count: they do not where --chmod sets them. */
  readonly modes: boolean;
  readonly signal?: AbortSignal | undefined;
}

const chunk = Buffer.allocUnsafeSlow(1 << 18);
const breathEvery = 16;

/**
 * The digest of what the query's patterns match: names, types, modes, link targets, content, capabilities; not times.
 * Every field is framed by its length, so that no two trees give the same bytes.
 *
 * @throws BuildError `E_COPY_SOURCE_NOT_FOUND`.
 */
export async function treeDigest(query: SourceQuery, options: TreeDigestOptions): Promise<Digest> {
  const hash = createHash('sha256');
  let since = performance.now();
  for (const match of matchSources(query)) {
    // What is copied is a directory's content, so its own name does not count, but a file's does.
    frame(hash, match.stat.isDirectory() ? '' : basename(match.name));
    for (const below of ['', ...match.below]) {
      options.signal?.throwIfAborted();
      const path = posix.join(match.path, below);
      hashEntry(hash, below, path, below === '' ? match.stat : lstatSync(path), options);
      if (performance.now() - since < breathEvery) continue;
      await breathe();
      since = performance.now();
    }
    frame(hash, '\0end');
  }
  return `sha256:${hash.digest('hex')}` as Digest;
}

function frame(hash: Hash, ...fields: readonly (string | Uint8Array)[]): void {
  for (const field of fields) {
    const bytes = typeof field === 'string' ? Buffer.from(field) : field;
    hash.update(`${bytes.length}:`).update(bytes);
  }
}

function hashEntry(hash: Hash, name: string, path: string, stat: Stats, options: TreeDigestOptions): void {
  const type = stat.isFile()
    ? 'file'
    : stat.isDirectory()
      ? 'directory'
      : stat.isSymbolicLink()
        ? 'link'
        : `special ${stat.mode & 0o170000} ${stat.rdev}`;
  frame(hash, name, type);
  if (options.modes && !stat.isSymbolicLink()) frame(hash, (stat.mode & 0o7777).toString(8));
  if (options.owners) {
    const { uid, gid } = ownerOf(path, stat);
    frame(hash, `${uid}:${gid}`);
  }
  if (stat.isSymbolicLink()) frame(hash, readlinkSync(path, 'buffer'));
  if (!stat.isFile()) return;
  frame(hash, getXattr(path, 'security.capability') ?? '');
  frame(hash, contentHash(path));
}

function contentHash(path: string): Buffer {
  const hash = createHash('sha256');
  const fd = openSync(path, 'r');
  try {
    for (let length = readSync(fd, chunk); length > 0; length = readSync(fd, chunk))
      hash.update(chunk.subarray(0, length));
  } finally {
    closeSync(fd);
  }
  return hash.digest();
}
