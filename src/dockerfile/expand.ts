import { matchesOf, trimPrefix, trimSuffix } from './patterns.ts';

/** What `$name` stands for; undefined when it is not set. */
export type Lookup = (name: string) => string | undefined;

/** Thrown for a malformed expansion; the caller adds file and line. */
export class ExpansionError extends Error {
  override readonly name = 'ExpansionError';
}

export interface ExpandOptions {
  /** The escape character of the Dockerfile. */
  readonly escape: string;
  /** Quotes stay in the result. */
  readonly keepQuotes?: boolean;
  /** Escape characters stay in the result. */
  readonly keepEscapes?: boolean;
  /** Quotes are ordinary characters, as in the body of a here-document. */
  readonly plainQuotes?: boolean;
  /** References to variables that are not set stay as they are written. */
  readonly keepUnset?: boolean;
}

export interface Expansion {
  readonly text: string;
  /** The result split at white space that was not quoted; empty words are left out. */
  readonly words: readonly string[];
  /** Names that were looked up and found, and those that were not. */
  readonly matched: ReadonlySet<string>;
  readonly unmatched: ReadonlySet<string>;
}

/**
 * Expands variables and removes quotes and escapes, as BuildKit's shell lexer does (Dockerfile reference, "Environment
 * replacement"): `$a ${a} ${a:-b} ${a-b} ${a:+b} ${a+b} ${a:?b} ${a?b} ${a#p} ${a##p} ${a%p} ${a%%p} ${a/p/b} ${a//p/b}`.
 *
 * @throws ExpansionError for an unclosed quote or brace, for modifiers that do not exist, and for `?` on what is not set.
 */
export function expand(text: string, lookup: Lookup, options: ExpandOptions): Expansion {
  return new Expander(text, lookup, options).run();
}

/** {@link expand} to one text. */
export function expandWord(text: string, lookup: Lookup, escape: string): string {
  return expand(text, lookup, { escape }).text;
}

/** {@link expand} to words. */
export function expandWords(text: string, lookup: Lookup, escape: string): string[] {
  return [...expand(text, lookup, { escape }).words];
}

/** Expands the body of a here-document of COPY or ADD: quotes stay, and the escape character is always the backslash. */
export function expandHeredoc(text: string, lookup: Lookup): Expansion {
  return expand(text, lookup, { escape: '\\', plainQuotes: true });
}

const nameCharacter = /[\p{L}\p{Nd}_]/u;
const digit = /\p{Nd}/u;
const space = /\s/;
const specialParameters = new Set('@*#?-$!0');

/** Collects a result as one text and as words. */
class Words {
  text = '';
  readonly words: string[] = [];
  #word = '';

  /** Adds what white space splits. */
  addSplit(text: string): void {
    this.text += text;
    for (const character of text)
      if (space.test(character)) this.#endWord();
      else this.#word += character;
  }

  /** Adds what belongs to the current word as it is. */
  addWhole(text: string): void {
    this.text += text;
    this.#word += text;
  }

  finish(): this {
    this.#endWord();
    return this;
  }

  #endWord(): void {
    if (this.#word !== '') this.words.push(this.#word);
    this.#word = '';
  }
}

class Expander {
  readonly #characters: readonly string[];
  readonly #lookup: Lookup;
  readonly #options: ExpandOptions;
  readonly #matched = new Set<string>();
  readonly #unmatched = new Set<string>();
  #at = 0;

  constructor(text: string, lookup: Lookup, options: ExpandOptions) {
    this.#characters = [...text];
    this.#lookup = lookup;
    this.#options = options;
  }

  run(): Expansion {
    const { text, words } = this.#until(undefined, this.#options.keepEscapes === true);
    return { text, words, matched: this.#matched, unmatched: this.#unmatched };
  }

  get #peek(): string | undefined {
    return this.#characters[this.#at];
  }

  #next(): string | undefined {
    return this.#characters[this.#at++];
  }

  /** Everything up to `end`, which is consumed; up to the end of the text when it is undefined. */
  #until(end: string | undefined, keepEscapes: boolean): Words {
    const result = new Words();
    for (let character = this.#peek; character !== undefined; character = this.#peek) {
      if (character === end) {
        this.#at++;
        return result.finish();
      }
      if (character === '$') result.addSplit(this.#dollar());
      else if (character === '<') result.addWhole(this.#lessThan());
      else if (character === "'" && this.#options.plainQuotes !== true) result.addWhole(this.#singleQuoted());
      else if (character === '"' && this.#options.plainQuotes !== true)
        result.addWhole(this.#doubleQuoted(keepEscapes));
      else if (character === this.#options.escape) result.addWhole(this.#escaped(keepEscapes));
      else result.addSplit(this.#next() ?? '');
    }
    if (end !== undefined)
      throw new ExpansionError(`the text ends before the matching ${end} in ${this.#source()}`);
    return result.finish();
  }

  #source(): string {
    return this.#characters.join('');
  }

  #escaped(keepEscapes: boolean): string {
    const escape = this.#next() ?? '';
    return (keepEscapes ? escape : '') + (this.#next() ?? '');
  }

  /** `<<` and what separates it from its word stay one word, so that here-documents are recognised in words. */
  #lessThan(): string {
    this.#at++;
    if (this.#peek !== '<') return '<';
    this.#at++;
    let text = '<<';
    while (/^[ \t\r]$/.test(this.#characters[this.#at] ?? '')) text += this.#next() ?? '';
    return text;
  }

  #singleQuoted(): string {
    const start = ++this.#at;
    const end = this.#characters.indexOf("'", start);
    if (end < 0) throw new ExpansionError(`the single quote is not closed in ${this.#source()}`);
    this.#at = end + 1;
    const inside = this.#characters.slice(start, end).join('');
    return this.#options.keepQuotes === true ? `'${inside}'` : inside;
  }

  #doubleQuoted(keepEscapes: boolean): string {
    const { escape, keepQuotes } = this.#options;
    const quote = keepQuotes === true ? '"' : '';
    let result = quote;
    this.#at++;
    for (let character = this.#peek; character !== undefined; character = this.#peek) {
      if (character === '"') {
        this.#at++;
        return result + quote;
      }
      if (character === '$') {
        result += this.#dollar();
        continue;
      }
      this.#at++;
      if (character !== escape) {
        result += character;
        continue;
      }
      const next = this.#peek;
      if (keepEscapes) result += escape;
      if (next === undefined) break;
      // Only these can be escaped; before anything else the escape character stands for itself.
      if (next === '"' || next === '$' || next === escape) result += this.#next() ?? '';
      else if (!keepEscapes) result += escape;
    }
    throw new ExpansionError(`the double quote is not closed in ${this.#source()}`);
  }

  #dollar(): string {
    this.#at++;
    if (this.#peek === '{') return this.#braced();
    const name = this.#name();
    if (name === '') return '$';
    const value = this.#value(name);
    return value ?? (this.#options.keepUnset === true ? `$${name}` : '');
  }

  #name(): string {
    const first = this.#peek;
    if (first === undefined) return '';
    let name = '';
    const take = (wanted: RegExp): string => {
      while (this.#peek !== undefined && wanted.test(this.#peek)) name += this.#next() ?? '';
      return name;
    };
    if (digit.test(first)) return take(digit);
    if (specialParameters.has(first)) return this.#next() ?? '';
    return take(nameCharacter);
  }

  #value(name: string): string | undefined {
    const value = this.#lookup(name);
    (value === undefined ? this.#unmatched : this.#matched).add(name);
    return value;
  }

  #braced(): string {
    this.#at++;
    const first = this.#peek;
    if (first === undefined) throw new ExpansionError(`} is missing in ${this.#source()}`);
    if (first === '{' || first === '}' || first === ':')
      throw new ExpansionError(`bad substitution in ${this.#source()}`);
    const name = this.#name();
    const operator = this.#next();
    switch (operator) {
      case '}':
        return this.#value(name) ?? (this.#options.keepUnset === true ? `\${${name}}` : '');
      case ':':
        return this.#conditional(name, this.#next(), true);
      case '-':
      case '+':
      case '?':
        return this.#conditional(name, operator, false);
      case '#':
      case '%':
        return this.#trimmed(name, operator);
      case '/':
        return this.#replaced(name);
      case undefined:
        throw new ExpansionError(`} is missing in ${this.#source()}`);
      default:
        throw this.#unsupported(operator);
    }
  }

  #unsupported(operator: string): ExpansionError {
    return new ExpansionError(
      `the modifier ${operator} does not exist in ${this.#source()}: use :- :+ :? - + ? # ## % %% / or //`,
    );
  }

  #conditional(name: string, operator: string | undefined, emptyIsUnset: boolean): string {
    if (operator !== '-' && operator !== '+' && operator !== '?')
      throw this.#unsupported(`:${operator ?? ''}`);
    const word = this.#until('}', false).text;
    const value = this.#value(name);
    if (value === undefined && this.#options.keepUnset === true)
      return `\${${name}${emptyIsUnset ? ':' : ''}${operator}${word}}`;
    const present = value !== undefined && !(emptyIsUnset && value === '');
    if (operator === '-') return present ? value : word;
    if (operator === '+') return present ? word : '';
    if (present) return value;
    const what = value === undefined ? 'is not allowed to be unset' : 'is not allowed to be empty';
    throw new ExpansionError(`${name}: ${word === '' ? what : word}`);
  }

  #trimmed(name: string, operator: '#' | '%'): string {
    let pattern = this.#until('}', true).text;
    const value = this.#value(name);
    if (value === undefined && this.#options.keepUnset === true) return `\${${name}${operator}${pattern}}`;
    const longest = pattern.startsWith(operator);
    if (longest) pattern = pattern.slice(1);
    const trim = operator === '#' ? trimPrefix : trimSuffix;
    return this.#withPattern(pattern, () => trim(pattern, value ?? '', longest));
  }

  #replaced(name: string): string {
    const all = this.#peek === '/';
    if (all) this.#at++;
    const pattern = this.#until('/', true).text;
    const replacement = this.#until('}', true).text;
    const value = this.#value(name);
    if (value === undefined && this.#options.keepUnset === true)
      return `\${${name}/${all ? '/' : ''}${pattern}/${replacement}}`;
    return this.#withPattern(pattern, () =>
      (value ?? '').replace(matchesOf(pattern, { longest: true, all }), () => replacement),
    );
  }

  #withPattern(pattern: string, work: () => string): string {
    try {
      return work();
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new ExpansionError(`the pattern ${pattern} is invalid: ${error.message}`);
    }
  }
}
