import { BuildError } from '../support/index.ts';
import { type Directives, readDirectives } from './directives.ts';
import { findHeredocs, type HeredocOpening } from './heredocs.ts';
import type { Heredoc } from './types.ts';

/** One instruction of the file: its continuation lines joined, its here-documents read. */
export interface LogicalLine {
  readonly text: string;
  readonly line: number;
  readonly endLine: number;
  readonly heredocs: readonly Heredoc[];
  /** The comments right before it, without `#`; an empty comment cuts them off. */
  readonly comments: readonly string[];
  /** The first empty line between its continuation lines, which later versions of the language may refuse. */
  readonly emptyContinuation: number | undefined;
}

export interface SplitFile extends Directives {
  readonly instructions: readonly LogicalLine[];
}

const comment = /^\s*#/;

/**
 * Splits a Dockerfile into instructions: parser directives, comments, continuation lines, here-documents
 * (Dockerfile reference, "Format", "Parser directives", "Here-Documents").
 *
 * @throws BuildError `E_DOCKERFILE_SYNTAX` for wrong directives and for a here-document that does not end.
 */
export function splitLines(text: string, file: string): SplitFile {
  const physical = text.replace(/^\uFEFF/, '').split('\n');
  if (physical.at(-1) === '') physical.pop();
  const directives = readDirectives(physical, file);
  return { ...directives, instructions: new LineSplitter(physical, directives, file).run() };
}

class LineSplitter {
  readonly #physical: readonly string[];
  readonly #continuation: RegExp;
  readonly #file: string;
  #at: number;

  constructor(physical: readonly string[], directives: Directives, file: string) {
    this.#physical = physical;
    this.#file = file;
    this.#at = directives.lines;
    const escape = directives.escape === '\\' ? '\\\\' : '`';
    // An escaped escape character at the end of a line continues nothing.
    this.#continuation = new RegExp(`(?:^|([^${escape}]))${escape}[ \\t]*$`);
  }

  run(): LogicalLine[] {
    const instructions: LogicalLine[] = [];
    let comments: string[] = [];
    for (let line = this.#take(); line !== undefined; line = this.#take()) {
      const first = line.trimStart();
      if (comment.test(first)) {
        const said = first.slice(1).trim();
        if (said === '') comments = [];
        else comments.push(said);
        continue;
      }
      const instruction = this.#instruction(first, comments);
      if (instruction === undefined) continue;
      instructions.push(instruction);
      comments = [];
    }
    return instructions;
  }

  /** The next line without its ending. */
  #take(): string | undefined {
    return this.#physical[this.#at++]?.replace(/\r+$/, '');
  }

  /** The instruction that begins with a line that has been taken; undefined when there is nothing in it. */
  #instruction(first: string, comments: readonly string[]): LogicalLine | undefined {
    const line = this.#at;
    const joined = this.#join(first);
    const text = joined.text.trim();
    if (text === '') return undefined;
    const heredocs = mayHaveHeredocs(text)
      ? findHeredocs(text).map((opening) => this.#heredoc(opening, line))
      : [];
    const { emptyContinuation } = joined;
    return { text, line, endLine: this.#at, heredocs, comments, emptyContinuation };
  }

  #join(first: string): { text: string; emptyContinuation: number | undefined } {
    let text = '';
    let emptyContinuation: number | undefined;
    for (let line: string | undefined = first; line !== undefined;) {
      const continued = this.#continuation.test(line);
      text += continued ? line.replace(this.#continuation, '$1') : line;
      if (!continued) break;
      line = this.#take();
      while (line !== undefined && (comment.test(line) || line.trim() === '')) {
        if (line.trim() === '') emptyContinuation ??= this.#at;
        line = this.#take();
      }
    }
    this.#at = Math.min(this.#at, this.#physical.length);
    return { text, emptyContinuation };
  }

  #heredoc(opening: HeredocOpening, opened: number): Heredoc {
    let content = '';
    for (let line = this.#physical[this.#at++]; line !== undefined; line = this.#physical[this.#at++]) {
      const bare = line.replace(/\r+$/, '');
      if ((opening.chomp ? bare.replace(/^\t+/, '') : bare) === opening.name)
        return { name: opening.name, content, chomp: opening.chomp, expand: opening.expand };
      content += `${line}\n`;
    }
    throw new BuildError(`here-document ${opening.name} is not ended`, {
      code: 'E_DOCKERFILE_SYNTAX',
      where: `${this.#file}:${opened}`,
      remedy: `Add a line with only ${opening.name} after its text.`,
    });
  }
}

/** Only RUN, COPY and ADD, also behind ONBUILD, have here-documents, and not in their JSON form. */
function mayHaveHeredocs(text: string): boolean {
  const match = /^(?:onbuild\s+)?(?:run|copy|add)\s+([\s\S]*)$/i.exec(text);
  if (match === null || !text.includes('<<')) return false;
  const [, rest = ''] = match;
  return !isStringList(rest.replace(/^(?:--\S*\s+)*/, ''));
}

function isStringList(text: string): boolean {
  if (!text.startsWith('[')) return false;
  try {
    return Array.isArray(JSON.parse(text));
  } catch (error) {
    if (error instanceof SyntaxError) return false;
    throw error;
  }
}
