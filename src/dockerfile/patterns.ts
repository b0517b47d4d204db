/*
 * Patterns of `${name#pattern}` and its kin: `*` and `?` as in the shell (POSIX, "Pattern Matching Notation"), without
 * bracket expressions, as BuildKit has them.
 */

export interface PatternOptions {
  /** `*` takes as much as it can. */
  readonly longest: boolean;
  /** Only at the beginning. */
  readonly anchored?: boolean;
  /** Every match, not only the first. */
  readonly all?: boolean;
}

/** The regular expression of a pattern. @throws SyntaxError for an escape of anything but `*`, `?`, `\`, `/` and `}`. */
export function matchesOf(pattern: string, options: PatternOptions): RegExp {
  let source = options.anchored === true ? '^' : '';
  const characters = [...pattern];
  for (let at = 0; at < characters.length; at++) {
    const character = characters[at] ?? '';
    const next = characters[at + 1];
    if (character === '*') source += options.longest ? '.*' : '.*?';
    else if (character === '?') source += '.';
    else if (character !== '\\') source += escapeCharacter(character);
    else if (next === '}' || next === '/') {
      // The escape only keeps the character from ending the expansion.
    } else {
      if (next !== '*' && next !== '?' && next !== '\\')
        throw new SyntaxError(`\\${next ?? ''} cannot be escaped`);
      source += `\\${next}`;
      at++;
    }
  }
  return new RegExp(source, options.all === true ? 'gu' : 'u');
}

function escapeCharacter(character: string): string {
  return character.replace(/[.*+?^${}()|[\]\\/]/, '\\$&');
}

/** `${value#pattern}`, or `##` when `longest`. */
export function trimPrefix(pattern: string, value: string, longest: boolean): string {
  return value.replace(matchesOf(pattern, { longest, anchored: true }), '');
}

/** `${value%pattern}`, or `%%` when `longest`: as a prefix of the reversed text, where the shortest match is found. */
export function trimSuffix(pattern: string, value: string, longest: boolean): string {
  return reverse(trimPrefix(reversePattern(pattern), reverse(value), longest));
}

function reverse(text: string): string {
  return [...text].reverse().join('');
}

/** Reverses a pattern; an escape stays before what it escapes. */
function reversePattern(pattern: string): string {
  return (pattern.match(/\\[\s\S]|[\s\S]/gu) ?? []).reverse().join('');
}
