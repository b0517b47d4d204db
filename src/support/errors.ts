/** Which exit code an error ends the process with (see docs/cli.md). */
export type ErrorCategory = 'build' | 'usage' | 'environment' | 'registry';

/** The process exit code of every {@link ErrorCategory}. */
export const exitCodes: Readonly<Record<ErrorCategory, number>> = {
  build: 1,
  usage: 2,
  environment: 3,
  registry: 4,
};

export interface KilnErrorOptions {
  /** Stable identifier, `E_` followed by capitals, for scripts and search engines. */
  readonly code: `E_${string}`;
  readonly category: ErrorCategory;
  /** What the user can do about it, as a sentence. */
  readonly remedy?: string | undefined;
  /** Where it happened: `Dockerfile:12`, an image reference, a path. */
  readonly where?: string | undefined;
  /** Of the text at `where`, the word that is wrong. */
  readonly subject?: string | undefined;
  /** The text at `where` with a mark under what is wrong, as lines to print. */
  readonly excerpt?: string | undefined;
  readonly cause?: unknown;
}

/** An error meant for a person: it says what failed, where, why, and what to do. */
export class KilnError extends Error {
  override readonly name: string = 'KilnError';
  readonly code: `E_${string}`;
  readonly category: ErrorCategory;
  readonly remedy: string | undefined;
  readonly where: string | undefined;
  readonly subject: string | undefined;
  readonly excerpt: string | undefined;

  constructor(message: string, options: KilnErrorOptions) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.code = options.code;
    this.category = options.category;
    this.remedy = options.remedy;
    this.where = options.where;
    this.subject = options.subject;
    this.excerpt = options.excerpt;
  }
}

/** The Dockerfile, context or command of the user is at fault, or a step failed. */
export class BuildError extends KilnError {
  override readonly name: string = 'BuildError';
  constructor(message: string, options: Omit<KilnErrorOptions, 'category'>) {
    super(message, { ...options, category: 'build' });
  }
}

/** The command line or configuration cannot be understood. */
export class UsageError extends KilnError {
  override readonly name: string = 'UsageError';
  constructor(
    message: string,
    options: Omit<KilnErrorOptions, 'category' | 'code'> & { code?: `E_${string}` },
  ) {
    super(message, { ...options, code: options.code ?? 'E_USAGE', category: 'usage' });
  }
}

/** The machine, pod or volume lacks something: rights, space, a file. */
export class EnvironmentError extends KilnError {
  override readonly name: string = 'EnvironmentError';
  constructor(message: string, options: Omit<KilnErrorOptions, 'category'>) {
    super(message, { ...options, category: 'environment' });
  }
}

/** Returns the `code` of a Node system error (`ENOENT`), or undefined. */
export function systemErrorCode(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') return error.code;
  return undefined;
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** True for the error an aborted operation rejects with. */
export function isAbortError(error: unknown): boolean {
  return error instanceof Error && (error.name === 'AbortError' || systemErrorCode(error) === 'ABORT_ERR');
}
