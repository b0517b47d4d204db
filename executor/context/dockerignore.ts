/** Decides which files of a context are left out. Plain data that can be posted to a worker. */
export type IgnoreRules = readonly string[];

/** Reads the patterns of a `.dockerignore` (Dockerfile reference, ".dockerignore file"). */
export function parseDockerignore(text: string): IgnoreRules {
  const rules: string[] = [];
  for (const line of text.replace(/^\uFEFF/, '').split('\n')) {
    if (line.startsWith('#')) continue;
    const trimmed = line.trim();
    if (trimmed === '') continue;
    const inverted = trimmed.startsWith('!');
    const pattern = clean(trimmed.slice(inverted ? 1 : 0).trim());
    if (pattern !== '') rules.push((inverted ? '!' : '') + pattern);
  }
  return rules;
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
        expression: new RegExp(`^${patternSource(inverted ? rule.slice(1) : rule, true)}(?:/.*)?$`, 's'),
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

/** Turns a pattern of Go's filepath.Match (and `**`, when `deep`) into the source of a regular expression. */
export function patternSource(pattern: string, deep: boolean): string {
  let source = '';
  for (let at = 0; at < pattern.length; at++) {
    const character = pattern[at] ?? '';
    if (deep && pattern.startsWith('**', at)) {
      at += 1;
      if (pattern[at + 1] === '/') {
        at += 1;
        source += '(?:.*/)?';
      } else source += '.*';
    } else if (character === '*') source += '[^/]*';
    else if (character === '?') source += '[^/]';
    else if (character === '\\') source += escapeCharacter(pattern[++at] ?? '\\');
    else if (character === '[') {
      const end = pattern.indexOf(']', at + 2);
      if (end < 0) source += '\\[';
      else {
        source += `[${pattern.slice(at + 1, end).replace(/[\\[]/g, '\\$&')}]`;
        at = end;
      }
    } else source += escapeCharacter(character);
  }
  return source;
}

function escapeCharacter(character: string): string {
  return character.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&');
}
