import type { CopyRequest, SourceQuery } from '../context/index.ts';
import type { RunStep, StepFileOwner } from './types.ts';

/** Where a worker mounts what it works on; all of it in its own mount namespace. */
export interface OverlaySpace {
  /** A directory with the links `0`, `1`, … to the lower directories, nearest first, and `upper`, `work`, `merged`, `source`. */
  readonly directory: string;
  readonly lowerCount: number;
  /** Text for /etc/resolv.conf, /etc/hosts and /etc/hostname, as files in `directory`. */
  readonly files: readonly string[];
}

/** Files to copy from: a directory outside, or directories of layers, lowest first. */
export type MountedSource =
  { readonly kind: 'directory' } | { readonly kind: 'layers'; readonly layers: readonly string[] };

/** Something that a step alone sees. */
export type WorkerMount = { readonly target: string } & (
  | {
      readonly kind: 'tree';
      /** Of the links to its layers, nearest first, and the directories to mount them at: `m0-` for `m0-0`, `m0-merged`. */
      readonly prefix: string;
      readonly layerCount: number;
      readonly path: string;
      readonly treeName: string;
      readonly readOnly: boolean;
    }
  | { readonly kind: 'cache'; readonly directory: string; readonly readOnly: boolean }
  | { readonly kind: 'tmpfs'; readonly size: number | undefined }
  | ({ readonly kind: 'file'; readonly content: Uint8Array } & StepFileOwner)
  | { readonly kind: 'socket'; readonly path: string }
);

export type WorkerTask =
  | {
      readonly kind: 'run';
      readonly space: OverlaySpace;
      readonly step: RunStep;
      readonly mounts: readonly WorkerMount[];
    }
  /** Copies to a directory outside. Answers with {@link Gathered}. */
  | {
      readonly kind: 'gather';
      readonly space: OverlaySpace;
      readonly source: MountedSource;
      readonly request: CopyRequest;
      readonly directory: string;
    }
  | {
      readonly kind: 'copy';
      readonly space: OverlaySpace;
      readonly source: MountedSource;
      readonly request: CopyRequest;
    }
  | {
      readonly kind: 'mkdir';
      readonly space: OverlaySpace;
      readonly path: string;
      readonly user: string;
      readonly where: string;
    }
  | {
      readonly kind: 'digest';
      readonly space: OverlaySpace;
      readonly query: SourceQuery;
      readonly modes: boolean;
    }
  | { readonly kind: 'probe'; readonly space: OverlaySpace };

/** From the executor to a worker. */
export type ToWorker<Task> =
  | { readonly type: 'task'; readonly task: Task }
  | { readonly type: 'stop' }
  | { readonly type: 'taken'; readonly bytes: number };

/** From a worker to the executor. */
export type FromWorker =
  | { readonly type: 'started' }
  | { readonly type: 'output'; readonly stream: 'stdout' | 'stderr'; readonly data: Uint8Array }
  | { readonly type: 'exited' }
  | { readonly type: 'done'; readonly result: unknown; readonly mountPoints?: readonly string[] }
  | { readonly type: 'failed'; readonly error: unknown };
