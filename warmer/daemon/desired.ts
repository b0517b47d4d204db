import type { Progress } from '../../src/support/index.ts';
import type { Configuration } from './configuration.ts';
import { configuredWishes, dockerfileWishes, mergeWishes, type Wish, type Wishes } from './wishes.ts';

/** What the configuration in force asks for: the images that it names and those that its Dockerfiles do. */
export class Desired {
  readonly #progress: Progress;
  #configured: readonly Wish[] = [];
  /** By path; what a Dockerfile named stays in force while it cannot be read. */
  readonly #dockerfiles = new Map<string, readonly Wish[]>();
  #problems: readonly string[] = [];

  constructor(progress: Progress) {
    this.#progress = progress;
  }

  /** Dockerfiles that could not be read, and why. */
  get problems(): readonly string[] {
    return this.#problems;
  }

  /** Takes a configuration over, reading its Dockerfiles anew. */
  async read(configuration: Configuration): Promise<void> {
    this.#configured = configuredWishes(configuration);
    const problems: string[] = [];
    const keys = new Set<string>();
    for (const [position, dockerfile] of configuration.dockerfiles.entries()) {
      const key = `${position} ${dockerfile.path}`;
      keys.add(key);
      const named = await dockerfileWishes(dockerfile);
      if ('wishes' in named) this.#dockerfiles.set(key, named.wishes);
      else problems.push(named.problem);
    }
    for (const key of this.#dockerfiles.keys()) if (!keys.has(key)) this.#dockerfiles.delete(key);
    for (const problem of problems)
      if (!this.#problems.includes(problem)) this.#progress.warn(`a Dockerfile is not used: ${problem}`);
    this.#problems = problems;
  }

  /** All wishes; those of a person come first. */
  wishes(...others: readonly (readonly Wish[])[]): Wishes {
    return mergeWishes(this.#configured, ...this.#dockerfiles.values(), ...others);
  }
}
