import { createHash } from 'node:crypto';
import { chmod, lstat, mkdir, readdir, readFile, rename, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type CanonicalValue, canonicalJson, systemErrorCode } from '../support/index.ts';
import { LockedDirectory } from './ingest.ts';
import { Lease } from './leases.ts';
import { ensureDirectory, explained, unlessMissing } from './storage.ts';

/** Directories that RUN steps keep between builds (`RUN --mount=type=cache`), each with a file about it. */
const cacheMountsName = 'cache-mounts';
const filesName = 'files';
const aboutName = 'about.json';

/** Where one lies, by its name. Leasing this directory is what keeps it from being pruned. */
export function cacheMountPath(volume: string, name: string): string {
  return join(volume, cacheMountsName, name);
}

/** Which directory a step asks for, and how it is shared. */
export interface CacheMountRequest {
  readonly id: string;
  /** What else tells it from others of this id: what it begins with, its owner and mode. */
  readonly variant: CanonicalValue;
  /**
   * `shared`: several steps may have it at a time; `locked`: one waits for the other; `private`: whoever finds it taken gets
   * another one.
   */
  readonly sharing: 'shared' | 'private' | 'locked';
  /** Owner and permission bits of a new one. */
  readonly owner: { readonly uid: number; readonly gid: number };
  readonly mode: number;
  /** Puts files into a new one. */
  readonly fill?: (directory: string) => Promise<void>;
  /** Told once when it has to be waited for. */
  readonly onWait?: () => void;
}

/** A directory that stays where it is until this is disposed. */
export interface CacheMountLease extends AsyncDisposable {
  readonly directory: string;
}

/** What is known of one without having it. */
export interface CacheMount {
  /** Of its directory below `cache-mounts`. */
  readonly name: string;
  readonly id: string;
  readonly createdAt: Date;
  readonly lastUsedAt: Date;
  readonly files: number;
  readonly bytes: number;
}

/**
 * Leases a directory that RUN steps keep between builds, made when it is missing. Waits for others as its sharing says.
 *
 * @param volume the directory of a volume that can be written.
 * @throws EnvironmentError `E_VOLUME_READ_ONLY`, `E_NO_SPACE`; AbortError.
 */
export function acquireCacheMount(
  volume: string,
  request: CacheMountRequest,
  signal?: AbortSignal,
): Promise<CacheMountLease> {
  return explained(volume, () => acquire(volume, request, signal));
}

async function acquire(
  volume: string,
  request: CacheMountRequest,
  signal: AbortSignal | undefined,
): Promise<CacheMountLease> {
  const name = nameOf(request);
  let hasWaited = false;
  for (let instance = 0, pause = 5; ;) {
    signal?.throwIfAborted();
    const path = cacheMountPath(volume, instance === 0 ? name : `${name}-${instance}`);
    if ((await unlessMissing(lstat(path))) === undefined) await create(volume, path, request);
    const lease = await (request.sharing === 'shared'
      ? Lease.tryAcquire(path)
      : Lease.tryAcquireExclusive(path));
    if (lease !== undefined) {
      const now = new Date();
      await utimes(join(path, aboutName), now, now);
      return {
        directory: join(path, filesName),
        [Symbol.asyncDispose]: () => lease[Symbol.asyncDispose](),
      };
    }
    if (request.sharing === 'private') {
      instance++;
      continue;
    }
    if (!hasWaited) request.onWait?.();
    hasWaited = true;
    await delay(pause, undefined, signal === undefined ? {} : { signal });
    pause = Math.min(pause * 1.5, 200);
  }
}

function nameOf({ id, variant }: CacheMountRequest): string {
  return createHash('sha256').update(canonicalJson({ id, variant })).digest('hex').slice(0, 32);
}

/** Makes one aside and gives it its name when it is whole. Of several that do so at once, one wins. */
async function create(volume: string, path: string, request: CacheMountRequest): Promise<void> {
  await ensureDirectory(join(volume, cacheMountsName));
  await using aside = await LockedDirectory.create(join(volume, 'ingest'), 'cache-mount-');
  const made = join(aside.path, 'made');
  const files = join(made, filesName);
  await mkdir(files, { recursive: true, mode: 0o755 });
  const { id, mode, owner, fill } = request;
  const about = { id, createdAt: new Date().toISOString() };
  await writeFile(join(made, aboutName), JSON.stringify(about), { mode: 0o644 });
  const { setOwner } = await import('../os/index.ts');
  setOwner(files, owner);
  await chmod(files, mode & 0o7777);
  await fill?.(files);
  try {
    await rename(made, path);
  } catch (error) {
    const code = systemErrorCode(error);
    if (code !== 'EEXIST' && code !== 'ENOTEMPTY') throw error;
  }
}

/** All of a volume, in the order of their ids. What is damaged is told with an empty id. */
export async function listCacheMounts(volume: string): Promise<CacheMount[]> {
  const directory = join(volume, cacheMountsName);
  const names = (await unlessMissing(readdir(directory))) ?? [];
  const found = await Promise.all(names.map((name) => describe(directory, name)));
  return found
    .filter((mount) => mount !== undefined)
    .sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : a.name < b.name ? -1 : 1));
}

async function describe(directory: string, name: string): Promise<CacheMount | undefined> {
  const path = join(directory, name);
  const aboutPath = join(path, aboutName);
  const [own, stat, text] = await Promise.all([
    unlessMissing(lstat(path)),
    unlessMissing(lstat(aboutPath)),
    unlessMissing(readFile(aboutPath, 'utf8')),
  ]);
  if (own === undefined) return undefined;
  const { id, createdAt } = decodeAbout(text);
  return {
    name,
    id,
    createdAt: createdAt ?? own.birthtime,
    lastUsedAt: stat?.mtime ?? own.mtime,
    ...(await countFiles(Buffer.from(join(path, filesName)))),
  };
}

function decodeAbout(text: string | undefined): { readonly id: string; readonly createdAt?: Date } {
  try {
    const about = JSON.parse(text ?? '') as { id?: unknown; createdAt?: unknown };
    const createdAt = new Date(String(about.createdAt));
    return {
      id: typeof about.id === 'string' ? about.id : '',
      ...(Number.isNaN(createdAt.getTime()) ? {} : { createdAt }),
    };
  } catch (error) {
    if (error instanceof SyntaxError) return { id: '' };
    throw error;
  }
}

/** Files with several names count once. @param path its names are bytes. */
async function countFiles(
  path: Buffer,
  seen = new Set<string>(),
): Promise<{ readonly files: number; readonly bytes: number }> {
  let [files, bytes] = [0, 0];
  const entries = await unlessMissing(readdir(path, { withFileTypes: true, encoding: 'buffer' }));
  for (const entry of entries ?? []) {
    const child = Buffer.concat([path, Buffer.from('/'), entry.name]);
    if (entry.isDirectory()) {
      const below = await countFiles(child, seen);
      files += below.files;
      bytes += below.bytes;
      continue;
    }
    const stat = await unlessMissing(lstat(child));
    const identity = `${stat?.dev ?? 0}:${stat?.ino ?? 0}`;
    if (stat === undefined || seen.has(identity)) continue;
    if (stat.nlink > 1) seen.add(identity);
    files++;
    bytes += stat.size;
  }
  return { files, bytes };
}
