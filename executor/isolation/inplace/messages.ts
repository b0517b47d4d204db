import type { CapturedLayer, LayerSource } from '../../../src/layer/index.ts';
import type { CopyRequest, SourceQuery } from '../../context/index.ts';
import type { RunStep, StepFileOwner } from '../types.ts';
import type { SlateOptions } from './slate.ts';

/** What the thread that owns the root is started with. */
export type RootOptions = SlateOptions;

/** What the thread that owns the root can be asked. */
export type RootTask =
  /** Makes the root the tree of these layers. @see InplaceRoot.open */
  | { readonly kind: 'open'; readonly layers: readonly LayerSource[]; readonly isSource: boolean }
  | { readonly kind: 'close' }
  /** Makes a tree of layers aside. Answers with its path. */
  | { readonly kind: 'tree'; readonly layers: readonly LayerSource[]; readonly scratch: string }
  | { readonly kind: 'copy'; readonly source: string | undefined; readonly request: CopyRequest }
  | { readonly kind: 'mkdir'; readonly path: string; readonly user: string; readonly where: string }
  | {
      readonly kind: 'digest';
      readonly tree: string;
      readonly query: SourceQuery;
      readonly modes: boolean;
    }
  /** Answers with a CapturedLayer, or nothing when nothing changed. */
  | { readonly kind: 'snapshot'; readonly capture: Capture }
  /** A copy onto nothing. Answers with {@link LinkedCopy}. */
  | {
      readonly kind: 'link';
      readonly source: string | undefined;
      readonly request: CopyRequest;
      readonly capture: Capture;
    }
  /** A copy to a directory beside the root. */
  | {
      readonly kind: 'gather';
      readonly source: string | undefined;
      readonly request: CopyRequest;
      readonly directory: string;
    }
  /** Puts what a step alone sees in the place of what is there. Answers with {@link PlacedMounts}. */
  | { readonly kind: 'place'; readonly mounts: readonly RootMount[]; readonly where: string }
  /** Puts back what was there. */
  | { readonly kind: 'unplace' }
  /** Says that a step that the thread does not see is about to change the root. Answers with {@link StepView}. */
  | { readonly kind: 'step'; readonly workingDirectory: string }
  | { readonly kind: 'finish'; readonly isDeleting: boolean };

/** Something that a step alone sees. */
export type RootMount = { readonly target: string } & (
  | { readonly kind: 'tree'; readonly query: SourceQuery; readonly keepOwners: boolean }
  | { readonly kind: 'cache'; readonly directory: string; readonly readOnly: boolean }
  | { readonly kind: 'tmpfs' }
  | ({ readonly kind: 'file'; readonly content: Uint8Array } & StepFileOwner)
  | { readonly kind: 'socket' }
);

/** For each mount, in their order. */
export interface PlacedMounts {
  /** Where it really is. */
  readonly paths: readonly string[];
  /** Of directories outside, what `copyInto` gave. */
  readonly stamps: readonly (string | undefined)[];
}

/** Where a layer is set down, and how. */
export interface Capture {
  readonly output: string;
  /** No modification time is later, in seconds since the epoch. */
  readonly clampTime: number | undefined;
  /** Absolute paths that are not in it. */
  readonly ignored: readonly string[];
}

/** What a copy onto nothing gave. */
export interface LinkedCopy {
  /** What `copyInto` gave. */
  readonly stamp: string;
  readonly layer: CapturedLayer | undefined;
}

export interface RootRequest {
  readonly id: number;
  readonly task: RootTask;
}

export type RootAnswer =
  | { readonly id: number; readonly result: unknown; readonly problems: Problems }
  | { readonly id: number; readonly error: unknown };

/** What of the layers could not be made for lack of a capability. */
export interface Problems {
  readonly nodes: readonly string[];
  readonly attributes: readonly string[];
}

/** How the root looks to a step, where that is not how the image is. */
export interface StepView {
  /** The path of the container that the working directory lies in, when it lies in one. */
  readonly foreignDirectory: string | undefined;
  /** Paths of the container at which the image has something that the step cannot see. */
  readonly hidden: readonly string[];
}

/** The task of the thread that runs one step. */
export interface StepTask {
  readonly step: RunStep;
}
