import { BuildError } from '../support/index.ts';
import type { Heredoc } from './types.ts';

/** One instruction of the file: its continuation lines joined, its here-documents read. */
export interface LogicalLine {
  readonly text: string;
  readonly line: number;
  readonly endLine: number;
  readonly heredocs: readonly Heredoc[];
}

export interface SplitFile {
  readonly escape: string;
  readonly lines: readonly LogicalLine[];
}

const directive = /^#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$/;
const heredocWord = /(?:^|\s|[0-9])<<(-?)\s*(?:"([^"\s]+)"|'([^'\s]+)'|([A-Za-z0-9_./\\-]+))/g;

/**
 * Splits a Dockerfile into instructions: parser directives, comments, continuation lines, here-documents
 * (Dockerfile reference, "Format" and "Parser directives").
 *
 * @throws BuildError `E_DOCKERFILE_SYNTAX` for a bad escape directive or an unterminated here-document.
 */
export function splitLines(text: string, file: string): SplitFile {
  const physical = text
    .replace(/^\uFEFF/, '')
    .split('\n')
    .map((line) => line.replace(/\r$/, ''));
  if (physical.at(-1) === '') physical.pop();
  const { escape, next } = readDirectives(physical, file);
  const lines: LogicalLine[] = [];
  for (let at = next; at < physical.length;) {
    const start = at;
    const joined = joinContinuations(physical, at, escape);
    at = joined.next;
    const trimmed = joined.text.trim();
    if (trimmed === '') continue;
    const heredocs: Heredoc[] = [];
    for (const opening of openings(trimmed)) {
      const read = readHeredoc(physical, at, opening);
      if (read === undefined)
        throw new BuildError(`here-document ${opening.name} is not ended`, {
          code: 'E_DOCKERFILE_SYNTAX',
          where: `${file}:${start + 1}`,
          remedy: `Add a line with only ${opening.name} after its text.`,
        });
      heredocs.push(read.heredoc);
      at = read.next;
    }
    lines.push({ text: trimmed, line: start + 1, endLine: at, heredocs });
  }
  return { escape, lines };
}

function readDirectives(physical: readonly string[], file: string): { escape: string; next: number } {
  let escape = '\\';
  let next = 0;
  const seen = new Set<string>();
  for (; next < physical.length; next++) {
    const match = directive.exec((physical[next] ?? '').trim());
    const name = match?.[1]?.toLowerCase();
    if (match === null || name === undefined || !['syntax', 'escape', 'check'].includes(name)) break;
    if (seen.has(name))
      throw new BuildError(`the directive "${name}" is given twice`, {
        code: 'E_DOCKERFILE_SYNTAX',
        where: `${file}:${next + 1}`,
      });
    seen.add(name);
    if (name !== 'escape') continue;
    const value = match[2] ?? '';
    if (value !== '\\' && value !== '`')
      throw new BuildError(`invalid escape character "${value}"`, {
        code: 'E_DOCKERFILE_SYNTAX',
        where: `${file}:${next + 1}`,
        remedy: 'The escape directive takes \\ or `.',
      });
    escape = value;
  }
  return { escape, next };
}

function joinContinuations(
  physical: readonly string[],
  start: number,
  escape: string,
): { text: string; next: number } {
  const ending = new RegExp(`${escape === '\\' ? '\\\\' : '`'}[ \\t]*$`);
  let text = '';
  let at = start;
  let continued = false;
  for (; at < physical.length; at++) {
    const line = physical[at] ?? '';
    // Comments, and (as every builder accepts with a warning) empty lines, may stand between continuation lines.
    if (/^\s*#/.test(line)) {
      if (continued) continue;
      return { text: '', next: at + 1 };
    }
    if (continued && line.trim() === '') continue;
    if (!ending.test(line)) return { text: text + line, next: at + 1 };
    text += line.replace(ending, '');
    continued = true;
  }
  return { text, next: at };
}

interface Opening {
  readonly name: string;
  readonly stripTabs: boolean;
  readonly expand: boolean;
}

/** The here-documents that an instruction opens; only RUN, COPY and ADD (also behind ONBUILD) can. */
function openings(text: string): Opening[] {
  if (!/^(?:onbuild\s+)?(?:run|copy|add)\s/i.test(text) || !text.includes('<<')) return [];
  const body = text.replace(/<<</g, '   ');
  return [...maskQuotes(body).matchAll(heredocWord)].map((match) => ({
    name: match[2] ?? match[3] ?? match[4] ?? '',
    stripTabs: match[1] === '-',
    expand: match[4] !== undefined,
  }));
}

/** Blanks out quoted text that has spaces, so that `<<` inside a quoted string opens nothing. */
function maskQuotes(text: string): string {
  return text.replace(/(?<!<<-?)(["'])(?:(?!\1).)*?\1/g, (quoted) => ' '.repeat(quoted.length));
}

function readHeredoc(
  physical: readonly string[],
  start: number,
  opening: Opening,
): { heredoc: Heredoc; next: number } | undefined {
  const body: string[] = [];
  for (let at = start; at < physical.length; at++) {
    const raw = physical[at] ?? '';
    const line = opening.stripTabs ? raw.replace(/^\t+/, '') : raw;
    if (line === opening.name) {
      const content = body.map((text) => `${text}\n`).join('');
      return { heredoc: { name: opening.name, content, expand: opening.expand }, next: at + 1 };
    }
    body.push(line);
  }
  return undefined;
}
