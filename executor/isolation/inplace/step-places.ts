import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import {
  applyLayer,
  captureLayer,
  childPath,
  Territory,
  TreeChanges,
  TreeState,
  waitForLaterChanges,
} from '../../../src/layer/index.ts';
import {
  pathBuffer,
  pathText,
  resolveInRoot,
  setOwner,
  setTimes,
  toBytePath,
} from '../../../src/os/index.ts';
import { BuildError, EnvironmentError, randomName } from '../../../src/support/index.ts';
import { copyInto, type CopyRequest, matchSources, type SourceQuery } from '../../context/index.ts';
import { keepingTimes } from '../mounts.ts';
import type { PlacedMounts, RootMount } from './messages.ts';

/** Something of a step's in the place of what the image has there. */
interface Place {
  readonly mount: RootMount;
  /** Where it really is. */
  readonly path: string;
  readonly isDirectory: boolean;
  /** Directories and the place itself, made for it, the outermost first. */
  readonly made: readonly string[];
  /** Where what was there lies meanwhile; undefined when nothing was. */
  readonly aside: string | undefined;
  /** How a directory was that is there. */
  readonly before: ReturnType<typeof factsOf> | undefined;
  /** How a cache was when it was put there. */
  state?: TreeState;
}

export interface StepPlacesOptions {
  /** A directory of Kiln's own on the same file system as the root. */
  readonly work: string;
  /** Where the root's files are. */
  readonly territory: Territory;
  readonly where: string;
}

/**
 * Mounts of a step where nothing can be mounted: what the step is to see is put in the place of what is there, and afterwards
 * that is put back, so that the next look at the root finds what it was. Files are copied; what a step did to a cache is
 * carried over to where that is kept.
 */
export class StepPlaces {
  readonly #options: StepPlacesOptions;
  readonly #places: Place[] = [];

  private constructor(options: StepPlacesOptions) {
    this.#options = options;
  }

  /**
   * @throws BuildError `E_COPY_SOURCE_NOT_FOUND`, `E_MOUNT_TARGET`; EnvironmentError `E_INPLACE_PATH`. Nothing is left
   * in the place of anything then.
   */
  static async put(
    mounts: readonly RootMount[],
    options: StepPlacesOptions,
  ): Promise<{ places: StepPlaces; placed: PlacedMounts }> {
    const places = new StepPlaces(options);
    const paths = new Map<RootMount, string>();
    const stamps = new Map<RootMount, string>();
    try {
      // Directories come before what is put into them.
      for (const mount of mounts.toSorted((a, b) => (a.target < b.target ? -1 : 1))) {
        const { path, stamp } = await places.#put(mount);
        paths.set(mount, path);
        if (stamp !== undefined) stamps.set(mount, stamp);
      }
    } catch (error) {
      await places.remove();
      throw error;
    }
    return {
      places,
      placed: {
        paths: mounts.map((mount) => paths.get(mount) ?? mount.target),
        stamps: mounts.map((mount) => stamps.get(mount)),
      },
    };
  }

  /** Puts everything back, the last first. */
  async remove(): Promise<void> {
    for (let place = this.#places.pop(); place !== undefined; place = this.#places.pop()) {
      if (place.state !== undefined) await this.#keepCache(place, place.state);
      this.#putBack(place);
    }
  }

  async #put(mount: RootMount): Promise<{ path: string; stamp: string | undefined }> {
    const isDirectory = this.#isDirectory(mount);
    const place = this.#makeRoom(mount, isDirectory);
    this.#places.push(place);
    return { path: place.path, stamp: await this.#fill(place) };
  }

  #isDirectory(mount: RootMount): boolean {
    if (mount.kind === 'file' || mount.kind === 'socket') return false;
    if (mount.kind !== 'tree') return true;
    const [match] = matchSources(mount.query);
    if (match !== undefined) return match.stat.isDirectory();
    throw new BuildError(`"${mount.query.patterns[0] ?? ''}" is not in ${mount.query.treeName}`, {
      code: 'E_COPY_SOURCE_NOT_FOUND',
      where: this.#options.where,
      remedy: 'Check the path; it is relative to the root of that tree.',
    });
  }

  /** Moves aside what is at a target, or makes the target. */
  #makeRoom(mount: RootMount, isDirectory: boolean): Place {
    const { territory, work } = this.#options;
    const { path, stat } = resolveInRoot(territory.root || '/', mount.target, { followLast: true });
    const relative = territory.relative(toBytePath(path));
    const about = { mount, path, isDirectory };
    if (stat === undefined)
      return { ...about, made: this.#make(path, isDirectory, mount), aside: undefined, before: undefined };
    if (territory.isExcluded(relative)) throw this.#foreign(mount);
    if (stat.isDirectory() !== isDirectory) throw this.#wrongKind(mount, isDirectory);
    const aside = join(work, 'trash', randomName('aside-'));
    mkdirSync(aside, { recursive: true, mode: 0o700 });
    const place = { ...about, made: [], aside, before: isDirectory ? factsOf(path) : undefined };
    const from = toBytePath(path);
    if (isDirectory) moveContent(this.#names(from), from, toBytePath(aside));
    else keepingTimes(dirname(path), () => renameSync(path, join(aside, 'file')));
    return place;
  }

  #make(path: string, isDirectory: boolean, mount: RootMount): string[] {
    const missing = isDirectory ? [path] : [];
    let parent = dirname(path);
    for (; lstatSync(parent, { throwIfNoEntry: false }) === undefined; parent = dirname(parent))
      missing.unshift(parent);
    if (!lstatSync(parent).isDirectory()) throw this.#wrongKind(mount, isDirectory);
    for (const directory of missing) keepingTimes(dirname(directory), () => mkdirSync(directory, 0o755));
    return missing;
  }

  #foreign({ target }: RootMount): EnvironmentError {
    return new EnvironmentError(`nothing can be put at ${target}: it belongs to this container`, {
      code: 'E_INPLACE_PATH',
      where: this.#options.where,
      remedy: 'Give another target, mount what is there somewhere else, or build with --isolation overlay.',
    });
  }

  #wrongKind({ target }: RootMount, isDirectory: boolean): BuildError {
    return new BuildError(
      `nothing can be mounted at ${target}: it is no ${isDirectory ? 'directory' : 'file'}`,
      {
        code: 'E_MOUNT_TARGET',
        where: this.#options.where,
        remedy: 'Give another target, or make it what is mounted there in an earlier step.',
      },
    );
  }

  /** The names in a directory of the root without the container's own. */
  #names(directory: string): string[] {
    const { territory } = this.#options;
    return readdirSync(pathBuffer(directory), { encoding: 'latin1' }).filter((name) => {
      const relative = territory.relative(childPath(directory, name));
      return !territory.isExcluded(relative) && !territory.leadsToExclusion(relative);
    });
  }

  async #fill(place: Place): Promise<string | undefined> {
    const { mount, path } = place;
    switch (mount.kind) {
      case 'tree': {
        const { keepOwners, query } = mount;
        const stamp = await this.#copy(place, query, keepOwners);
        if (place.isDirectory) giveTo(path, { uid: 0, gid: 0, mode: 0o755 });
        return stamp;
      }
      case 'cache': {
        const { directory } = mount;
        const query = { root: directory, patterns: ['.'], ignore: [], where: '', treeName: 'the cache' };
        await this.#copy(place, query, true);
        giveTo(path, factsOf(directory));
        if (mount.readOnly) return undefined;
        place.state = TreeState.read(this.#cacheTerritory(place));
        waitForLaterChanges(this.#options.work, place.state.newestChange);
        return undefined;
      }
      case 'tmpfs':
        giveTo(path, { uid: 0, gid: 0, mode: 0o1777 });
        return undefined;
      case 'file':
        keepingTimes(dirname(path), () => {
          writeFileSync(path, mount.content, { flag: 'wx', mode: 0o600 });
        });
        giveTo(path, mount);
        return undefined;
      case 'socket':
        return undefined;
    }
  }

  #copy({ path, isDirectory }: Place, query: SourceQuery, keepOwners: boolean): Promise<string> {
    const request: CopyRequest = {
      query,
      files: [],
      destination: isDirectory ? '/' : `/${path.slice(path.lastIndexOf('/') + 1)}`,
      chown: undefined,
      chmod: undefined,
      keepOwners,
      unpackArchives: false,
      where: this.#options.where,
    };
    if (isDirectory) return copyInto(path, request);
    const directory = dirname(path);
    const { accessed, modified } = factsOf(directory);
    return copyInto(directory, request).finally(() => setTimes(directory, accessed, modified));
  }

  /** A cache in its place, without mounts of the container in it. */
  #cacheTerritory({ path }: Place): Territory {
    const { territory, work } = this.#options;
    const prefix = `${territory.relative(toBytePath(path))}/`;
    const exclusions = territory.exclusions
      .filter((excluded) => excluded.startsWith(prefix))
      .map((excluded) => pathText(excluded.slice(prefix.length)));
    return new Territory({ root: path, exclusions, shadow: join(work, 'none') });
  }

  /** Carries over what a step changed in a cache. What others changed in it meanwhile stays. */
  async #keepCache(place: Place, state: TreeState): Promise<void> {
    const { mount } = place;
    if (mount.kind !== 'cache') return;
    const territory = this.#cacheTerritory(place);
    const changes = new TreeChanges(state, TreeState.read(territory, { previous: state }));
    const output = join(this.#options.work, 'trash', randomName('cache-'));
    mkdirSync(dirname(output), { recursive: true, mode: 0o700 });
    try {
      const layer = captureLayer(changes.entries(territory), output);
      if (layer === undefined) return;
      const { diffID, file } = layer;
      const source = { kind: 'archive', diffID, file, compression: 'none' } as const;
      await applyLayer(new Territory({ root: mount.directory }), source);
    } finally {
      rmSync(output, { force: true });
    }
  }

  #putBack({ path, isDirectory, made, aside, before }: Place): void {
    if (aside === undefined) {
      if (!isDirectory) keepingTimes(dirname(path), () => rmSync(path, { recursive: true, force: true }));
      else this.#empty(path);
      // In a cache the place of another mount stays, as it does where it is really mounted.
      if (!this.#isInCache(path)) this.#unmake(made);
      return;
    }
    if (before === undefined)
      keepingTimes(dirname(path), () => {
        rmSync(path, { recursive: true, force: true });
        renameSync(join(aside, 'file'), path);
      });
    else {
      // A step may have removed what it had mounted: elsewhere it could not.
      if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory() !== true)
        keepingTimes(dirname(path), () => {
          rmSync(path, { recursive: true, force: true });
          mkdirSync(path);
        });
      this.#empty(path);
      const kept = readdirSync(aside, { encoding: 'latin1' });
      moveContent(kept, toBytePath(aside), toBytePath(path));
      giveTo(path, before);
      setTimes(path, before.accessed, before.modified);
    }
    rmdirSync(aside);
  }

  #isInCache(path: string): boolean {
    return this.#places.some(
      ({ mount, path: other }) => mount.kind === 'cache' && path.startsWith(`${other}/`),
    );
  }

  #empty(path: string): void {
    if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) return;
    const directory = toBytePath(path);
    for (const name of this.#names(directory))
      rmSync(pathBuffer(`${directory}/${name}`), { recursive: true, force: true });
  }

  /** Removes directories that were made for a place, unless a step has put something into them. */
  #unmake(made: readonly string[]): void {
    for (const directory of made.toReversed()) {
      const stat = lstatSync(directory, { throwIfNoEntry: false });
      if (stat?.isDirectory() !== true || readdirSync(directory).length > 0) continue;
      keepingTimes(dirname(directory), () => rmdirSync(directory));
    }
  }
}

function moveContent(names: readonly string[], from: string, to: string): void {
  for (const name of names) renameSync(pathBuffer(`${from}/${name}`), pathBuffer(`${to}/${name}`));
}

interface Facts {
  readonly uid: number;
  readonly gid: number;
  readonly mode: number;
}

function factsOf(path: string): Facts & { readonly accessed: bigint; readonly modified: bigint } {
  const { uid, gid, mode, atimeNs, mtimeNs } = lstatSync(path, { bigint: true });
  return {
    uid: Number(uid),
    gid: Number(gid),
    mode: Number(mode) & 0o7777,
    accessed: atimeNs,
    modified: mtimeNs,
  };
}

function giveTo(path: string, { uid, gid, mode }: Facts): void {
  setOwner(path, { uid, gid });
  chmodSync(path, mode & 0o7777);
}
