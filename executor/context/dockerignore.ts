import { BuildError } from '../../src/support/index.ts';

/** Decides which files of a context are left out. Plain data that can be posted to a worker. */
export type IgnoreRules = readonly string[];

/**
 * Reads the patterns of a `.dockerignore` (Docker's documentation, ".dockerignore files").
 *
 * @param file how messages call it.
 * @throws BuildError `E_DOCKERIGNORE_SYNTAX` for a pattern that is none, with its line.
 */
export function parseDockerignore(text: string, file: string): IgnoreRules {
  const rules: string[] = [];
  for (const [index, line] of text
    .replace(/^\uFEFF/, '')
    .split('\n')
    .entries()) {
    if (line.startsWith('#')) continue;
    const rule = parseRule(line);
    if (rule === undefined)
      throw new BuildError(`"${line.trim()}" is not a pattern`, {
        code: 'E_DOCKERIGNORE_SYNTAX',
        where: `${file}:${index + 1}`,
        remedy: 'Write a backslash before a [ or \\ that stands for itself.',
      });
    if (rule !== '') rules.push(rule);
  }
  return rules;
}

/**
 * Reads the patterns of `--exclude`, which are those of a `.dockerignore`, relative to each source.
 *
 * @param where the Dockerfile and line.
 * @throws BuildError `E_DOCKERFILE_SYNTAX` for a pattern that is none.
 */
export function parseExcludes(patterns: readonly string[], where: string): IgnoreRules {
  return patterns.flatMap((pattern) => {
    const rule = parseRule(pattern);
    if (rule === undefined)
      throw new BuildError(`"${pattern}" is not a pattern`, {
        code: 'E_DOCKERFILE_SYNTAX',
        where,
        subject: pattern,
        remedy: 'Write a backslash before a [ or \\ that stands for itself.',
      });
    return rule === '' ? [] : [rule];
  });
}

/** A pattern in its clean form; empty when it says nothing, undefined when it is malformed. */
function parseRule(text: string): string | undefined {
  const trimmed = text.trim();
  const inverted = trimmed.startsWith('!');
  const pattern = clean(trimmed.slice(inverted ? 1 : 0).trim());
  if (trimmed === '!' || !isPattern(pattern)) return undefined;
  return pattern === '' ? '' : (inverted ? '!' : '') + pattern;
}

/** Go's filepath.Clean, without a leading slash. */
function clean(pattern: string): string {
  const parts: string[] = [];
  for (const part of pattern.split('/')) {
    if (part === '' || part === '.') continue;
    if (part === '..' && parts.length > 0 && parts.at(-1) !== '..') parts.pop();
    else parts.push(part);
  }
  return parts.join('/');
}

/** The compiled form of {@link IgnoreRules}; the last rule that matches a path or one of its parents decides. */
export class Ignore {
  readonly #rules: readonly { readonly inverted: boolean; readonly expression: RegExp }[];
  readonly #hasExceptions: boolean;

  constructor(rules: IgnoreRules) {
    this.#rules = rules.map((rule) => {
      const inverted = rule.startsWith('!');
      return {
        inverted,
        expression: expressionOf(patternSource(inverted ? rule.slice(1) : rule, true), '(?:/.*)?'),
      };
    });
    this.#hasExceptions = this.#rules.some(({ inverted }) => inverted);
  }

  /** True when the path (relative, with `/`) is left out of the context. */
  excludes(path: string): boolean {
    let excluded = false;
    for (const { inverted, expression } of this.#rules)
      if (inverted === excluded && expression.test(path)) excluded = !inverted;
    return excluded;
  }

  /** True when nothing below an excluded directory can be wanted after all. */
  prunes(directory: string): boolean {
    return !this.#hasExceptions && this.excludes(directory);
  }
}

/**
 * Whether rules leave a path of the context out together with all that may be below it. With exceptions among the rules
 * nothing is certain.
 */
export function isIgnoredForCertain(rules: IgnoreRules, path: string): boolean {
  return new Ignore(rules).prunes(path);
}

/** Whether a pattern is one of Go's filepath.Match: brackets closed, escapes complete. */
function isPattern(pattern: string): boolean {
  return patternSource(pattern, true) !== undefined;
}

/** The expression for one component of a path. A malformed pattern matches nothing, as with BuildKit. */
export function componentExpression(pattern: string): RegExp {
  return expressionOf(patternSource(pattern, false), '');
}

function expressionOf(source: string | undefined, tail: string): RegExp {
  return new RegExp(`^${source ?? '(?!)'}${tail}$`, 'su');
}

/**
 * Turns a pattern of Go's filepath.Match (and `**`, when `deep`) into the source of a regular expression with the flags
 * `s` and `u`; undefined when it is malformed.
 */
function patternSource(pattern: string, deep: boolean): string | undefined {
  let source = '';
  for (let at = 0; at < pattern.length; at++) {
    const character = pattern[at] ?? '';
    if (deep && pattern.startsWith('**', at)) {
      const first = at === 0;
      at += pattern[at + 2] === '/' ? 2 : 1;
      source += anyDepth(pattern.slice(at + 1), first && pattern[at] !== '/');
    } else if (character === '*') source += '[^/]*';
    else if (character === '?') source += '[^/]';
    else if (character === '\\') {
      if (at + 1 === pattern.length) return undefined;
      source += escapeCharacter(pattern[++at] ?? '');
    } else if (character === '[') {
      const group = classAt(pattern, at);
      if (group === undefined) return undefined;
      source += group.source;
      at = group.end;
    } else source += escapeCharacter(character);
  }
  return source;
}

/** What `**` stands for, by what follows it: as Docker's matcher has it, which Go's has not. */
function anyDepth(rest: string, leading: boolean): string {
  if (rest === '' || (leading && !/[*?[\]\\]/.test(rest))) return '.*';
  return '(?:.*/)?';
}

/** A character class. Go allows neither an empty one, nor `-` and `]` unescaped in one. */
function classAt(pattern: string, start: number): { source: string; end: number } | undefined {
  const match = /^\[(\^?)((?:[^\]\\-]|\\[^])(?:-(?:[^\]\\-]|\\[^]))?)+\]/u.exec(pattern.slice(start));
  if (match === null) return undefined;
  const inside = match[0].slice(1 + (match[1] ?? '').length, -1);
  const source = inside.replace(/\\([^])|([^\\-])/gu, (_all, escaped?: string, plain?: string) =>
    (escaped ?? plain ?? '').replace(/[\\\]^[-]/, '\\$&'),
  );
  return { source: `[${match[1] ?? ''}${source}]`, end: start + match[0].length - 1 };
}

function escapeCharacter(character: string): string {
  return character.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&');
}
