import { chmodSync, lstatSync, mkdirSync } from 'node:fs';
import { type BytePath, ownerOf, pathBuffer, setOwner, setTimes, setXattr, toBytePath } from '../os/index.ts';
import { childPath } from './clear-tree.ts';
import { isOpaque, lookBelow } from './diff.ts';
import { sameXattrs } from './entries.ts';
import { imageXattrs } from './xattrs.ts';

/** A layer as a lower directory of an overlay. */
export interface UnpackedTree {
  readonly path: string;
  /** Directories in it that are there only for what is in them (latin1, relative); `''` is the root. */
  readonly implied: readonly string[];
}

/**
 * Makes a lower directory with the attributes that directories of a stack of layers have.
 *
 * A layer may have `tmp/x` and say nothing of `tmp`. Unpacked into one tree after the other, `/tmp` stays what it was;
 * but on an overlay the nearest directory gives the attributes, and that of this layer was only made for what is in it.
 * So above them all goes one in which such directories have the attributes of the nearest layer that describes them.
 *
 * @param stack lowest first.
 * @param target a directory to create.
 * @returns false when there is no need, and nothing was made.
 */
export function makeAttributeLayer(stack: readonly UnpackedTree[], target: string): boolean {
  const finder = new AttributeFinder(stack);
  const wrong = [...new Set(stack.flatMap(({ implied }) => implied))].filter((path) => finder.isWrong(path));
  if (wrong.length === 0) return false;
  const paths = [...new Set(wrong.flatMap(withParents))].sort();
  const root = toBytePath(target);
  const made = paths.map((path) => {
    const place = pathBuffer(path === '' ? root : `${root}/${path}`);
    mkdirSync(place, 0o755);
    return { place, modified: copyAttributes(finder.describing(path), place) };
  });
  for (const { place, modified } of made.toReversed())
    if (modified !== undefined) setTimes(place, modified, modified);
  return true;
}

/** A path and all that lead to it, the root first. */
function withParents(path: string): string[] {
  const parts = path.split('/');
  return ['', ...parts.map((_, index) => parts.slice(0, index + 1).join('/'))];
}

/** @returns the time to set in the end; undefined when the directory is as good as any that was made. */
function copyAttributes(from: BytePath | undefined, place: Buffer): bigint | undefined {
  chmodSync(place, 0o755);
  if (from === undefined) return undefined;
  const source = pathBuffer(from);
  const stat = lstatSync(source, { bigint: true });
  setOwner(place, ownerOf(source, stat));
  chmodSync(place, Number(stat.mode) & 0o7777);
  for (const [name, value] of imageXattrs(source)) setXattr(place, name, value);
  return stat.mtimeNs;
}

/** Finds what gives a directory of a stack of layers its attributes. */
class AttributeFinder {
  /** Nearest first. */
  readonly #layers: readonly BytePath[];
  readonly #implied: ReadonlySet<BytePath>;

  constructor(stack: readonly UnpackedTree[]) {
    this.#layers = stack.map(({ path }) => toBytePath(path)).reverse();
    this.#implied = new Set(
      stack.flatMap(({ path, implied }) => implied.map((name) => below(toBytePath(path), name))),
    );
  }

  /** Whether an overlay of the layers shows other attributes than those of the nearest layer that describes the directory. */
  isWrong(path: string): boolean {
    const [nearest] = this.#candidates(path);
    const describing = this.describing(path);
    if (nearest === undefined || describing === undefined || nearest === describing) return false;
    // The time of the root is that of the last change in it, in every build.
    return path !== '' || !sameAttributes(nearest, describing);
  }

  /** The directory of the nearest layer that describes it; undefined when none does. */
  describing(path: string): BytePath | undefined {
    return this.#candidates(path).find((directory) => !this.#implied.has(directory));
  }

  /**
   * The directories of layers at a path, nearest first; none when an overlay shows something else there. A mark that
   * hides what is in those below says nothing of what the directory is.
   */
  #candidates(path: string): readonly BytePath[] {
    return this.#lookUp(path, (directory) => !this.#implied.has(directory) && isOpaque(directory));
  }

  #lookUp(path: string, hides: (directory: BytePath) => boolean): readonly BytePath[] {
    if (path === '') return this.#layers;
    const slash = path.lastIndexOf('/');
    const parents = this.#lookUp(path.slice(0, Math.max(0, slash)), isOpaque);
    const { nearest, directories } = lookBelow(parents, path.slice(slash + 1), hides);
    return nearest === directories[0] ? directories : [];
  }
}

function below(directory: BytePath, name: string): BytePath {
  return name === '' ? directory : childPath(directory, name);
}

function sameAttributes(a: BytePath, b: BytePath): boolean {
  const [left, right] = [pathBuffer(a), pathBuffer(b)];
  const [leftStat, rightStat] = [lstatSync(left), lstatSync(right)];
  const [leftOwner, rightOwner] = [ownerOf(left, leftStat), ownerOf(right, rightStat)];
  return (
    leftStat.mode === rightStat.mode &&
    leftOwner.uid === rightOwner.uid &&
    leftOwner.gid === rightOwner.gid &&
    sameXattrs(imageXattrs(left), imageXattrs(right))
  );
}
