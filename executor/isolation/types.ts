import type { Digest } from '../../src/oci/index.ts';
import type { CopyRequest, SourceQuery } from '../context/index.ts';

/** A command to run in a root file system. */
export interface RunStep {
  readonly argv: readonly string[];
  /** HOME is added from the user's account when it is missing. */
  readonly env: Readonly<Record<string, string>>;
  readonly workingDirectory: string;
  /** As in USER: empty, a name or id, optionally with a group. */
  readonly user: string;
  /** The Dockerfile and line, for messages. */
  readonly where: string;
}

export interface RunResult {
  readonly exitCode: number;
  /** The signal that ended the command, when one did. */
  readonly signal: string | null;
}

/** Files to copy from: a directory outside, or a stack of layers (another stage), lowest first. */
export type CopySource =
  { readonly kind: 'directory' } | { readonly kind: 'layers'; readonly layers: readonly string[] };

/** What one step changed, as an overlayfs upper directory and what lies below it. */
export interface SealedStep {
  readonly upper: string;
  /** Nearest first. */
  readonly lowers: readonly string[];
  /** Paths made only to mount something on. */
  readonly mountPoints: readonly string[];
}

export interface RunOptions {
  readonly onOutput: (stream: 'stdout' | 'stderr', data: Uint8Array) => void;
  /** Told when the command's process exists. */
  readonly onStarted?: () => void;
  readonly signal?: AbortSignal | undefined;
}

/** The file system of a stage while it is built, between two layers. */
export interface Rootfs extends AsyncDisposable {
  /** Runs a command. @throws BuildError when it cannot be started; an exit code is a result. */
  run(step: RunStep, options: RunOptions): Promise<RunResult>;
  /**
   * Carries out COPY or ADD; for `layers` the request's root is replaced by the mounted stack.
   *
   * @returns what `copyInto` does: the stamp of what was copied.
   */
  copy(source: CopySource, request: CopyRequest, signal?: AbortSignal): Promise<string>;
  /** Makes a directory with its parents (WORKDIR); one that is there stays as it is. */
  makeDirectory(path: string, user: string, where: string, signal?: AbortSignal): Promise<void>;
  /** Ends the layer: what changed since the last seal. Later steps go to the next one. */
  seal(): Promise<SealedStep>;
}

/** A way to run steps apart from the host. */
export interface Isolation {
  readonly name: string;
  /** @throws EnvironmentError `E_ISOLATION_…` naming exactly what is missing. */
  preflight(scratch: string): Promise<void>;
  /** A root file system over layers (lowest first), with its own files in `scratch`. */
  openRootfs(layers: readonly string[], scratch: string): Promise<Rootfs>;
  /** The content digest of files in a stack of layers, owners counting. */
  digestSources(
    layers: readonly string[],
    query: SourceQuery,
    options: { readonly modes: boolean },
    scratch: string,
    signal?: AbortSignal,
  ): Promise<Digest>;
}
