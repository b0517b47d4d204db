import type { MountFields } from './mounts.ts';

/** A here-document of RUN, COPY or ADD (Dockerfile reference, "Here-Documents"). */
export interface Heredoc {
  /** The word after `<<`, without quotes. */
  readonly name: string;
  /** The body as written, every line with its line feed. */
  readonly content: string;
  /** Opened by `<<-`: tabs at the beginning of its lines are not part of it. */
  readonly chomp: boolean;
  /** False when the word was quoted: variables in the body are then left alone. */
  readonly expand: boolean;
}

interface Located {
  /** First and last line in the Dockerfile, counted from 1. */
  readonly line: number;
  readonly endLine: number;
  /** The instruction as written, continuation lines joined. */
  readonly original: string;
  /** Its first word as written. */
  readonly word: string;
  /** The comments right before it. */
  readonly comments: readonly string[];
  /** It is not of the Dockerfile, but left by ONBUILD in what a stage is made from; its line is that of the FROM. */
  readonly isTrigger?: true;
}

/** A command in shell form (one text) or exec form (a list of arguments). */
export type Command =
  | { readonly form: 'shell'; readonly command: string }
  | { readonly form: 'exec'; readonly command: readonly string[] };

export interface Assignment {
  readonly name: string;
  readonly value: string;
  /** In the old form, `ENV name value`. */
  readonly legacy: boolean;
}

export interface FromInstruction extends Located {
  readonly kind: 'from';
  readonly image: string;
  /** The stage's name in lower case. */
  readonly alias: string | undefined;
  /** The words after the image as written: `AS` and the name. */
  readonly as: readonly [string, string] | undefined;
  readonly platform: string | undefined;
}

export interface RunInstruction extends Located {
  readonly kind: 'run';
  readonly command: Command;
  readonly heredocs: readonly Heredoc[];
  readonly mounts: readonly MountFields[];
  readonly network: NetworkMode;
  readonly security: SecurityMode;
  readonly devices: readonly string[];
}

/** Values of `RUN --network` and `RUN --security` (Dockerfile reference). */
export const networkModes = ['default', 'none', 'host'] as const;
export type NetworkMode = (typeof networkModes)[number];
export const securityModes = ['sandbox', 'insecure'] as const;
export type SecurityMode = (typeof securityModes)[number];

export interface CopyInstruction extends Located {
  readonly kind: 'copy' | 'add';
  readonly sources: readonly string[];
  /** Sources given as here-documents: files of that name and content. */
  readonly heredocs: readonly Heredoc[];
  readonly destination: string;
  readonly from: string | undefined;
  readonly chown: string | undefined;
  readonly chmod: string | undefined;
  /** The layer does not depend on what is below it. */
  readonly link: boolean;
  /** COPY: the directories of the sources are kept. */
  readonly parents: boolean;
  /** Patterns of what is left out. */
  readonly excludes: readonly string[];
  /** ADD: digest of a remote file, or the commit of a repository. */
  readonly checksum: string | undefined;
  /** ADD: whether `.git` of a repository stays; undefined when it is not said. */
  readonly keepGitDir: boolean | undefined;
  /** ADD: whether archives are unpacked; undefined for what the kind of source has by default. */
  readonly unpack: boolean | undefined;
}

export interface EnvInstruction extends Located {
  readonly kind: 'env';
  readonly variables: readonly Assignment[];
}

export interface ArgInstruction extends Located {
  readonly kind: 'arg';
  readonly arguments: readonly { readonly name: string; readonly value: string | undefined }[];
}

export interface LabelInstruction extends Located {
  readonly kind: 'label';
  readonly labels: readonly Assignment[];
}

export interface ValueInstruction extends Located {
  readonly kind: 'workdir' | 'user' | 'stopsignal' | 'maintainer';
  readonly value: string;
}

export interface WordsInstruction extends Located {
  readonly kind: 'expose' | 'volume';
  readonly words: readonly string[];
}

export interface CommandInstruction extends Located {
  readonly kind: 'cmd' | 'entrypoint';
  readonly command: Command;
}

export interface ShellInstruction extends Located {
  readonly kind: 'shell';
  readonly words: readonly string[];
}

export interface HealthcheckInstruction extends Located {
  readonly kind: 'healthcheck';
  /** Undefined for NONE. */
  readonly command: Command | undefined;
  /** Nanoseconds, as the image configuration has them. */
  readonly interval?: number;
  readonly timeout?: number;
  readonly startPeriod?: number;
  readonly startInterval?: number;
  readonly retries?: number;
}

export interface OnBuildInstruction extends Located {
  readonly kind: 'onbuild';
  /** The text of the instruction to run in images made FROM this one. */
  readonly trigger: string;
}

export type Instruction =
  | RunInstruction
  | CopyInstruction
  | EnvInstruction
  | ArgInstruction
  | LabelInstruction
  | ValueInstruction
  | WordsInstruction
  | CommandInstruction
  | ShellInstruction
  | HealthcheckInstruction
  | OnBuildInstruction;

export interface Stage {
  readonly index: number;
  /** In lower case; undefined for a stage without a name. */
  readonly name: string | undefined;
  readonly from: FromInstruction;
  readonly instructions: readonly Instruction[];
}

export interface Dockerfile {
  /** How messages call the file. */
  readonly file: string;
  /** Its lines as written, for messages. */
  readonly source: readonly string[];
  readonly escape: string;
  /** The text of the `# check` directive. */
  readonly check: { readonly text: string; readonly line: number } | undefined;
  /** Lines with nothing on them between continuation lines. */
  readonly emptyContinuations: readonly number[];
  /** ARGs before the first FROM. */
  readonly metaArgs: readonly ArgInstruction[];
  readonly stages: readonly Stage[];
}
