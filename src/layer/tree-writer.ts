import {
  chmodSync,
  chownSync,
  closeSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  ftruncateSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  rmSync,
  type Stats,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { constants } from 'node:fs';
import { lostGroupBit, makeNode, setTimes, setXattr } from '../os/index.ts';
import { KilnError, systemErrorCode } from '../support/index.ts';
import type { TarEntry, TarHandler } from './tar-reader.ts';

export interface TreeWriterOptions {
  /** The directory that is `/` for everything in the archive. */
  readonly root: string;
  /** Where in it the archive is unpacked; default the root itself. */
  readonly destination?: string;
  /**
   * What `.wh.` names mean: `overlay` turns them into overlayfs whiteouts (OCI layer specification, "Whiteouts"),
   * `none` takes them as ordinary names.
   */
  readonly whiteouts: 'overlay' | 'none';
  /** Prefix of overlayfs' own attributes: `trusted.overlay.`, or `user.overlay.` in a user namespace. */
  readonly overlayPrefix?: string;
  /** Who everything belongs to; default the owners that the archive names. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined;
}

const maximumLinks = 40;
const setGroupId = 0o2000;
const whiteoutPrefix = '.wh.';
const opaqueName = '.wh..wh..opq';

function unsafe(path: string, why: string): KilnError {
  return new KilnError(
    `unsafe entry ${JSON.stringify(Buffer.from(path, 'latin1').toString())} in archive: ${why}`,
    {
      code: 'E_TAR_UNSAFE',
      category: 'registry',
      remedy: 'The archive is hostile or damaged; do not use it.',
    },
  );
}

/**
 * Writes the entries of an archive below a root directory and nowhere else.
 *
 * A path is walked component by component: `..` is refused, a link on the way is resolved as if the root were `/`, and
 * the last component is never followed. Synchronous: it runs in a worker thread, where a system call costs less than a
 * trip through the event loop. Paths are kept as latin1 strings, one character a byte.
 */
export class TreeWriter implements TarHandler {
  readonly #root: string;
  readonly #destination: string;
  readonly #whiteouts: boolean;
  readonly #overlayPrefix: string;
  readonly #owner: TreeWriterOptions['owner'];
  /** Directories known to be real directories below the root, as written in the archive → as they are. */
  readonly #verified = new Map<string, string>();
  /** Directories with the set-group-id bit: what is made in them belongs to their group at first (inode(7)). */
  readonly #groupDirectories = new Set<string>();
  readonly #directoryTimes: [string, bigint][] = [];
  #file: { fd: number; path: string; entry: TarEntry; written: number } | undefined;
  entries = 0;
  bytes = 0;

  constructor(options: TreeWriterOptions) {
    this.#root = Buffer.from(options.root).toString('latin1');
    this.#destination = Buffer.from(options.destination ?? '').toString('latin1');
    this.#whiteouts = options.whiteouts === 'overlay';
    this.#overlayPrefix = options.overlayPrefix ?? 'trusted.overlay.';
    this.#owner = options.owner;
  }

  entry(archived: TarEntry): void {
    this.entries++;
    const entry = this.#owner === undefined ? archived : { ...archived, ...this.#owner };
    const components = splitPath(entry.path);
    const name = components.at(-1);
    if (name === undefined) {
      // The archive's own root: a layer sets the root's attributes, an added archive leaves the destination's.
      if (this.#whiteouts && entry.type === 'directory') this.#applyMetadata('', entry);
      return;
    }
    const parent = this.#directory(this.#prefixed(components.slice(0, -1)));
    if (this.#whiteouts && name.startsWith(whiteoutPrefix)) {
      this.#whiteout(parent, name);
      return;
    }
    this.#create(parent === '' ? name : `${parent}/${name}`, entry);
  }

  data(chunk: Buffer): void {
    if (this.#file === undefined) return;
    const file = this.#file;
    for (let at = 0; at < chunk.length;)
      at += writeSync(file.fd, chunk, at, chunk.length - at, file.written + at);
    file.written += chunk.length;
    this.bytes += chunk.length;
  }

  hole(length: number): void {
    if (this.#file === undefined) return;
    this.#file.written += length;
    ftruncateSync(this.#file.fd, this.#file.written);
  }

  end(): void {
    const file = this.#file;
    if (file === undefined) return;
    this.#file = undefined;
    const { fd, path, entry } = file;
    try {
      if (!this.#isRoots(path, entry)) fchownSync(fd, entry.uid, entry.gid);
      fchmodSync(fd, entry.mode);
      if ((entry.mode & setGroupId) !== 0) requireGroupBit(fstatSync(fd), path);
    } finally {
      closeSync(fd);
    }
    this.#applyXattrs(path, entry);
    setTimes(this.#bytes(path), entry.modified, entry.modified);
  }

  /** Sets the directories' times, which every entry in them changed. */
  finish(): void {
    for (const [path, modified] of this.#directoryTimes.reverse()) {
      try {
        setTimes(this.#bytes(path), modified, modified);
      } catch (error) {
        // A later entry of the archive may have replaced the directory.
        if (systemErrorCode(error) !== 'ENOENT') throw error;
      }
    }
  }

  /** Closes a file left open by an archive that broke off. */
  abort(): void {
    if (this.#file !== undefined) closeSync(this.#file.fd);
    this.#file = undefined;
  }

  #prefixed(components: readonly string[]): string[] {
    return [...this.#destination.split('/').filter((part) => part !== ''), ...components];
  }

  #bytes(path: string): Buffer {
    return Buffer.from(path === '' ? this.#root : `${this.#root}/${path}`, 'latin1');
  }

  #stat(path: string): Stats | undefined {
    return lstatSync(this.#bytes(path), { throwIfNoEntry: false });
  }

  /** The real directory that a path names, made where it is missing. */
  #directory(components: readonly string[]): string {
    const wanted = components.join('/');
    const known = this.#verified.get(wanted);
    if (known !== undefined) return known;
    const real = this.#walk([...components], wanted);
    this.#verified.set(wanted, real);
    return real;
  }

  #walk(pending: string[], wanted: string): string {
    let current: string[] = [];
    let links = 0;
    for (let part = pending.shift(); part !== undefined; part = pending.shift()) {
      if (part === '..') {
        current.pop();
        continue;
      }
      const path = [...current, part].join('/');
      const stat = this.#stat(path);
      if (stat?.isSymbolicLink() === true) {
        if (++links > maximumLinks) throw unsafe(wanted, 'too many symbolic links');
        const target = readlinkSync(this.#bytes(path), 'buffer').toString('latin1');
        if (target.startsWith('/')) current = [];
        pending.unshift(...target.split('/').filter((piece) => piece !== '' && piece !== '.'));
        continue;
      }
      if (stat === undefined) this.#makeParent(path);
      else if (!stat.isDirectory()) throw unsafe(wanted, 'it lies below something that is no directory');
      else this.#noteGroup(path, stat.mode);
      current.push(part);
    }
    return current.join('/');
  }

  /** A directory that no entry describes: root's, whatever the umask and the directory above say. */
  #makeParent(path: string): void {
    const target = this.#bytes(path);
    mkdirSync(target, 0o755);
    if (!this.#isRoots(path, { uid: 0, gid: 0 })) chownSync(target, 0, 0);
    chmodSync(target, 0o755);
  }

  #noteGroup(directory: string, mode: number): void {
    if ((mode & setGroupId) === 0) this.#groupDirectories.delete(directory);
    else this.#groupDirectories.add(directory);
  }

  /** Whether what was just made there belongs to root as it is, and is to. */
  #isRoots(path: string, { uid, gid }: { readonly uid: number; readonly gid: number }): boolean {
    const parent = path.slice(0, Math.max(0, path.lastIndexOf('/')));
    return uid === 0 && gid === 0 && !this.#groupDirectories.has(parent);
  }

  #whiteout(parent: string, name: string): void {
    if (name === opaqueName) {
      setXattr(this.#bytes(parent), `${this.#overlayPrefix}opaque`, Buffer.from('y'));
      return;
    }
    // Other names of this form belong to aufs and mean nothing to anyone else.
    if (name.startsWith('.wh..wh.')) return;
    const hidden = name.slice(whiteoutPrefix.length);
    if (hidden === '' || hidden === '.' || hidden === '..') throw unsafe(name, 'a whiteout of nothing');
    const path = parent === '' ? hidden : `${parent}/${hidden}`;
    // Within one layer an entry wins over a whiteout of the same name, whichever comes first.
    if (this.#stat(path) === undefined) makeNode(this.#bytes(path), constants.S_IFCHR, 0, 0);
  }

  #create(path: string, entry: TarEntry): void {
    const existing = this.#stat(path);
    if (existing !== undefined && !(existing.isDirectory() && entry.type === 'directory'))
      this.#remove(path, existing);
    const target = this.#bytes(path);
    switch (entry.type) {
      case 'file':
        this.#file = {
          fd: openSync(
            target,
            constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
            0o600,
          ),
          path,
          entry,
          written: 0,
        };
        return;
      case 'directory':
        if (existing?.isDirectory() !== true) mkdirSync(target, 0o755);
        break;
      case 'symlink':
        symlinkSync(entry.link, target);
        break;
      case 'hardlink':
        this.#link(entry, target);
        return;
      case 'fifo':
        makeNode(target, constants.S_IFIFO | 0o600, 0, 0);
        break;
      case 'character':
      case 'block':
        // Device 0:0 is how overlayfs marks a deleted file; an archive may not forge it.
        if (this.#whiteouts && entry.type === 'character' && entry.major === 0 && entry.minor === 0)
          throw unsafe(path, 'a character device 0:0');
        makeNode(
          target,
          (entry.type === 'character' ? constants.S_IFCHR : constants.S_IFBLK) | 0o600,
          entry.major,
          entry.minor,
        );
        break;
    }
    this.#applyMetadata(path, entry);
  }

  #remove(path: string, existing: Stats): void {
    rmSync(this.#bytes(path), { recursive: true });
    if (existing.isDirectory() || existing.isSymbolicLink()) this.#verified.clear();
  }

  #link(entry: TarEntry, target: Buffer): void {
    const components = splitPath(entry.link);
    const name = components.at(-1);
    if (name === undefined) throw unsafe(entry.path.toString('latin1'), 'a hard link to a directory');
    const parent = this.#directory(this.#prefixed(components.slice(0, -1)));
    const source = parent === '' ? name : `${parent}/${name}`;
    const stat = this.#stat(source);
    if (stat === undefined || stat.isDirectory())
      throw unsafe(entry.path.toString('latin1'), 'a hard link to what is no file of the archive');
    linkSync(this.#bytes(source), target);
  }

  #applyMetadata(path: string, entry: TarEntry): void {
    const target = this.#bytes(path);
    if (entry.type === 'symlink') {
      if (!this.#isRoots(path, entry)) lchownSync(target, entry.uid, entry.gid);
    } else {
      chownSync(target, entry.uid, entry.gid);
      chmodSync(target, entry.mode);
      if ((entry.mode & setGroupId) !== 0) requireGroupBit(lstatSync(target), path);
      if (entry.type === 'directory') this.#noteGroup(path, entry.mode);
    }
    this.#applyXattrs(path, entry);
    if (entry.type === 'directory') this.#directoryTimes.push([path, entry.modified]);
    else setTimes(target, entry.modified, entry.modified);
  }

  #applyXattrs(path: string, entry: TarEntry): void {
    for (const [name, value] of entry.xattrs) {
      // overlayfs' own attributes would let an archive redirect or hide what is below it.
      if (name.startsWith('trusted.') || name.startsWith('user.overlay.') || name === 'security.selinux')
        continue;
      try {
        setXattr(this.#bytes(path), name, value);
      } catch (error) {
        if (systemErrorCode(error) !== 'EOPNOTSUPP') throw error;
      }
    }
  }
}

/** @throws EnvironmentError when a set-group-id bit that was just set is not there. */
function requireGroupBit(stat: Stats, path: string): void {
  if ((stat.mode & setGroupId) === 0) throw lostGroupBit(Buffer.from(path, 'latin1').toString());
}

/** The components of an archive's path. @throws KilnError `E_TAR_UNSAFE` for `..`. */
function splitPath(path: Buffer): string[] {
  const text = path.toString('latin1');
  if (text.includes('\0')) throw unsafe(text, 'its name has a NUL byte');
  const components = text.split('/').filter((part) => part !== '' && part !== '.');
  if (components.includes('..')) throw unsafe(text, 'its path leads upwards');
  if (components.some((part) => part.length > 255)) throw unsafe(text.slice(0, 300), 'its name is too long');
  return components;
}
