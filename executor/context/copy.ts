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
import { extractTar, imageXattrs, isTarArchive, Territory } from '../../src/layer/index.ts';
import {
  type BytePath,
  deviceNumbers,
  inUserNamespace,
  makeNode,
  ownerOf,
  pathBuffer,
  pathText,
  resolveBytesInRoot,
  type ResolvedPath,
  setOwner,
  setTimes,
  setXattr,
  toBytePath,
} from '../../src/os/index.ts';
import { BuildError, systemErrorCode } from '../../src/support/index.ts';
import { ModeChange } from './mode-change.ts';
import { resolveOwner } from './owner.ts';
import { lookUp, matchBaseName, matchSources, type SourceMatch, type SourceQuery } from './sources.ts';
import { TreeStamp } from './tree-stamp.ts';

/** What one COPY or ADD does. Plain data that can be posted to a worker. */
export interface CopyRequest {
  /** Undefined when all sources are here-documents. */
  readonly query: SourceQuery | undefined;
  readonly files: readonly { readonly name: string; readonly content: string }[];
  /** Absolute in the target; with a slash at the end when it must be a directory. */
  readonly destination: string;
  readonly chown: string | undefined;
  /** Permission bits for everything copied and for the directories made for it, or a change of those that it has. */
  readonly chmod: number | string | undefined;
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
 * @returns the stamp of what was copied: see {@link TreeReading}.
 * @throws BuildError `E_COPY_…`, `E_USER_NOT_FOUND`, `E_RESERVED_NAME`.
 */
export async function copyInto(
  root: string,
  request: CopyRequest,
  territory: Territory = new Territory({ root }),
): Promise<string> {
  return new Copier(root, request, territory).run();
}

/** Paths of the target are below the root, as a step would name them; `#at` says where each really is. */
class Copier {
  readonly #root: BytePath;
  readonly #territory: Territory;
  readonly #destination: BytePath;
  readonly #request: CopyRequest;
  readonly #owner: { uid: number; gid: number } | undefined;
  readonly #modeChange: ModeChange | undefined;
  /** Where the first name of a file with several was copied to. */
  readonly #links = new Map<string, BytePath>();
  readonly #stamp = new TreeStamp();

  constructor(root: string, request: CopyRequest, territory: Territory) {
    this.#root = toBytePath(root);
    this.#territory = territory;
    this.#destination = toBytePath(request.destination);
    this.#request = request;
    this.#owner = request.chown === undefined ? undefined : resolveOwner(root, request.chown, request.where);
    this.#modeChange = typeof request.chmod === 'string' ? ModeChange.parse(request.chmod) : undefined;
  }

  async run(): Promise<string> {
    const { query, files } = this.#request;
    const matches = query === undefined ? [] : matchSources(query);
    const intoDirectory = this.#destination.endsWith('/') || matches.length + files.length > 1;
    for (const match of matches) await this.#copyMatch(match, intoDirectory);
    for (const file of files) this.#writeFile(toBytePath(file.name), file.content, intoDirectory);
    return this.#stamp.end();
  }

  async #copyMatch(match: SourceMatch, intoDirectory: boolean): Promise<void> {
    if (match.stat.isDirectory()) {
      this.#copyDirectory(match);
      return;
    }
    const file = pathBuffer(match.path);
    if (this.#request.unpackArchives && match.stat.isFile() && (await isTarArchive(file))) {
      const directory = this.#inTree(this.#directory(this.#destination));
      const options = { owner: this.#owner, territory: this.#territory };
      await extractTar(file, pathText(this.#root), directory, options);
      this.#addToStamp(match.path);
      return;
    }
    this.#copyEntry(match.path, match.stat, this.#fileTarget(matchBaseName(match), intoDirectory));
    this.#addToStamp(match.path);
  }

  /** Called when a path has been copied, so that a change meanwhile shows. */
  #addToStamp(source: BytePath): void {
    const stat = lookUp(source);
    if (stat !== undefined) this.#stamp.add(stat);
  }

  #copyDirectory(match: SourceMatch): void {
    const target = this.#directory(this.#destination);
    const directories: (() => void)[] = [];
    for (const below of match.below) {
      const source = posix.join(match.path, below);
      const stat = lookUp(source);
      if (stat === undefined) continue;
      const path = posix.join(target, below);
      if (!stat.isDirectory()) {
        this.#copyEntry(source, stat, path);
        this.#addToStamp(source);
        continue;
      }
      this.#stamp.add(stat);
      this.#checkName(path);
      const there = this.#lookUp(path);
      if (there === undefined) this.#makeDirectory(path);
      else if (!there.isDirectory()) throw this.#conflict(path, 'the source is a directory, it is none');
      // A directory that is there for what is in it has its own mode, but takes nothing else from one that was there.
      directories.push(
        there !== undefined && match.carried.has(below)
          ? () => chmodSync(this.#at(path), stat.mode & 0o7777)
          : () => this.#setMetadata(source, stat, path),
      );
    }
    // What is made in a directory changes its time, so the deepest come first.
    for (const finish of directories.reverse()) finish();
  }

  #resolve(path: BytePath): ResolvedPath {
    const place = (full: BytePath): BytePath => this.#territory.place(full);
    const resolved = resolveBytesInRoot(this.#root, path, { followLast: true, place });
    return this.#isScaffold(resolved.path) ? { ...resolved, stat: undefined } : resolved;
  }

  /** Where a path of the target really is. */
  #at(path: BytePath): Buffer {
    return pathBuffer(this.#territory.place(path));
  }

  /** A directory that is there for a mount alone is as good as missing. */
  #isScaffold(path: BytePath): boolean {
    return this.#territory.isScaffold(this.#territory.relative(path));
  }

  /** What the target has under a path. */
  #lookUp(path: BytePath): Stats | undefined {
    return this.#isScaffold(path) ? undefined : lookUp(this.#territory.place(path));
  }

  #makeDirectory(path: BytePath): void {
    if (this.#isScaffold(path)) this.#territory.adopt(this.#territory.relative(path));
    else mkdirSync(this.#at(path));
  }

  /** Where a single file goes, a link that is the destination itself followed; its directory is made. */
  #fileTarget(name: BytePath, intoDirectory: boolean): BytePath {
    const { path, stat } = this.#resolve(this.#destination);
    if (intoDirectory || stat?.isDirectory() === true)
      return posix.join(this.#directory(this.#destination), name);
    this.#directory(posix.relative(this.#root, dirname(path)));
    return path;
  }

  /** The real path of a directory of the target, made with its parents where it is missing. */
  #directory(path: BytePath): BytePath {
    const resolved = this.#resolve(path);
    if (resolved.stat?.isDirectory() === true) return resolved.path;
    if (resolved.stat !== undefined) throw this.#conflict(resolved.path, 'it is not a directory');
    const missing: BytePath[] = [];
    let current = resolved.path;
    for (; this.#lookUp(current) === undefined; current = dirname(current)) missing.unshift(current);
    if (this.#lookUp(current)?.isDirectory() !== true) throw this.#conflict(current, 'it is not a directory');
    for (const directory of missing) {
      this.#checkName(directory);
      this.#makeDirectory(directory);
      if (this.#owner !== undefined) setOwner(this.#at(directory), this.#owner);
      chmodSync(this.#at(directory), (this.#absoluteMode ?? 0o755) & 0o777);
    }
    return resolved.path;
  }

  get #absoluteMode(): number | undefined {
    const { chmod } = this.#request;
    return typeof chmod === 'number' ? chmod : undefined;
  }

  /** The mode that something copied gets. */
  #modeOf(mode: number, isDirectory: boolean): number {
    return this.#modeChange?.apply(mode, isDirectory) ?? this.#absoluteMode ?? mode & 0o7777;
  }

  #conflict(path: BytePath, why: string): BuildError {
    return new BuildError(`cannot copy to /${this.#inTree(path)}: ${why}`, {
      code: 'E_COPY_CONFLICT',
      where: this.#request.where,
      remedy: 'Remove it in an earlier step, or copy to another path.',
    });
  }

  #inTree(path: BytePath): string {
    return pathText(posix.relative(this.#root, path));
  }

  #checkName(target: BytePath): void {
    if (posix.basename(target).startsWith('.wh.'))
      throw new BuildError(
        `/${this.#inTree(target)} cannot be in an image: names beginning with .wh. mark deleted files`,
        {
          code: 'E_RESERVED_NAME',
          where: this.#request.where,
          remedy: 'Rename it, or leave it out with .dockerignore.',
        },
      );
  }

  #copyEntry(source: BytePath, stat: Stats, target: BytePath): void {
    if (stat.isSocket()) return;
    this.#clear(target);
    const identity = `${stat.dev}:${stat.ino}`;
    const link = stat.nlink > 1 ? this.#links.get(identity) : undefined;
    if (link !== undefined) {
      linkSync(this.#at(link), this.#at(target));
      return;
    }
    try {
      this.#createEntry(source, stat, target);
      this.#setMetadata(source, stat, target);
    } catch (error) {
      // It vanished while the tree was read: as good as never there.
      if (systemErrorCode(error) !== 'ENOENT' || lookUp(source) !== undefined) throw error;
      rmSync(this.#at(target), { force: true });
      return;
    }
    if (stat.nlink > 1) this.#links.set(identity, target);
  }

  /** Makes way for a file. What is not a directory is replaced, as cp does. */
  #clear(target: BytePath): void {
    this.#checkName(target);
    const there = this.#lookUp(target);
    if (there === undefined) return;
    if (there.isDirectory()) throw this.#conflict(target, 'it is a directory, the source is none');
    rmSync(this.#at(target));
    for (const [identity, path] of this.#links) if (path === target) this.#links.delete(identity);
  }

  #createEntry(source: BytePath, stat: Stats, target: BytePath): void {
    const [from, to] = [pathBuffer(source), this.#at(target)];
    if (stat.isSymbolicLink()) symlinkSync(readlinkSync(from, 'buffer'), to);
    else if (stat.isFile()) copyFileSync(from, to, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
    else this.#makeNode(stat, target);
  }

  #makeNode(stat: Stats, target: BytePath): void {
    const { major, minor } = deviceNumbers(stat.rdev);
    try {
      makeNode(this.#at(target), stat.mode, major, minor);
    } catch (error) {
      if (systemErrorCode(error) !== 'EPERM' || !inUserNamespace()) throw error;
      const path = `/${this.#inTree(target)}`;
      throw new BuildError(`the device node ${path} cannot be copied: a user namespace may not make it`, {
        code: 'E_DEVICE_NODE',
        where: this.#request.where,
        remedy: 'Leave it out, or build as root of the machine.',
      });
    }
  }

  #setMetadata(source: BytePath, stat: Stats, target: BytePath): void {
    const [from, to] = [pathBuffer(source), this.#at(target)];
    const { keepOwners } = this.#request;
    setOwner(to, this.#owner ?? (keepOwners ? ownerOf(from, stat) : { uid: 0, gid: 0 }));
    // After chown, which clears setuid bits and capabilities.
    if (!stat.isSymbolicLink()) chmodSync(to, this.#modeOf(stat.mode, stat.isDirectory()));
    for (const [name, value] of imageXattrs(from)) setXattr(to, name, value);
    const { mtimeNs } = lstatSync(from, { bigint: true });
    setTimes(to, mtimeNs, mtimeNs);
  }

  #writeFile(name: BytePath, content: string, intoDirectory: boolean): void {
    const target = this.#fileTarget(name, intoDirectory);
    this.#clear(target);
    const to = this.#at(target);
    writeFileSync(to, content, { flag: 'wx' });
    setOwner(to, this.#owner ?? { uid: 0, gid: 0 });
    chmodSync(to, this.#modeOf(0o644, false));
  }
}
