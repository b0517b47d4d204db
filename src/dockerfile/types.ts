/** A here-document of RUN, COPY or ADD (Dockerfile reference, "Here-Documents"). */
export interface Heredoc {
  /** The word after `<<`, without quotes. */
  readonly name: string;
  /** The body, every line with its line feed. */
  readonly content: string;
  /** False when the word was quoted: variables in the body are then left alone. */
  readonly expand: boolean;
}

interface Located {
  /** First and last line in the Dockerfile, counted from 1. */
  readonly line: number;
  readonly endLine: number;
  /** The instruction as written, continuation lines joined. */
  readonly original: string;
}

/** A command in shell form (one text) or exec form (a list of arguments). */
export type Command =
  | { readonly form: 'shell'; readonly command: string }
  | { readonly form: 'exec'; readonly command: readonly string[] };

export interface Assignment {
  readonly name: string;
  readonly value: string;
}

export interface FromInstruction extends Located {
  readonly kind: 'from';
  readonly image: string;
  readonly alias: string | undefined;
  readonly platform: string | undefined;
}

export interface RunInstruction extends Located {
  readonly kind: 'run';
  readonly command: Command;
  readonly heredocs: readonly Heredoc[];
}

export interface CopyInstruction extends Located {
  readonly kind: 'copy' | 'add';
  readonly sources: readonly string[];
  /** Sources given as here-documents: files of that name and content. */
  readonly heredocs: readonly Heredoc[];
  readonly destination: string;
  readonly from: string | undefined;
  readonly chown: string | undefined;
  readonly chmod: string | undefined;
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
  readonly escape: string;
  /** ARGs before the first FROM. */
  readonly metaArgs: readonly ArgInstruction[];
  readonly stages: readonly Stage[];
}
