import { createHash, type Hash } from 'node:crypto';
import { closeSync, openSync, readlinkSync, readSync, type Stats } from 'node:fs';
import { posix } from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';
import { imageXattrs } from '../../src/layer/index.ts';
import { type Digest } from '../../src/oci/index.ts';
import { type BytePath, ownerOf, pathBuffer, pathText } from '../../src/os/index.ts';
import { systemErrorCode } from '../../src/support/index.ts';
import { lookUp, matchBaseName, matchSources, type SourceQuery } from './sources.ts';
import { TreeStamp } from './tree-stamp.ts';

export interface TreeDigestOptions {
  /** Whether owners count: they do where a copy keeps them, that is from a stage or image. */
  readonly owners: boolean;
  /** Whether permission bits count: they do not where --chmod sets all of them. */
  readonly modes: boolean;
  readonly signal?: AbortSignal | undefined;
}

const chunk = Buffer.allocUnsafeSlow(1 << 18);
const breathEvery = 16;
/** Files of which is noted what counts of them; more are not explained one by one. */
const mostFiles = 100_000;
/** Digits of a file's digest that are noted: they explain, and prove nothing. */
const shownDigits = 16;

/** What a tree held when it was read. */
export interface TreeReading {
  readonly digest: Digest;
  /** Equal to that of a copy ({@link copyInto}) that took exactly this. */
  readonly stamp: string;
  /** By path, the first digits of a digest of what counts of each file; undefined when there are too many. */
  readonly files: ReadonlyMap<string, string> | undefined;
}

/**
 * The digest of what a copy of the query's matches takes: names, types, modes, link targets, content, attributes; not
 * times. Every field is framed by its length, so that no two trees give the same bytes. What vanishes while it is read
 * counts as not there.
 *
 * @throws BuildError `E_COPY_SOURCE_NOT_FOUND`.
 */
export async function readTree(query: SourceQuery, options: TreeDigestOptions): Promise<TreeReading> {
  const hash = createHash('sha256');
  const stamp = new TreeStamp();
  const files = new Map<string, string>();
  const count = (path: BytePath, name: BytePath, where: BytePath, stat: Stats): void => {
    stamp.add(stat);
    const digest = hashEntry(hash, name, where, stat, options);
    if (digest !== undefined && files.size < mostFiles) files.set(pathText(path), digest);
  };
  let since = performance.now();
  for (const match of matchSources(query)) {
    // What is copied of a directory is its content: neither its name nor what it is itself counts.
    if (match.stat.isDirectory()) frame(hash, '', 'content');
    else {
      frame(hash, pathBuffer(matchBaseName(match)));
      count(match.name, '', match.path, match.stat);
    }
    for (const below of match.below) {
      options.signal?.throwIfAborted();
      const path = posix.join(match.path, below);
      const stat = lookUp(path);
      if (stat !== undefined) count(posix.join(match.name, below), below, path, stat);
      if (performance.now() - since < breathEvery) continue;
      await breathe();
      since = performance.now();
    }
    frame(hash, '\0end');
  }
  return {
    digest: `sha256:${hash.digest('hex')}` as Digest,
    stamp: stamp.end(),
    files: files.size < mostFiles ? files : undefined,
  };
}

/** The digest alone of {@link readTree}. */
export async function treeDigest(query: SourceQuery, options: TreeDigestOptions): Promise<Digest> {
  return (await readTree(query, options)).digest;
}

function frame(hash: Hash, ...fields: readonly (string | Uint8Array)[]): void {
  for (const field of fields) {
    const bytes = typeof field === 'string' ? Buffer.from(field) : field;
    hash.update(`${bytes.length}:`).update(bytes);
  }
}

/** @returns the first digits of a digest of what counts of the entry beside its name; undefined when nothing does. */
function hashEntry(
  hash: Hash,
  name: BytePath,
  path: BytePath,
  stat: Stats,
  options: TreeDigestOptions,
): string | undefined {
  // A copy leaves sockets out.
  if (stat.isSocket()) return undefined;
  let fields: (string | Uint8Array)[];
  try {
    fields = entryFields(pathBuffer(path), stat, options);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  frame(hash, pathBuffer(name), ...fields);
  const own = createHash('sha256');
  frame(own, ...fields);
  return own.digest('hex').slice(0, shownDigits);
}

function entryFields(path: Buffer, stat: Stats, options: TreeDigestOptions): (string | Uint8Array)[] {
  const fields: (string | Uint8Array)[] = [typeOf(stat)];
  if (options.modes && !stat.isSymbolicLink()) fields.push((stat.mode & 0o7777).toString(8));
  if (options.owners) {
    const { uid, gid } = ownerOf(path, stat);
    fields.push(`${uid}:${gid}`);
  }
  const xattrs = imageXattrs(path);
  fields.push(String(xattrs.size), ...[...xattrs].flat());
  if (stat.isSymbolicLink()) fields.push(readlinkSync(path, 'buffer'));
  if (stat.isFile()) fields.push(contentHash(path));
  return fields;
}

function typeOf(stat: Stats): string {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'directory';
  return stat.isSymbolicLink() ? 'link' : `special ${stat.mode & 0o170000} ${stat.rdev}`;
}

function contentHash(path: Buffer): Buffer {
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
