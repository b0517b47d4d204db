import { BuildError, UsageError } from '../support/index.ts';

/** Lines after the one of an error in which its word is looked for: instructions go over several. */
const searchedLines = 40;
const longestLine = 160;

/**
 * Runs `work`; an error that names a line of the Dockerfile is given that line with a mark under what is wrong.
 *
 * @param file how errors call the Dockerfile.
 */
export function withExcerpt<Result>(file: string, source: readonly string[], work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    throw addExcerpt(file, source, error);
  }
}

/** The error with an excerpt, when it is one of a line of the Dockerfile and has none. */
export function addExcerpt(file: string, source: readonly string[], error: unknown): unknown {
  if (!(error instanceof BuildError || error instanceof UsageError) || error.excerpt !== undefined)
    return error;
  const [named, number] = splitWhere(error.where ?? '');
  if (named !== file || source[number - 1] === undefined) return error;
  const { message, code, remedy, where, subject, cause } = error;
  const excerpt = excerptOf(source, number, subject);
  const options = { code, remedy, where, subject, excerpt, cause };
  return error instanceof BuildError ? new BuildError(message, options) : new UsageError(message, options);
}

function splitWhere(where: string): [string, number] {
  const match = /^(.*):([0-9]+)$/.exec(where);
  return [match?.[1] ?? '', Number(match?.[2] ?? 0)];
}

/** One line of a text and below it carets under `subject`, or under its first word when that is not found. */
export function excerptOf(source: readonly string[], line: number, subject: string | undefined): string {
  const found = find(source, line, subject) ?? firstWord(source, line);
  const number = String(found.line).padStart(5);
  // Tabs are kept in the margin, so that the carets stand under what they mark.
  const margin = found.text.slice(0, found.column).replace(/[^\t]/g, ' ');
  return [
    `${number} | ${clean(found.text)}`,
    `${' '.repeat(number.length)} | ${margin}${'^'.repeat(Math.max(1, found.length))}`,
  ].join('\n');
}

interface Found {
  readonly line: number;
  readonly text: string;
  readonly column: number;
  readonly length: number;
}

function find(source: readonly string[], line: number, subject: string | undefined): Found | undefined {
  if (subject === undefined || subject === '') return undefined;
  for (const [index, whole] of source.slice(line - 1, line - 1 + searchedLines).entries()) {
    const text = whole.slice(0, longestLine);
    const column = text.indexOf(subject);
    const word = subject.trimStart();
    // A blank before the subject says that it begins a word; it is not marked.
    if (column >= 0)
      return { line: line + index, text, column: column + subject.length - word.length, length: word.length };
  }
  return undefined;
}

function firstWord(source: readonly string[], line: number): Found {
  const text = (source[line - 1] ?? '').slice(0, longestLine);
  const match = /^(\s*)(\S*)/.exec(text);
  return { line, text, column: match?.[1]?.length ?? 0, length: match?.[2]?.length ?? 0 };
}

/** Control characters of a Dockerfile must not reach a terminal. */
function clean(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f]/g, '?');
}
