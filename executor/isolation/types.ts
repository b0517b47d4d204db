import type { CapturedLayer, CompressedOutput, LayerFacts, LayerSource } from '../../src/layer/index.ts';
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
  /** `none`: a network of its own, in which there is nobody. */
  readonly network: 'default' | 'none';
  /** The Dockerfile and line, for messages. */
  readonly where: string;
}

/** Something that one command alone sees, in place of what is at a path. It and what is written to it are in no layer. */
export type StepMount = { readonly target: string } & (
  | {
      readonly kind: 'tree';
      readonly source: CopySource;
      /** What of the source; its root is replaced as in {@link Rootfs.copy}. */
      readonly query: SourceQuery;
      /** The same as a path in the source. */
      readonly path: string;
      /** What is written to others is thrown away. */
      readonly readOnly: boolean;
    }
  /** A directory that keeps what the command writes. */
  | { readonly kind: 'cache'; readonly directory: string; readonly readOnly: boolean }
  /** Undefined size: as much as there is. */
  | { readonly kind: 'tmpfs'; readonly size: number | undefined }
  | ({ readonly kind: 'file'; readonly content: Uint8Array } & StepFileOwner)
  | ({
      readonly kind: 'socket';
      /** Listens at a path that is not there yet, until what it gives is disposed. */
      readonly listen: (path: string) => Promise<AsyncDisposable>;
    } & StepFileOwner)
);

/** Of a file that a step is given. */
export interface StepFileOwner {
  /** Permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

export interface RunResult {
  readonly exitCode: number;
  /** The signal that ended the command, when one did. */
  readonly signal: string | null;
  /** What a command that failed may have missed here. */
  readonly hint?: string;
}

/** What a command came to, and for each mount of a directory outside the stamp of what it saw, as `copyInto` gives it. */
export interface MountedRunResult extends RunResult {
  readonly stamps: readonly (string | undefined)[];
}

/** The layers of a stage, and the forms in which a backend can have them. Nothing is unpacked before it is asked for. */
export interface LayerStack {
  /** Unpacked in overlayfs form, lowest first; each once, since overlayfs refuses one twice. */
  directories(): Promise<string[]>;
  /** As layers that can be applied to a tree, lowest first. */
  sources(): Promise<LayerSource[]>;
}

/** Files to copy from: a directory outside, or what another stage or an image has. */
export type CopySource =
  { readonly kind: 'directory' } | { readonly kind: 'layers'; readonly layers: LayerStack };

/** Where the files of a step are for the steps and stages that stand on it. */
export type StepFiles =
  | { readonly kind: 'upper'; readonly directory: string }
  /** Undefined when the step changed nothing. */
  | { readonly kind: 'captured'; readonly layer: CapturedLayer | undefined };

/** What one step changed. It stays as it is while later steps run. */
export interface SealedStep {
  readonly files: StepFiles;
  /** Writes it as a layer; undefined when nothing changed. @throws BuildError `E_RESERVED_NAME`. */
  write(output: CompressedOutput, signal?: AbortSignal): Promise<LayerFacts | undefined>;
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
  run(step: RunStep, mounts: readonly StepMount[], options: RunOptions): Promise<MountedRunResult>;
  /**
   * Carries out COPY or ADD; for `layers` the request's root is replaced by where their files are.
   *
   * @returns what `copyInto` does: the stamp of what was copied.
   */
  copy(source: CopySource, request: CopyRequest, signal?: AbortSignal): Promise<string>;
  /** Makes a directory with its parents (WORKDIR); one that is there stays as it is. */
  makeDirectory(path: string, user: string, where: string, signal?: AbortSignal): Promise<void>;
  /** Ends the layer: what changed since the last seal. Later steps go to the next one. */
  seal(): Promise<SealedStep>;
}

export interface RootfsOptions {
  /** A directory for the backend's own files. */
  readonly scratch: string;
  /** Whether other stages copy from what this one ends up as. */
  readonly isSource: boolean;
  /** Whether its layer, made on nothing, is to lie on others that it hides nothing of. */
  readonly isMergeable: boolean;
  /** No time in its layers is later, in seconds since 1970; undefined: there is no limit. */
  readonly clampTime: number | undefined;
  /** Absolute paths that are in none of its layers, with all that is below them. */
  readonly ignored: readonly string[];
  readonly signal?: AbortSignal | undefined;
}

/** A way to run steps apart from the host. */
export interface Isolation extends AsyncDisposable {
  readonly name: string;
  /** Whether all stages have the same root, so that only one of them can have its root file system open. */
  readonly isExclusive: boolean;
  /** @throws EnvironmentError `E_ISOLATION_…` naming exactly what is missing. */
  preflight(scratch: string): Promise<void>;
  /** A root file system over layers. Waits for others where it {@link isExclusive}. */
  openRootfs(layers: LayerStack, options: RootfsOptions): Promise<Rootfs>;
  /** The content digest of files in a stack of layers, owners counting. */
  digestSources(
    layers: LayerStack,
    query: SourceQuery,
    options: { readonly modes: boolean },
    scratch: string,
    signal?: AbortSignal,
  ): Promise<Digest>;
  /** Copies files to a directory that belongs to no stage. The request's destination is a path in it. */
  gather(
    source: CopySource,
    request: CopyRequest,
    directory: string,
    scratch: string,
    signal?: AbortSignal,
  ): Promise<void>;
}
