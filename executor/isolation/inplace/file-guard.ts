import { closeSync, constants, openSync, readdirSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileLease, releaseFileLease, takeFileLease } from '../../../src/os/index.ts';
import { systemErrorCode } from '../../../src/support/index.ts';

/** What must not happen to a file: `secret` ones are not to be read, `program` ones not to be written. */
export type GuardedKind = 'secret' | 'program';

interface GuardedFile {
  readonly path: string;
  readonly kind: GuardedKind;
  readonly fd: number;
  /** Given up for the executor's own sake, for as long as it has the file open. */
  isReleased: boolean;
}

const leaseOf = { secret: 'write', program: 'read' } as const;

/**
 * Keeps steps from opening files of the executor's, by leases: a step that tries waits in the kernel and has not got a
 * byte when it is ended. A process that may not mount has no other way to hide a file that is mounted in its container.
 */
export class FileGuard implements Disposable {
  readonly #files: GuardedFile[] = [];
  readonly #known = new Set<string>();
  readonly #unguarded: string[] = [];

  /**
   * Guards files; those that are not there need no guard.
   *
   * @param paths files, and directories with all files in them.
   */
  add(kind: GuardedKind, paths: Iterable<string>): void {
    for (const path of paths) for (const file of filesBelow(path)) this.#guard(kind, file);
  }

  #guard(kind: GuardedKind, path: string): void {
    // Looking at a file a second time would break the first lease.
    if (this.#known.has(path)) return;
    this.#known.add(path);
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return;
      this.#unguarded.push(path);
      return;
    }
    if (takeFileLease(fd, leaseOf[kind])) this.#files.push({ path, kind, fd, isReleased: false });
    else {
      closeSync(fd);
      this.#unguarded.push(path);
    }
  }

  /** Files that could not be guarded: other users', open elsewhere, or where the kernel knows no leases. */
  get unguarded(): readonly string[] {
    return this.#unguarded;
  }

  /** Files that somebody wants to open. */
  wanted(): { readonly path: string; readonly kind: GuardedKind }[] {
    return this.#files.filter(({ fd, kind, isReleased }) => !isReleased && fileLease(fd) !== leaseOf[kind]);
  }

  /** Stops guarding a file, so that who waits gets it. */
  release(path: string): void {
    for (const file of this.#files.filter((guarded) => guarded.path === path)) {
      releaseFileLease(file.fd);
      file.isReleased = true;
    }
  }

  /** Guards files again that were released, as soon as nobody has them open. */
  renew(): void {
    for (const file of this.#files)
      if (file.isReleased && takeFileLease(file.fd, leaseOf[file.kind])) file.isReleased = false;
  }

  [Symbol.dispose](): void {
    for (const { fd } of this.#files.splice(0)) closeSync(fd);
  }
}

/** The regular files at or below a path, links followed; each file once. */
function filesBelow(path: string): Set<string> {
  const files = new Set<string>();
  const visit = (place: string): void => {
    try {
      const stat = statSync(place);
      if (stat.isFile()) files.add(realpathSync(place));
      else if (stat.isDirectory()) for (const name of readdirSync(place)) visit(join(place, name));
    } catch (error) {
      // A dangling link, or a file that was replaced meanwhile.
      if (systemErrorCode(error) !== 'ENOENT') throw error;
    }
  };
  visit(path);
  return files;
}
