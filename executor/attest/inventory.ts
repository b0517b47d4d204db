import { type Layer, opaqueName, scanLayer, type TarEntry, whiteoutPrefix } from '../../src/layer/index.ts';
import {
  type Distribution,
  type FoundPackage,
  packageFileAt,
  readRelease,
  releaseFiles,
  unreadDatabase,
} from './packages.ts';

/** What was found in the final root file system of an image. */
export interface PackageInventory {
  readonly packages: readonly FoundPackage[];
  readonly distribution: Distribution | undefined;
  /** What is not in it although it is there, in words. */
  readonly omissions: readonly string[];
}

/** Of an image that has more packages, or files that tell of some, the rest is left out and said to be. */
const mostPackages = 50_000;
/** Names and versions that are longer are none. */
const longestName = 300;

/** What one file told, or that it could not be read. */
interface Found {
  readonly packages: readonly FoundPackage[];
  readonly distribution?: Distribution | undefined;
  readonly omission?: string | undefined;
}

/**
 * Finds packages by reading all layers once, the lowest first, and taking back what a layer above deletes or replaces.
 * Memory grows with the packages that are found, not with files or layers.
 *
 * @throws what reading a layer throws.
 */
export async function findPackages(
  layers: readonly Layer[],
  signal?: AbortSignal,
): Promise<PackageInventory> {
  const tree = new FoundTree();
  for (const layer of layers) {
    tree.nextLayer();
    await scanLayer(
      layer,
      {
        entry: (entry) => tree.enter(entry),
        content: ({ path }, content) => tree.read(normalized(path), content),
      },
      signal,
    );
  }
  return tree.inventory();
}

class FoundTree {
  readonly #found = new Map<string, Found & { readonly layer: number }>();
  /** Paths of files that were found, by each directory above them. */
  readonly #below = new Map<string, Set<string>>();
  #layer = 0;
  #isFull = false;

  nextLayer(): void {
    this.#layer += 1;
  }

  /** @returns how many bytes of the file are wanted. */
  enter({ path: bytes, type }: TarEntry): number {
    const path = normalized(bytes);
    const slash = path.lastIndexOf('/');
    const [directory, name] = [path.slice(0, Math.max(slash, 0)), path.slice(slash + 1)];
    if (name === opaqueName) this.#removeBelow(directory, this.#layer);
    else if (name.startsWith(whiteoutPrefix))
      this.#remove(join(directory, name.slice(whiteoutPrefix.length)), this.#layer);
    else if (type === 'directory') this.#found.delete(path);
    else {
      this.#remove(path);
      if (type === 'file') return this.#wanted(path);
    }
    return 0;
  }

  read(path: string, content: Buffer | undefined): void {
    if (content === undefined) {
      this.#add(path, { packages: [], omission: `/${path} is too large to be read` });
      return;
    }
    if (releaseFiles.test(path)) this.#add(path, { packages: [], distribution: readRelease(content) });
    else this.#add(path, { packages: packageFileAt(path)?.read(content, path) ?? [] });
  }

  inventory(): PackageInventory {
    const all = [...this.#found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, found]) => found);
    const packages = all.flatMap((found) => found.packages);
    const omissions = new Set(all.flatMap(({ omission }) => omission ?? []));
    if (packages.length > mostPackages || this.#isFull)
      omissions.add(`there are more packages than ${mostPackages}`);
    return {
      packages: packages.slice(0, mostPackages),
      // That of /etc is a link to the other, or comes first.
      distribution: all.find(({ distribution }) => distribution !== undefined)?.distribution,
      omissions: [...omissions],
    };
  }

  #wanted(path: string): number {
    const database = unreadDatabase(path);
    if (database !== undefined)
      this.#add(path, {
        packages: [],
        omission: `packages of ${database} are not listed: /${path} is not read`,
      });
    if (releaseFiles.test(path)) return 65_536;
    return packageFileAt(path)?.limit ?? 0;
  }

  #add(path: string, found: Found): void {
    if (this.#found.size >= mostPackages) {
      this.#isFull = true;
      return;
    }
    const packages = found.packages.filter(
      ({ name, version }) => Math.max(name.length, version.length) <= longestName,
    );
    this.#found.set(path, { ...found, packages, layer: this.#layer });
    for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1)) {
      const directory = path.slice(0, end);
      const paths = this.#below.get(directory);
      if (paths === undefined) this.#below.set(directory, new Set([path]));
      else paths.add(path);
    }
  }

  /** @param layer takes back only what is from layers below this one: whiteouts do not hide what is beside them. */
  #remove(path: string, layer = Infinity): void {
    const found = this.#found.get(path);
    if (found !== undefined && found.layer < layer) this.#found.delete(path);
    this.#removeBelow(path, layer);
  }

  #removeBelow(directory: string, layer: number): void {
    const paths = directory === '' ? [...this.#found.keys()] : (this.#below.get(directory) ?? []);
    for (const path of paths)
      if ((this.#found.get(path)?.layer ?? Infinity) < layer) this.#found.delete(path);
  }
}

/** A path as `a/b`, however a tar file writes it. */
function normalized(path: Buffer): string {
  return path
    .toString('utf8')
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .join('/');
}

function join(directory: string, name: string): string {
  return directory === '' ? name : `${directory}/${name}`;
}
