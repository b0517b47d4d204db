import {
  chmodSync,
  closeSync,
  fchmodSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  type Stats,
  symlinkSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { constants } from 'node:fs';
import { inUserNamespace, makeNode, setOwner, setTimes } from '../os/index.ts';
import { systemErrorCode } from '../support/index.ts';
import { splitPath, unsafe } from './archive-path.ts';
import { childPath, makeWay, namesIn, removeTree } from './clear-tree.ts';
import { DirectoryNotes } from './directory-notes.ts';
import { opaqueName, whiteoutPrefix } from './entries.ts';
import { requireGroupBit, setEntryXattrs, setGroupId } from './entry-attributes.ts';
import { deviceRefused, LayerProblems } from './layer-problems.ts';
import { OpaqueMarks } from './opaque-marks.ts';
import type { TarEntry, TarHandler } from './tar-reader.ts';
import { Territory } from './territory.ts';
import type { OverlayMark } from './xattrs.ts';

export interface TreeWriterOptions {
  /** The directory that is `/` for everything in the archive. */
  readonly root: string;
  /** Where in it the archive is unpacked; default the root itself. */
  readonly destination?: string;
  /**
   * What `.wh.` names mean (OCI layer specification, "Whiteouts"): `overlay` turns them into overlayfs whiteouts, `apply`
   * removes what the tree has under the name, `none` takes them as ordinary names.
   */
  readonly whiteouts: 'overlay' | 'apply' | 'none';
  /** Who everything belongs to; default the owners that the archive names. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined;
}

const maximumLinks = 40;

/**
 * Writes the entries of an archive below a root directory and nowhere else.
 *
 * A path is walked component by component: `..` is refused, a link on the way is resolved as if the root were `/`, and
 * the last component is never followed. Synchronous: it runs in a worker thread, where a system call costs less than a
 * trip through the event loop. Paths are kept as latin1 strings, one character a byte.
 */
export class TreeWriter implements TarHandler {
  readonly #territory: Territory;
  readonly #destination: string;
  readonly #whiteouts: TreeWriterOptions['whiteouts'];
  /** Paths that this archive made, or made something in. Whiteouts mean what the layers below have. */
  readonly #own = new Set<string>();
  readonly #owner: TreeWriterOptions['owner'];
  /** Directories known to be real directories below the root, as written in the archive → as they are. */
  readonly #verified = new Map<string, string>();
  readonly #directories = new DirectoryNotes();
  #file: { fd: number; path: string; entry: TarEntry; written: number } | undefined;
  /** Device nodes that could not be made, as paths below the root. */
  readonly #skipped = new Set<string>();
  readonly #marks = new OpaqueMarks();
  #maximumId = 0;
  entries = 0;
  bytes = 0;
  /** Opaque directories (latin1, relative). */
  readonly opaque = new Set<string>();
  readonly problems = new LayerProblems();

  /** @param territory where the tree's files are, when not all of them are below the root. */
  constructor(options: TreeWriterOptions, territory = new Territory({ root: options.root })) {
    this.#territory = territory;
    this.#destination = Buffer.from(options.destination ?? '').toString('latin1');
    this.#whiteouts = options.whiteouts;
    this.#owner = options.owner;
    this.#directories.implied('');
  }

  /** Which of overlayfs' attributes mark every opaque directory that was written: all, where there is none. */
  get overlayMarks(): readonly OverlayMark[] {
    return this.#marks.kept;
  }

  /** Directories that no entry described (latin1, relative, `''` the root): they were made for what is in them. */
  get implied(): readonly string[] {
    return this.#directories.undescribed;
  }

  /** The largest user or group id that a file belongs to. */
  get maximumId(): number {
    return this.#maximumId;
  }

  /** Device nodes of a layer that a user namespace cannot have; everybody else's builds leave them out, too. */
  get skippedDevices(): number {
    return this.#skipped.size;
  }

  entry(archived: TarEntry): void {
    this.entries++;
    const entry = this.#owner === undefined ? archived : { ...archived, ...this.#owner };
    const components = splitPath(entry.path);
    const name = components.at(-1);
    if (name === undefined) {
      // The archive's own root: a layer sets the root's attributes, an added archive leaves the destination's.
      if (this.#whiteouts !== 'none' && entry.type === 'directory') this.#applyMetadata('', entry);
      return;
    }
    const parent = this.#directory(this.#prefixed(components.slice(0, -1)));
    if (this.#whiteouts !== 'none' && name.startsWith(whiteoutPrefix)) {
      this.#whiteout(parent, name);
      return;
    }
    this.#create(childPath(parent, name), entry);
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
      if (!this.#directories.givesToRoot(path, entry)) this.#setOwner(this.#bytes(path), entry);
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
    this.#directories.setTimes((path) => this.#bytes(path));
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
    return this.#territory.bytes(path);
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
      const stat = this.#foreign(path, this.#stat(path));
      if (stat?.isSymbolicLink() === true) {
        if (++links > maximumLinks) throw unsafe(wanted, 'too many symbolic links');
        const target = readlinkSync(this.#bytes(path), 'buffer').toString('latin1');
        if (target.startsWith('/')) current = [];
        pending.unshift(...target.split('/').filter((piece) => piece !== '' && piece !== '.'));
        continue;
      }
      if (stat === undefined) this.#makeParent(path);
      else if (this.#isOverlayWhiteout(stat)) this.#replaceWhiteout(path);
      else if (!stat.isDirectory()) throw unsafe(wanted, 'it lies below something that is no directory');
      else this.#noteFound(path, stat.mode);
      this.#own.add(path);
      current.push(part);
    }
    return current.join('/');
  }

  /** A directory of a layer takes the place of a link or file of a layer below, as it does on an overlay. */
  #foreign(path: string, stat: Stats | undefined): Stats | undefined {
    if (this.#whiteouts !== 'apply' || stat === undefined || stat.isDirectory() || this.#own.has(path))
      return stat;
    this.#remove(path, stat, undefined);
    return undefined;
  }

  /** A directory that no entry describes: root's, whatever the umask and the directory above say. */
  #makeParent(path: string): void {
    const target = this.#bytes(path);
    mkdirSync(target, 0o755);
    if (!this.#directories.givesToRoot(path, { uid: 0, gid: 0 })) setOwner(target, { uid: 0, gid: 0 });
    chmodSync(target, 0o755);
    this.#directories.implied(path);
  }

  /** A directory of this layer where it removed what the layers below have: a new one, whatever that was. */
  #replaceWhiteout(path: string): void {
    unlinkSync(this.#bytes(path));
    this.#makeParent(path);
    this.#directories.described(path, lstatSync(this.#bytes(path), { bigint: true }).mtimeNs);
    this.#hideBelow(path);
  }

  #noteFound(path: string, mode: number): void {
    this.#directories.setMode(path, mode);
    if (this.#whiteouts === 'apply' && !this.#own.has(path))
      this.#directories.found(path, lstatSync(this.#bytes(path), { bigint: true }).mtimeNs);
  }

  #whiteout(parent: string, name: string): void {
    if (name === opaqueName) {
      this.#hideBelow(parent);
      return;
    }
    // Other names of this form belong to aufs and mean nothing to anyone else.
    if (name.startsWith('.wh..wh.')) return;
    const hidden = name.slice(whiteoutPrefix.length);
    if (hidden === '' || hidden === '.' || hidden === '..') throw unsafe(name, 'a whiteout of nothing');
    const path = childPath(parent, hidden);
    const existing = this.#stat(path);
    // Within one layer an entry wins over a whiteout of the same name, whichever comes first; but a directory then has
    // only what this layer has in it.
    if (existing !== undefined && this.#own.has(path)) {
      if (existing.isDirectory()) this.#hideBelow(path);
    } else if (this.#whiteouts === 'apply') {
      if (existing !== undefined) this.#remove(path, existing, undefined);
    } else if (existing === undefined) makeNode(this.#bytes(path), constants.S_IFCHR, 0, 0);
  }

  /** Makes a directory opaque: it shows nothing of the layers below. */
  #hideBelow(path: string): void {
    if (this.#whiteouts === 'apply') return this.#removeForeign(path);
    this.#marks.mark(this.#bytes(path));
    this.opaque.add(path);
  }

  #removeForeign(directory: string): void {
    for (const name of namesIn(this.#territory, directory)) {
      const path = childPath(directory, name);
      const stat = this.#stat(path);
      if (stat === undefined) continue;
      if (!this.#own.has(path)) this.#remove(path, stat, undefined);
      else if (stat.isDirectory()) this.#removeForeign(path);
    }
  }

  #create(path: string, entry: TarEntry): void {
    const existing = this.#stat(path);
    const hidden = existing !== undefined && this.#isOverlayWhiteout(existing);
    if (existing !== undefined && !(existing.isDirectory() && entry.type === 'directory'))
      this.#remove(path, existing, entry);
    const target = this.#bytes(path);
    this.#own.add(path);
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
        this.#territory.adopt(path);
        if (hidden) this.#hideBelow(path);
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
        if (!this.#makeDevice(path, entry)) return;
        break;
    }
    this.#applyMetadata(path, entry);
  }

  /** @returns false when this process may not make it and it can be left out. */
  #makeDevice(path: string, entry: TarEntry): boolean {
    // Device 0:0 is how overlayfs marks a deleted file; an archive may not forge it.
    if (this.#whiteouts !== 'none' && entry.type === 'character' && entry.major === 0 && entry.minor === 0)
      throw unsafe(path, 'a character device 0:0');
    const kind = entry.type === 'character' ? constants.S_IFCHR : constants.S_IFBLK;
    const make = (): void => makeNode(this.#bytes(path), kind | 0o600, entry.major, entry.minor);
    if (this.#whiteouts === 'apply') {
      if (this.problems.attempt('node', path, make)) return true;
    } else {
      try {
        make();
        return true;
      } catch (error) {
        if (systemErrorCode(error) !== 'EPERM' || !inUserNamespace()) throw error;
        // A base's layer goes into the image as it is, whatever was unpacked of it; what ADD unpacks makes the layer.
        if (this.#whiteouts === 'none') throw deviceRefused(path);
      }
    }
    this.#skipped.add(path);
    return false;
  }

  #isOverlayWhiteout(stat: Stats): boolean {
    return this.#whiteouts === 'overlay' && stat.isCharacterDevice() && stat.rdev === 0;
  }

  /** Removes what is at a path, to make way for an entry or for nothing. */
  #remove(path: string, existing: Stats, entry: TarEntry | undefined): void {
    if (entry === undefined || entry.type === 'directory') removeTree(this.#territory, path);
    else makeWay(this.#territory, path, entry.type === 'symlink' ? entry.link : undefined);
    this.#own.delete(path);
    if (existing.isDirectory() || existing.isSymbolicLink()) this.#verified.clear();
    if (existing.isDirectory()) this.#directories.removed(path);
  }

  #link(entry: TarEntry, target: Buffer): void {
    const components = splitPath(entry.link);
    const name = components.at(-1);
    if (name === undefined) throw unsafe(entry.path.toString('latin1'), 'a hard link to a directory');
    const parent = this.#directory(this.#prefixed(components.slice(0, -1)));
    const source = parent === '' ? name : `${parent}/${name}`;
    const stat = this.#stat(source);
    if (stat === undefined && this.#skipped.has(source)) return;
    if (stat === undefined || stat.isDirectory())
      throw unsafe(entry.path.toString('latin1'), 'a hard link to what is no file of the archive');
    linkSync(this.#bytes(source), target);
  }

  #applyMetadata(path: string, entry: TarEntry): void {
    const target = this.#bytes(path);
    if (entry.type !== 'symlink' || !this.#directories.givesToRoot(path, entry))
      this.#setOwner(target, entry);
    if (entry.type !== 'symlink') {
      chmodSync(target, entry.mode);
      if ((entry.mode & setGroupId) !== 0) requireGroupBit(lstatSync(target), path);
      if (entry.type === 'directory') this.#directories.setMode(path, entry.mode);
    }
    this.#applyXattrs(path, entry);
    if (entry.type === 'directory') this.#directories.described(path, entry.modified);
    else setTimes(target, entry.modified, entry.modified);
  }

  #setOwner(target: Buffer, entry: TarEntry): void {
    this.#maximumId = Math.max(this.#maximumId, entry.uid, entry.gid);
    setOwner(target, entry);
  }

  #applyXattrs(path: string, entry: TarEntry): void {
    setEntryXattrs(this.#bytes(path), entry, (set) => {
      if (this.#whiteouts === 'apply') this.problems.attempt('attribute', path, set);
      else set();
    });
  }
}
