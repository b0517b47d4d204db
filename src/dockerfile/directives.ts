import { BuildError } from '../support/index.ts';

/** What the comments at the very beginning of a Dockerfile say (Dockerfile reference, "Parser directives"). */
export interface Directives {
  /** Character that escapes and that continues lines. */
  readonly escape: string;
  /** The image of another frontend that `# syntax` names; Kiln understands the language by itself. */
  readonly syntax: string | undefined;
  /** The text of `# check`. */
  readonly check: { readonly text: string; readonly line: number } | undefined;
  /** How many lines they take. */
  readonly lines: number;
}

const directive = /^#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$/;
const names = ['syntax', 'escape', 'check'];

/**
 * Reads the parser directives. Any other line, also a comment or an empty one, ends them.
 *
 * @throws BuildError `E_DOCKERFILE_SYNTAX` for one given twice and for an escape character that is none.
 */
export function readDirectives(physical: readonly string[], file: string): Directives {
  const found = new Map<string, { readonly text: string; readonly line: number }>();
  let lines = 0;
  for (; lines < physical.length; lines++) {
    const match = directive.exec((physical[lines] ?? '').trim());
    const name = match?.[1]?.toLowerCase();
    if (name === undefined || !names.includes(name)) break;
    const where = `${file}:${lines + 1}`;
    if (found.has(name))
      throw new BuildError(`the directive "${name}" is given twice`, {
        code: 'E_DOCKERFILE_SYNTAX',
        where,
        remedy: 'Remove one of them.',
      });
    const text = match?.[2] ?? '';
    if (name === 'escape' && text !== '\\' && text !== '`')
      throw new BuildError(`invalid escape character "${text}"`, {
        code: 'E_DOCKERFILE_SYNTAX',
        where,
        remedy: 'The escape directive takes \\ or `.',
      });
    found.set(name, { text, line: lines + 1 });
  }
  return {
    escape: found.get('escape')?.text ?? '\\',
    syntax: found.get('syntax')?.text,
    check: found.get('check'),
    lines,
  };
}
