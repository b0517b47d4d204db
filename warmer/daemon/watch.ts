import { type FSWatcher, watch } from 'chokidar';
import { messageOf, type Progress } from '../../src/support/index.ts';
import type { Clock } from './clock.ts';

/** Changes within this time are one, in milliseconds: kubelet and editors write in several steps. */
const settleTime = 200;
/** For file systems that tell of no changes, such as those of a network; in milliseconds. */
const lookAnyway = 60_000;

export interface FileWatchParts {
  readonly clock: Clock;
  readonly progress: Progress;
  /** Called when files may have changed; whether they have is for the callee to see. */
  readonly onChange: () => void;
}

/**
 * Watches single files for changes of their content, also behind links that are replaced: kubelet renames `..data`, to
 * which the files of a ConfigMap are links. Files may be missing, and come later.
 */
export class FileWatch implements AsyncDisposable {
  readonly #parts: FileWatchParts;
  readonly #watcher: FSWatcher;
  #files: ReadonlySet<string> = new Set();
  #settling: Disposable | undefined;
  #looking: Disposable;

  constructor(parts: FileWatchParts) {
    this.#parts = parts;
    // A file that is found counts as changed: it may have been, since it was read and before the watch of it had begun.
    this.#watcher = watch([], { ignoreInitial: false, ignorePermissionErrors: true, depth: 0 });
    this.#watcher.on('all', () => this.#changed());
    this.#watcher.on('error', (error) =>
      parts.progress.warn(`files are only looked at once a minute: ${messageOf(error)}`),
    );
    this.#looking = this.#lookLater();
  }

  /** Watches exactly these files from now on. */
  follow(files: readonly string[]): void {
    const next = new Set(files);
    const gone = [...this.#files].filter((file) => !next.has(file));
    const added = files.filter((file) => !this.#files.has(file));
    this.#files = next;
    if (gone.length > 0) this.#watcher.unwatch(gone);
    if (added.length > 0) this.#watcher.add(added);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#settling?.[Symbol.dispose]();
    this.#looking[Symbol.dispose]();
    await this.#watcher.close();
  }

  #changed(): void {
    this.#settling?.[Symbol.dispose]();
    this.#settling = this.#parts.clock.after(settleTime, this.#parts.onChange);
  }

  #lookLater(): Disposable {
    return this.#parts.clock.after(lookAnyway, () => {
      this.#parts.onChange();
      this.#looking = this.#lookLater();
    });
  }
}
