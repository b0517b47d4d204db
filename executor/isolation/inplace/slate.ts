import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { childPath, imageXattrs, type Relocation, Territory } from '../../../src/layer/index.ts';
import { mountPoints, removeXattr, setTimes, setXattr } from '../../../src/os/index.ts';
import { randomName, systemErrorCode } from '../../../src/support/index.ts';

export interface SlateOptions {
  /** The root that images are unpacked over: `/`, or a directory in tests. */
  readonly root: string;
  /** A directory of Kiln's own on the same file system. */
  readonly work: string;
  /** Absolute paths that are not the image's, besides mounts. */
  readonly spared: readonly string[];
}

/** What of a container's root is an image's, the mounts being as they are now. Changes nothing. */
export function containerTerritory({ root, work, spared }: SlateOptions): Territory {
  const prefix = root.replace(/\/+$/, '');
  const exclusions = [...mountPoints(), work, ...spared]
    .filter((path) => path.startsWith(`${prefix}/`) && path !== '/')
    .map((path) => path.slice(prefix.length));
  return new Territory({ root, exclusions, shadow: join(work, 'shadow') });
}

/** Free space below which removed trees are deleted at once, and not when the build ends. */
const scarce = 4 << 30;

/**
 * The root file system of the container as a slate that one tree after another is written on.
 *
 * Nothing is deleted while the build waits: what has to go is renamed into a directory of Kiln's own, which takes a
 * moment however large it is. There it is deleted later, or kept for the stages that copy from it. Excluded paths stay
 * where they are, and with them the directories that lead to them.
 */
export class Slate {
  readonly #options: SlateOptions;
  readonly #root: string;
  #territory: Territory;

  constructor(options: SlateOptions) {
    this.#options = options;
    this.#root = options.root.replace(/\/+$/, '');
    for (const name of ['trash', 'trees']) mkdirSync(this.#own(name), { recursive: true, mode: 0o700 });
    // What a build that was killed left.
    renameSync(this.#own('trees'), join(this.#own('trash'), randomName('trees-')));
    mkdirSync(this.#own('trees'), { mode: 0o700 });
    this.#restore(this.#savedRelocations());
    this.#territory = this.#look();
  }

  #own(name: string): string {
    return join(this.#options.work, name);
  }

  /** Where the present tree's files are. Another one after {@link clean}. */
  get territory(): Territory {
    return this.#territory;
  }

  #look(): Territory {
    mkdirSync(this.#own('shadow'), { recursive: true, mode: 0o755 });
    const territory = containerTerritory(this.#options);
    territory.prepare();
    return territory;
  }

  /** Removes everything that is not excluded, so that the next tree starts on nothing. */
  clean(): void {
    this.#setAside(join(this.#own('trash'), randomName('tree-')));
    this.#restore(this.#territory.relocations);
    this.#territory = this.#look();
    // What relocated mounts lay in is left, and is nobody's any more.
    this.#setAside(join(this.#own('trash'), randomName('rest-')));
    const { bavail, bsize } = statfsSync(this.#options.work);
    if (bavail * bsize < scarce) this.emptyTrash();
  }

  /** Moves the present tree aside as a whole, what is in the shadow included. @returns where it is then. */
  keep(): string {
    const target = join(this.#own('trees'), randomName('tree-'));
    this.#setAside(target);
    return target;
  }

  /** Deletes what was removed. */
  emptyTrash(): void {
    for (const name of readdirSync(this.#own('trash')))
      rmSync(join(this.#own('trash'), name), { recursive: true, force: true });
  }

  /** Deletes what was removed and what {@link keep} kept. */
  deleteAll(): void {
    for (const name of ['trees', 'shadow']) rmSync(this.#own(name), { recursive: true, force: true });
    this.emptyTrash();
  }

  /** Writes down what was relocated, so that also a build that is killed leaves mounts that can be put back. */
  saveRelocations(): void {
    const { relocations } = this.#territory;
    if (relocations.length > 0) writeFileSync(this.#own('relocations.json'), JSON.stringify(relocations));
  }

  #savedRelocations(): Relocation[] {
    try {
      return JSON.parse(readFileSync(this.#own('relocations.json'), 'utf8')) as Relocation[];
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT' || error instanceof SyntaxError) return [];
      throw error;
    }
  }

  /** Puts directories with mounts back to where they were. */
  #restore(relocations: readonly Relocation[]): void {
    const place = (path: string): Buffer => Buffer.from(`${this.#root}/${path}`, 'latin1');
    for (const { from, to } of relocations.toReversed()) {
      if (lstatSync(place(to), { throwIfNoEntry: false }) === undefined) continue;
      const parent = from.slice(0, Math.max(0, from.lastIndexOf('/')));
      if (lstatSync(place(parent), { throwIfNoEntry: false })?.isDirectory() !== true) {
        rmSync(place(parent), { force: true });
        mkdirSync(place(parent), { recursive: true, mode: 0o755 });
      }
      renameSync(place(to), place(from));
    }
    rmSync(this.#own('relocations.json'), { force: true });
  }

  #setAside(target: string): void {
    const mover = new Mover(this.#territory, target);
    mover.move();
    const shadow = this.#own('shadow');
    for (const path of this.#territory.exclusions) mover.moveShadow(path);
    mover.setTimes();
    rmSync(shadow, { recursive: true, force: true });
    mkdirSync(shadow, { mode: 0o755 });
    this.#territory.prepare();
  }
}

/** Moves a tree into a directory. What cannot be moved because it leads to an excluded path is made there again. */
class Mover {
  readonly #territory: Territory;
  readonly #target: string;
  readonly #times: [place: Buffer, modified: bigint][] = [];

  constructor(territory: Territory, target: string) {
    this.#territory = territory;
    this.#target = Buffer.from(target).toString('latin1');
  }

  #to(path: string): Buffer {
    return Buffer.from(path === '' ? this.#target : `${this.#target}/${path}`, 'latin1');
  }

  move(): void {
    this.#again('');
    this.#reset('');
  }

  #content(directory: string): void {
    const excluded = this.#territory.excludedNames(directory);
    for (const name of readdirSync(this.#territory.bytes(directory), { encoding: 'latin1' }))
      if (!excluded.includes(name)) this.#entry(childPath(directory, name));
  }

  #entry(path: string): void {
    const place = this.#territory.bytes(path);
    if (this.#territory.leadsToExclusion(path)) {
      this.#again(path);
      this.#reset(path);
      return;
    }
    try {
      renameSync(place, this.#to(path));
    } catch (error) {
      // A directory of the container's own image cannot be renamed on its overlay, what is in it can.
      if (systemErrorCode(error) !== 'EXDEV' || !lstatSync(place).isDirectory()) throw error;
      this.#again(path);
      rmdirSync(place);
    }
  }

  /** Makes a directory again in the target, and moves what is in it. */
  #again(path: string): void {
    const [source, target] = [this.#territory.bytes(path), this.#to(path)];
    const stat = lstatSync(source, { bigint: true });
    mkdirSync(target, 0o755);
    this.#content(path);
    if (this.#territory.isScaffold(path) && readdirSync(target).length === 0) {
      rmdirSync(target);
      return;
    }
    chownSync(target, Number(stat.uid), Number(stat.gid));
    chmodSync(target, Number(stat.mode) & 0o7777);
    for (const [name, value] of imageXattrs(source)) setXattr(target, name, value);
    this.#times.push([target, stat.mtimeNs]);
  }

  /** A directory that stays is that of the container again, whatever the image made of it. */
  #reset(path: string): void {
    const place = this.#territory.bytes(path);
    for (const name of imageXattrs(place).keys()) removeXattr(place, name);
    chownSync(place, 0, 0);
    chmodSync(place, 0o755);
  }

  /** What the tree has at an excluded path. */
  moveShadow(path: string): void {
    const place = this.#territory.bytes(path);
    if (lstatSync(place, { throwIfNoEntry: false }) === undefined) return;
    const target = this.#to(path);
    // The directory that it lies in need not be the tree's own.
    mkdirSync(dirname(target.toString('latin1')), { recursive: true, mode: 0o755 });
    renameSync(place, target);
  }

  /** Moving things changes the times of what they lie in. */
  setTimes(): void {
    for (const [place, modified] of this.#times.reverse()) setTimes(place, modified, modified);
  }
}
