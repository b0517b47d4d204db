import {
  chmodSync,
  chownSync,
  constants,
  copyFileSync,
  lchownSync,
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
import { extractTar, isKeptXattr, isTarArchive, Territory } from '../../src/layer/index.ts';
import {
  deviceNumbers,
  getXattr,
  listXattrs,
  makeNode,
  type ResolvedPath,
  resolveInRoot,
  setTimes,
  setXattr,
} from '../../src/os/index.ts';
import { BuildError } from '../../src/support/index.ts';
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
 * @param territory where the tree's files are, when not all of them are below the root.
 * @throws BuildError `E_COPY_…`, `E_USER_NOT_FOUND`, `E_RESERVED_NAME`.
 */
export async function copyInto(
  root: string,
  request: CopyRequest,
  territory: Territory = new Territory({ root }),
): Promise<void> {
  await new Copier(root, request, territory).run();
}

/** Paths of the target are below the root, as a step would name them; `#at` says where each really is. */
class Copier {
  readonly #root: string;
  readonly #territory: Territory;
  readonly #request: CopyRequest;
  readonly #owner: { uid: number; gid: number } | undefined;
  readonly #links = new Map<string, string>();

  constructor(root: string, request: CopyRequest, territory: Territory) {
    this.#root = root;
    this.#territory = territory;
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

  #at(path: string): string {
    return this.#territory.place(path);
  }

  /** A directory that is there for a mount alone is as good as missing. */
  #isScaffold(path: string): boolean {
    return this.#territory.isScaffold(this.#territory.relative(path));
  }

  #resolve(path: string): ResolvedPath {
    const resolved = resolveInRoot(this.#root, path, { followLast: true, place: (full) => this.#at(full) });
    return this.#isScaffold(resolved.path) ? { ...resolved, stat: undefined } : resolved;
  }

  #makeDirectory(path: string): void {
    if (this.#isScaffold(path)) this.#territory.adopt(this.#territory.relative(path));
    else mkdirSync(this.#at(path));
  }

  async #copyMatch(match: SourceMatch, intoDirectory: boolean): Promise<void> {
    const { destination, unpackArchives } = this.#request;
    if (match.stat.isDirectory()) {
      this.#copyDirectory(match);
      return;
    }
    if (unpackArchives && match.stat.isFile() && (await isTarArchive(match.path))) {
      const directory = this.#directory(destination);
      const relative = posix.relative(this.#root, directory);
      await extractTar(match.path, this.#root, relative, this.#territory);
      return;
    }
    const target = this.#fileTarget(matchBaseName(match), intoDirectory);
    this.#copyEntry(match.path, match.stat, target);
  }

  #copyDirectory(match: SourceMatch): void {
    const existing = this.#resolve(this.#request.destination);
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
      const there = lstatSync(this.#at(path), { throwIfNoEntry: false });
      if (there !== undefined && !there.isDirectory()) rmSync(this.#at(path));
      if (there?.isDirectory() !== true || this.#isScaffold(path)) this.#makeDirectory(path);
      directories.push([path, stat]);
    }
    for (const [path, stat] of directories.reverse())
      this.#setMetadata(posix.join(match.path, posix.relative(target, path)), stat, path);
  }

  /** Where a single file goes; its directory is made. */
  #fileTarget(name: string, intoDirectory: boolean): string {
    const { destination } = this.#request;
    const { stat } = this.#resolve(destination);
    if (intoDirectory || stat?.isDirectory() === true) return posix.join(this.#directory(destination), name);
    return posix.join(this.#directory(dirname(destination)), posix.basename(destination));
  }

  /** The real path of a directory of the target, made with its parents where it is missing. */
  #directory(path: string): string {
    const resolved = this.#resolve(path);
    if (resolved.stat?.isDirectory() === true) return resolved.path;
    if (resolved.stat !== undefined) throw this.#conflict(resolved.path, 'it is not a directory');
    const missing: string[] = [];
    let current = resolved.path;
    for (; lookUp(this.#at(current)) === undefined || this.#isScaffold(current); current = dirname(current))
      missing.unshift(current);
    if (lookUp(this.#at(current))?.isDirectory() !== true)
      throw this.#conflict(current, 'it is not a directory');
    for (const directory of missing) {
      const place = this.#at(directory);
      this.#makeDirectory(directory);
      chmodSync(place, 0o755);
      if (this.#owner !== undefined) chownSync(place, this.#owner.uid, this.#owner.gid);
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
    const place = this.#at(target);
    const there = lookUp(place);
    if (there?.isDirectory() === true) throw this.#conflict(target, 'it is a directory, the source is none');
    if (there !== undefined) rmSync(place);
    const link = stat.nlink > 1 ? this.#links.get(`${stat.dev}:${stat.ino}`) : undefined;
    if (link !== undefined && lstatSync(link, { throwIfNoEntry: false }) !== undefined) {
      linkSync(link, place);
      return;
    }
    if (stat.isSymbolicLink()) symlinkSync(readlinkSync(source, 'buffer'), place);
    else if (stat.isFile()) copyFileSync(source, place, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
    else {
      const { major, minor } = deviceNumbers(stat.rdev);
      makeNode(place, stat.mode, major, minor);
    }
    this.#setMetadata(source, stat, target);
    if (stat.nlink > 1) this.#links.set(`${stat.dev}:${stat.ino}`, place);
  }

  #setMetadata(source: string, stat: Stats, target: string): void {
    const { chmod, keepOwners } = this.#request;
    const owner = this.#owner ?? (keepOwners ? stat : { uid: 0, gid: 0 });
    const place = this.#at(target);
    lchownSync(place, owner.uid, owner.gid);
    if (!stat.isSymbolicLink()) chmodSync(place, chmod ?? stat.mode & 0o7777);
    // After chown, which clears capabilities.
    for (const name of listXattrs(source).filter(isKeptXattr)) {
      const value = getXattr(source, name);
      if (value !== undefined) setXattr(place, name, value);
    }
    const { mtimeNs } = lstatSync(source, { bigint: true });
    setTimes(place, mtimeNs, mtimeNs);
  }

  #writeFile(name: string, content: string, intoDirectory: boolean): void {
    this.#checkName(name);
    const target = this.#fileTarget(name, intoDirectory);
    const place = this.#at(target);
    if (lookUp(place)?.isDirectory() === true) throw this.#conflict(target, 'it is a directory');
    rmSync(place, { force: true });
    writeFileSync(place, content, { flag: 'wx' });
    chmodSync(place, this.#request.chmod ?? 0o644);
    const owner = this.#owner ?? { uid: 0, gid: 0 };
    chownSync(place, owner.uid, owner.gid);
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
