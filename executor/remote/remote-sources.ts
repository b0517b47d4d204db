import type { Digest } from '../../src/oci/index.ts';
import { hideCredentials } from '../../src/support/index.ts';
import { type GitSource, type HttpSource, type RemoteSource } from './addresses.ts';
import type { GitTrees } from './git-trees.ts';
import type { HttpFiles } from './http-files.ts';

/** What a remote source is now: known to its last byte, but not necessarily here. */
export interface ResolvedRemote {
  /** What of it counts in a key: its content, not where it is from. */
  readonly identity: RemoteIdentity;
  /** Brings it here. @returns the file, or the directory that holds the tree. */
  fetch(): Promise<string>;
}

export type RemoteIdentity =
  | { readonly kind: 'http'; readonly name: string; readonly digest: Digest }
  | {
      readonly kind: 'git';
      readonly commit: string;
      readonly directory: string;
      readonly submodules: boolean;
      readonly commitTimes: boolean;
      /** With its `.git`, which tells where it is from. */
      readonly repository: string | null;
    };

/** Files and repositories that ADD names; each is asked for once a build, however many steps name it. */
export class RemoteSources {
  readonly #files: HttpFiles;
  readonly #trees: GitTrees;
  readonly #resolved = new Map<string, Promise<ResolvedRemote>>();

  constructor(files: HttpFiles, trees: GitTrees) {
    this.#files = files;
    this.#trees = trees;
  }

  /** @param where the Dockerfile and line. @throws BuildError `E_ADD_…`, `E_GIT_…`. */
  resolve(source: RemoteSource, where: string, signal?: AbortSignal): Promise<ResolvedRemote> {
    const key = JSON.stringify(source);
    const known = this.#resolved.get(key);
    if (known !== undefined) return known;
    const resolved =
      source.kind === 'http' ? this.#file(source, where, signal) : this.#tree(source, where, signal);
    this.#resolved.set(key, resolved);
    return resolved;
  }

  async #file(source: HttpSource, where: string, signal?: AbortSignal): Promise<ResolvedRemote> {
    const { digest, path } = await this.#files.identify(source, where, signal);
    const fetch = once(async () => path ?? this.#files.fetch(source, digest, where, signal));
    return { identity: { kind: 'http', name: source.name, digest }, fetch };
  }

  async #tree(source: GitSource, where: string, signal?: AbortSignal): Promise<ResolvedRemote> {
    const revision = await this.#trees.identify(source, where, signal);
    const { directory, submodules, commitTimes, keepGitDir } = source;
    const { object, tagged, ref = null } = revision;
    // A tag's own object is of interest only where it is kept.
    const commit = keepGitDir ? object : (tagged ?? object);
    const repository = keepGitDir ? `${hideCredentials(source.remote)} ${ref ?? ''}` : null;
    return {
      identity: { kind: 'git', commit, directory, submodules, commitTimes, repository },
      fetch: once(() => this.#trees.checkOut(source, revision, where, signal)),
    };
  }
}

function once<Value>(work: () => Promise<Value>): () => Promise<Value> {
  let result: Promise<Value> | undefined;
  return () => (result ??= work());
}
