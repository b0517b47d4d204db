import type { HistoryEntry } from '../src/oci/index.ts';
import type { StageState } from './stage-state.ts';
import type { Origin, SharingMode } from '../src/dockerfile/index.ts';
import type { RemoteSource } from './remote/index.ts';

/** A step that may make a layer, everything about it resolved but the files. */
export type Operation =
  | {
      readonly kind: 'run';
      readonly argv: readonly string[];
      /** All that the command sees. */
      readonly env: Readonly<Record<string, string>>;
      /** What of it counts in the key. */
      readonly keyedEnv: Readonly<Record<string, string>>;
      /** The variables that are set by ARG and not by ENV. */
      readonly argumentNames: ReadonlySet<string>;
      readonly user: string;
      readonly workingDirectory: string;
      readonly mounts: readonly MountOperation[];
      /** A here-document that is run as a program, through a file that only this step sees. */
      readonly script: { readonly name: string; readonly content: string } | undefined;
      readonly network: 'default' | 'none';
    }
  | {
      readonly kind: 'copy';
      /** Undefined: the build context. */
      readonly from: Origin | undefined;
      readonly patterns: readonly string[];
      readonly remotes: readonly PlacedRemote[];
      readonly files: readonly { readonly name: string; readonly content: string }[];
      readonly destination: string;
      readonly chown: string | undefined;
      /** Permission bits, or a change of them as chmod(1) writes it. */
      readonly chmod: number | string | undefined;
      readonly unpackArchives: boolean;
      /** The layer is made on nothing, whatever is below it. */
      readonly link: boolean;
      readonly parents: boolean;
      readonly excludes: readonly string[];
    }
  | { readonly kind: 'workdir'; readonly path: string; readonly user: string };

/** The owner and the permission bits of what a mount makes; undefined: what it has by default. */
export interface MountOwner {
  readonly mode: number | undefined;
  readonly uid: number | undefined;
  readonly gid: number | undefined;
}

/** A `--mount` of a RUN. Targets are absolute, `source` is a path in what it is from, beginning with a slash. */
export type MountOperation =
  | {
      readonly type: 'bind';
      readonly target: string;
      /** Undefined: the build context. */
      readonly from: Origin | undefined;
      readonly source: string;
      readonly readOnly: boolean;
    }
  | ({
      readonly type: 'cache';
      readonly target: string;
      readonly id: string;
      readonly sharing: SharingMode;
      /** What a new cache begins with; undefined: nothing. */
      readonly from: Origin | undefined;
      readonly source: string;
      readonly readOnly: boolean;
    } & MountOwner)
  | { readonly type: 'tmpfs'; readonly target: string; readonly size: number | undefined }
  | ({
      readonly type: 'secret';
      readonly id: string;
      /** Undefined: there is no file. */
      readonly target: string | undefined;
      /** Undefined: there is no variable. */
      readonly env: string | undefined;
      readonly required: boolean;
    } & MountOwner)
  | ({
      readonly type: 'ssh';
      readonly id: string;
      readonly target: string;
      readonly required: boolean;
    } & MountOwner);

/** A source of ADD from elsewhere. */
export interface PlacedRemote {
  readonly source: RemoteSource;
  /** How many of the step's patterns come before it. */
  readonly after: number;
  /** An archive is unpacked. */
  readonly unpack: boolean;
}

export interface Step {
  /** As progress calls it: `[build 3/7]`. */
  readonly id: string;
  readonly line: number;
  /** `Dockerfile:12`. */
  readonly where: string;
  /** The instruction, for people. */
  readonly text: string;
  /** The instruction as it is written: no value of a variable is in it. */
  readonly written: string;
  readonly operation: Operation;
  readonly history: HistoryEntry;
  /** What the Dockerfile says of its caching. */
  readonly rule: StepRule;
}

/** What comments such as `# kiln: no-cache` say of the step below them. */
export interface StepRule {
  /** It is run in every build. */
  readonly noCache: boolean;
  /** In place of `--cache-ttl`. */
  readonly ttlSeconds: number | undefined;
}

/** One instruction carried out at planning time, or a step left to be. */
export type StageItem =
  | { readonly kind: 'metadata'; readonly history: HistoryEntry }
  | { readonly kind: 'step'; readonly step: Step };

/** A stage whose instructions are all understood. */
export interface InterpretedStage {
  readonly items: readonly StageItem[];
  readonly state: StageState;
}
