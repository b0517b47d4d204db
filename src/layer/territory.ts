import { mkdirSync } from 'node:fs';
import { type BytePath, pathBuffer, toBytePath } from '../os/index.ts';

export interface TerritoryOptions {
  /** The directory that is `/` of the tree. */
  readonly root: string;
  /** Absolute paths in the tree, as strings of UTF-8, that hold something else. */
  readonly exclusions?: readonly string[];
  /** Where what the tree has at excluded paths lies instead. Needed when there are exclusions. */
  readonly shadow?: string;
}

/** A directory with mounts in it that was moved. */
export interface Relocation {
  /** Paths in the tree. */
  readonly from: BytePath;
  readonly to: BytePath;
}

/**
 * Where the files of a tree are. Usually all lie below one directory. A tree that is unpacked over the root of a
 * container has paths that belong to the container: mounts, Kiln itself, the build context. What the image has there
 * lies in a directory aside, the shadow, and every path is looked up here before it is touched.
 *
 * Paths are relative, unless something else is said, and never hold `..`.
 */
export class Territory {
  readonly root: BytePath;
  /** What had to be moved so that something else could take its place, in order. */
  readonly relocations: Relocation[] = [];
  readonly #shadow: string | undefined;
  readonly #excluded = new Set<string>();
  /** Directories that lead to an excluded path, with the names of the excluded paths directly in them. */
  readonly #ancestors = new Map<string, string[]>();
  /** Those of them that are there for the excluded paths alone. */
  readonly #scaffold = new Set<string>();

  constructor(options: TerritoryOptions) {
    this.root = toBytePath(options.root).replace(/\/+$/, '');
    this.#shadow = options.shadow === undefined ? undefined : toBytePath(options.shadow);
    const paths = (options.exclusions ?? []).map((path) => toBytePath(path).replace(/^\/+|\/+$/g, '')).sort();
    for (const path of paths) this.#exclude(path);
    for (const directory of this.#ancestors.keys()) this.#scaffold.add(directory);
    this.#scaffold.delete('');
  }

  /**
   * Says that what leads to excluded paths was moved from one directory of the tree to another, the excluded paths with it.
   */
  moved(from: BytePath, to: BytePath, relocations: readonly Relocation[]): void {
    this.relocations.push(...relocations);
    const paths = this.exclusions.map((path) =>
      path.startsWith(`${from}/`) ? `${to}${path.slice(from.length)}` : path,
    );
    this.#excluded.clear();
    this.#ancestors.clear();
    for (const path of paths.sort()) this.#exclude(path);
    for (const directory of [...this.#scaffold]) {
      if (directory !== from && !directory.startsWith(`${from}/`)) continue;
      this.#scaffold.delete(directory);
      // The directory that they were moved into is the tree's own.
      if (directory !== from) this.#scaffold.add(`${to}${directory.slice(from.length)}`);
    }
    this.prepare();
  }

  #exclude(path: BytePath): void {
    if (path === '' || this.isExcluded(path)) return;
    this.#excluded.add(path);
    for (let [parent, name] = splitLast(path); ; [parent, name] = splitLast(parent)) {
      const inside = this.#ancestors.get(parent) ?? [];
      this.#ancestors.set(parent, inside);
      if (this.#excluded.has(join(parent, name))) inside.push(name);
      if (parent === '') return;
    }
  }

  /** The excluded paths, none of them inside another. */
  get exclusions(): readonly BytePath[] {
    return [...this.#excluded];
  }

  /** Makes the directories of the shadow that excluded paths lie in, so that they can be written like any others. */
  prepare(): void {
    for (const [directory, names] of this.#ancestors)
      if (names.length > 0)
        mkdirSync(pathBuffer(join(this.#shadow ?? '', directory)), { recursive: true, mode: 0o755 });
  }

  /** Whether a path is excluded, or lies below one that is. */
  isExcluded(path: BytePath): boolean {
    if (this.#excluded.size === 0) return false;
    for (let slash = path.indexOf('/'); slash >= 0; slash = path.indexOf('/', slash + 1))
      if (this.#excluded.has(path.slice(0, slash))) return true;
    return this.#excluded.has(path);
  }

  /** Whether a directory holds an excluded path, at any depth. It cannot be removed then. */
  leadsToExclusion(directory: BytePath): boolean {
    return this.#ancestors.has(directory);
  }

  /**
   * Whether a directory is there for an excluded path alone: the tree has none, unless something is put into it. It is
   * overlooked while it is empty.
   */
  isScaffold(directory: BytePath): boolean {
    return this.#scaffold.has(directory);
  }

  /** Says that the tree has a directory of its own where there was one for an excluded path. */
  adopt(directory: BytePath): void {
    this.#scaffold.delete(directory);
  }

  /** The names in a directory that are excluded: what the tree has of them lies in the shadow. */
  excludedNames(directory: BytePath): readonly BytePath[] {
    return this.#ancestors.get(directory) ?? [];
  }

  /** Where a path of the tree really is. */
  locate(path: BytePath): BytePath {
    return `${this.isExcluded(path) ? (this.#shadow ?? this.root) : this.root}/${path}`;
  }

  /** {@link locate} for Node's and libc's calls. */
  bytes(path: BytePath): Buffer {
    return pathBuffer(path === '' ? this.root || '/' : this.locate(path));
  }

  /** The path in the tree of a full path below the root, such as `/etc/hosts` when that is `/`. */
  relative(full: BytePath): BytePath {
    return full.slice(this.root.length).replace(/^\/+|\/+$/g, '');
  }

  /** {@link locate} for full paths below the root. */
  place(full: BytePath): BytePath {
    if (this.#excluded.size === 0) return full;
    const path = this.relative(full);
    return this.isExcluded(path) ? this.locate(path) : full;
  }
}

function join(directory: BytePath, name: BytePath): string {
  return directory === '' ? name : `${directory}/${name}`;
}

/** The directory and the last component of a relative path. */
function splitLast(path: BytePath): [directory: BytePath, name: BytePath] {
  const slash = path.lastIndexOf('/');
  return slash < 0 ? ['', path] : [path.slice(0, slash), path.slice(slash + 1)];
}
