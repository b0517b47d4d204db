import { promises as files } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

/** What change of the file system fails, and how. */
export interface Failpoint {
  /** Counted from 1. */
  readonly number: number;
  /** `once`: this one alone fails. `crash`: no later one takes place either, as if the process were gone. */
  readonly mode: 'once' | 'crash';
  readonly code: 'EIO' | 'ENOSPC';
}

type Method = (...args: unknown[]) => Promise<unknown>;

const pathMethods = ['rename', 'unlink', 'rm', 'mkdir', 'writeFile', 'utimes', 'chmod'] as const;
const handleMethods = ['write', 'writeFile', 'sync', 'chmod', 'truncate'] as const;

/**
 * Lets changes of the file system fail in this process, as made through `node:fs/promises`; the code under test knows
 * nothing of it. What native modules and worker threads write is not counted.
 */
export class Failpoints implements Disposable {
  readonly #restore: (() => void)[] = [];
  #armed: Failpoint | undefined;
  #count = 0;

  private constructor() {
    // Created by `install`.
  }

  static async install(): Promise<Failpoints> {
    const failpoints = new Failpoints();
    const original = files as unknown as Record<string, Method>;
    for (const name of pathMethods) failpoints.#replace(original, name, () => true);
    // Opening for writing creates the file.
    failpoints.#replace(original, 'open', ([, flags]) => typeof flags === 'string' && flags !== 'r');
    await using handle = await open(import.meta.filename, 'r');
    const prototype = Object.getPrototypeOf(handle) as FileHandle & Record<string, Method>;
    for (const name of handleMethods) failpoints.#replace(prototype, name, () => true);
    syncBuiltinESMExports();
    return failpoints;
  }

  /** Runs `work` with a failpoint. @returns whether the failpoint was reached, and what the work ended with. */
  async run(point: Failpoint, work: () => Promise<unknown>): Promise<{ reached: boolean; error: unknown }> {
    this.#armed = point;
    this.#count = 0;
    try {
      await work();
      return { reached: this.#count >= point.number, error: undefined };
    } catch (error) {
      return { reached: this.#count >= point.number, error };
    } finally {
      this.#armed = undefined;
    }
  }

  [Symbol.dispose](): void {
    for (const restore of this.#restore.splice(0)) restore();
    syncBuiltinESMExports();
  }

  #replace(
    target: Record<string, Method>,
    name: string,
    changes: (args: readonly unknown[]) => boolean,
  ): void {
    const original = target[name] as Method;
    const check = (args: readonly unknown[]): void => {
      if (changes(args)) this.#check(name);
    };
    target[name] = async function (this: unknown, ...args: unknown[]) {
      check(args);
      return original.apply(this, args);
    };
    this.#restore.push(() => {
      target[name] = original;
    });
  }

  #check(name: string): void {
    const point = this.#armed;
    if (point === undefined) return;
    this.#count += 1;
    const fails = point.mode === 'once' ? this.#count === point.number : this.#count >= point.number;
    if (!fails) return;
    throw Object.assign(new Error(`${point.code}: injected failure, ${name}`), { code: point.code });
  }
}
