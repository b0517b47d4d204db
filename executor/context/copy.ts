import {
  chmodSync,
  constants,
  copyFileSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readlinkSync,
  rmSync,
  type Stats,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, posix } from 'node:path';
import { extractTar, imageXattrs, isTarArchive } from '../../src/layer/index.ts';
import {
  deviceNumbers,
  inUserNamespace,
  makeNode,
  ownerOf,
  resolveInRoot,
  setOwner,
  setTimes,
  setXattr,
} from '../../src/os/index.ts';
import { BuildError, systemErrorCode } from '../../src/support/index.ts';
import { resolveOwner } from './owner.ts';
import { matchBaseName, matchSources, type SourceMatch, type SourceQuery } from './sources.ts';

/** What one COPY or ADD does. Plain data that can be posted to a worker. */
export interface CopyRequest {
  /** Undefined when all sources are here-documents. */
  readonly query: SourceQuery | undefined;
  readonly files: readonly { readonly name: string; readonly content: string }[];
  /** Absolute in the target; with a slash at the end when it must be a directory. */
  readonly destination: string;
  readonly chown: string | undefined;
  /** Permission bits for everything copied. */
  readonly chmod: number | undefined;
  /** Files from a stage keep their owners, those of the context belong to root. */
  readonly keepOwners: boolean;
  /** ADD: local tar archives are unpacked. */
  readonly unpackArchives: boolean;
  readonly where: string;
}

/**
 * Carries out a COPY or ADD on a tree that is mounted and that nobody else writes to, with BuildKit's semantics
 * (Dockerfile reference, "COPY" and "ADD"). The destination is resolved inside the tree, so no link of the image leads
 * out of it.
 *
 * @throws BuildError `E_COPY_…`, `E_USER_NOT_FOUND`, `E_RESERVED_NAME`.
 */
export async function copyInto(root: string, request: CopyRequest): Promise<void> {
  await new Copier(root, request).run();
}

class Copier {
  readonly #root: string;
  readonly #request: CopyRequest;
  readonly #owner: { uid: number; gid: number } | undefined;
  readonly #links = new Map<string, string>();

  constructor(root: string, request: CopyRequest) {
    this.#root = root;
    this.#request = request;
    this.#owner = request.chown === undefined ? undefined : resolveOwner(root, request.chown, request.where);
  }

  async run(): Promise<void> {
    const { query, files, destination } = this.#request;
    const matches = query === undefined ? [] : matchSources(query);
    const intoDirectory = destination.endsWith('/') || matches.length + files.length > 1;
    for (const match of matches) await this.#copyMatch(match, intoDirectory);
    for (const file of files) this.#writeFile(file.name, file.content, intoDirectory);
  }

  async #copyMatch(match: SourceMatch, intoDirectory: boolean): Promise<void> {
    const { destination, unpackArchives } = this.#request;
    if (match.stat.isDirectory()) {
      this.#copyDirectory(match);
      return;
    }
    if (unpackArchives && match.stat.isFile() && (await isTarArchive(match.path))) {
      const directory = this.#directory(destination);
      await extractTar(match.path, this.#root, posix.relative(this.#root, directory));
      return;
    }
    const target = this.#fileTarget(matchBaseName(match), intoDirectory);
    this.#copyEntry(match.path, match.stat, target);
  }

  #copyDirectory(match: SourceMatch): void {
    const existing = resolveInRoot(this.#root, this.#request.destination, { followLast: true });
    const target = this.#directory(this.#request.destination);
    const directories: [string, Stats][] = [];
    // A directory that the copy makes is like its source; one that was there stays as it is.
    if (existing.stat === undefined) directories.push([target, match.stat]);
    for (const below of match.below) {
      const source = posix.join(match.path, below);
      const stat = lstatSync(source);
      const path = posix.join(target, below);
      if (!stat.isDirectory()) {
        this.#copyEntry(source, stat, path);
        continue;
      }
      this.#checkName(below);
      const there = lstatSync(path, { throwIfNoEntry: false });
      if (there !== undefined && !there.isDirectory()) rmSync(path);
      if (there?.isDirectory() !== true) mkdirSync(path);
      directories.push([path, stat]);
    }
    for (const [path, stat] of directories.reverse())
      this.#setMetadata(posix.join(match.path, posix.relative(target, path)), stat, path);
  }

  /** Where a single file goes; its directory is made. */
  #fileTarget(name: string, intoDirectory: boolean): string {
    const { destination } = this.#request;
    const { stat } = resolveInRoot(this.#root, destination, { followLast: true });
    if (intoDirectory || stat?.isDirectory() === true) return posix.join(this.#directory(destination), name);
    return posix.join(this.#directory(dirname(destination)), posix.basename(destination));
  }

  /** The real path of a directory of the target, made with its parents where it is missing. */
  #directory(path: string): string {
    const resolved = resolveInRoot(this.#root, path, { followLast: true });
    if (resolved.stat?.isDirectory() === true) return resolved.path;
    if (resolved.stat !== undefined) throw this.#conflict(resolved.path, 'it is not a directory');
    const missing: string[] = [];
    let current = resolved.path;
    for (; lookUp(current) === undefined; current = dirname(current)) missing.unshift(current);
    if (lookUp(current)?.isDirectory() !== true) throw this.#conflict(current, 'it is not a directory');
    for (const directory of missing) {
      mkdirSync(directory);
      chmodSync(directory, 0o755);
      if (this.#owner !== undefined) setOwner(directory, this.#owner);
    }
    return resolved.path;
  }

  #conflict(path: string, why: string): BuildError {
    return new BuildError(`cannot copy to /${posix.relative(this.#root, path)}: ${why}`, {
      code: 'E_COPY_CONFLICT',
      where: this.#request.where,
    });
  }

  #checkName(name: string): void {
    if (posix.basename(name).startsWith('.wh.'))
      throw new BuildError(`${name} cannot be in an image: names beginning with .wh. mark deleted files`, {
        code: 'E_RESERVED_NAME',
        where: this.#request.where,
        remedy: 'Rename it, or leave it out with .dockerignore.',
      });
  }

  #copyEntry(source: string, stat: Stats, target: string): void {
    if (stat.isSocket()) return;
    this.#checkName(target);
    const there = lookUp(target);
    if (there?.isDirectory() === true) throw this.#conflict(target, 'it is a directory, the source is none');
    if (there !== undefined) rmSync(target);
    const link = stat.nlink > 1 ? this.#links.get(`${stat.dev}:${stat.ino}`) : undefined;
    if (link !== undefined && lstatSync(link, { throwIfNoEntry: false }) !== undefined) {
      linkSync(link, target);
      return;
    }
    if (stat.isSymbolicLink()) symlinkSync(readlinkSync(source, 'buffer'), target);
    else if (stat.isFile())
      copyFileSync(source, target, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
    else this.#makeNode(stat, target);
    this.#setMetadata(source, stat, target);
    if (stat.nlink > 1) this.#links.set(`${stat.dev}:${stat.ino}`, target);
  }

  #makeNode(stat: Stats, target: string): void {
    const { major, minor } = deviceNumbers(stat.rdev);
    try {
      makeNode(target, stat.mode, major, minor);
    } catch (error) {
      if (systemErrorCode(error) !== 'EPERM' || !inUserNamespace()) throw error;
      const path = `/${posix.relative(this.#root, target)}`;
      throw new BuildError(`the device node ${path} cannot be copied: a user namespace may not make it`, {
        code: 'E_DEVICE_NODE',
        where: this.#request.where,
        remedy: 'Leave it out, or build as root of the machine.',
      });
    }
  }

  #setMetadata(source: string, stat: Stats, target: string): void {
    const { chmod, keepOwners } = this.#request;
    setOwner(target, this.#owner ?? (keepOwners ? ownerOf(source, stat) : { uid: 0, gid: 0 }));
    if (!stat.isSymbolicLink()) chmodSync(target, chmod ?? stat.mode & 0o7777);
    // After chown, which clears capabilities.
    for (const [name, value] of imageXattrs(source)) setXattr(target, name, value);
    const { mtimeNs } = lstatSync(source, { bigint: true });
    setTimes(target, mtimeNs, mtimeNs);
  }

  #writeFile(name: string, content: string, intoDirectory: boolean): void {
    this.#checkName(name);
    const target = this.#fileTarget(name, intoDirectory);
    if (lookUp(target)?.isDirectory() === true) throw this.#conflict(target, 'it is a directory');
    rmSync(target, { force: true });
    writeFileSync(target, content, { flag: 'wx' });
    chmodSync(target, this.#request.chmod ?? 0o644);
    setOwner(target, this.#owner ?? { uid: 0, gid: 0 });
  }
}

function lookUp(path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOTDIR') return undefined;
    throw error;
  }
}
