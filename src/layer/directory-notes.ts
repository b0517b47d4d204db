import { type Owner, setTimes } from '../os/index.ts';
import { systemErrorCode } from '../support/index.ts';
import { setGroupId } from './entry-attributes.ts';

/**
 * What the writer of a tree remembers of directories: which times to set when everything in them is made, and which of them
 * no entry describes.
 */
export class DirectoryNotes {
  readonly #times = new Map<string, bigint>();
  readonly #implied = new Set<string>();
  /** Those with the set-group-id bit: what is made in them belongs to their group at first (inode(7)). */
  readonly #groups = new Set<string>();

  /** Made only because something lies in it. */
  implied(path: string): void {
    this.#implied.add(path);
  }

  /** An entry says what it is. @param modified in nanoseconds since the epoch. */
  described(path: string, modified: bigint): void {
    this.#implied.delete(path);
    this.#times.set(path, modified);
  }

  /** Was there, and is what it was unless an entry says otherwise. */
  found(path: string, modified: bigint): void {
    if (!this.#times.has(path)) this.#times.set(path, modified);
  }

  setMode(path: string, mode: number): void {
    if ((mode & setGroupId) === 0) this.#groups.delete(path);
    else this.#groups.add(path);
  }

  /** Whether what root makes at a path belongs to root as it is, and is to. */
  givesToRoot(path: string, { uid, gid }: Owner): boolean {
    const parent = path.slice(0, Math.max(0, path.lastIndexOf('/')));
    return uid === 0 && gid === 0 && !this.#groups.has(parent);
  }

  /** It is gone, with all that was in it. A link in its place must not be followed. */
  removed(path: string): void {
    const isGone = (other: string): boolean => other === path || other.startsWith(`${path}/`);
    for (const other of [...this.#times.keys()].filter(isGone)) this.#times.delete(other);
    for (const other of [...this.#implied].filter(isGone)) this.#implied.delete(other);
  }

  /** The directories that no entry described, sorted. */
  get undescribed(): string[] {
    return [...this.#implied].sort();
  }

  /** Sets the times, which everything made in the directories changed. @param place where a path is. */
  setTimes(place: (path: string) => Buffer): void {
    for (const [path, modified] of this.#times) {
      try {
        setTimes(place(path), modified, modified);
      } catch (error) {
        // A whiteout may have removed it.
        if (systemErrorCode(error) !== 'ENOENT') throw error;
      }
    }
  }
}
