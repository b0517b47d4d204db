/** What `$name` stands for; undefined when it is not set. */
export type Lookup = (name: string) => string | undefined;

/** Thrown for a malformed expansion; the caller adds file and line. */
export class ExpansionError extends Error {
  override readonly name = 'ExpansionError';
}

/**
 * Expands variables and removes quotes as the Dockerfile reference says ("Environment replacement"):
 * `$a ${a} ${a:-b} ${a-b} ${a:+b} ${a+b} ${a:?b} ${a?b}`; nothing is expanded in single quotes.
 *
 * @throws ExpansionError for an unclosed quote or brace and for modifiers that do not exist.
 */
export function expandWord(text: string, lookup: Lookup, escape: string): string {
  return new Expander(text, lookup, escape).all().join(' ');
}

/** As {@link expandWord}, split into words at white space outside quotes. */
export function expandWords(text: string, lookup: Lookup, escape: string): string[] {
  return new Expander(text, lookup, escape, true).all();
}

/** Expands variables in the body of a here-document; quotes stay as they are. */
export function expandHeredoc(text: string, lookup: Lookup, escape: string): string {
  return new Expander(text, lookup, escape, false, true).all().join('');
}

class Expander {
  readonly #text: string;
  readonly #lookup: Lookup;
  readonly #escape: string;
  readonly #split: boolean;
  readonly #raw: boolean;
  #at = 0;

  constructor(text: string, lookup: Lookup, escape: string, split = false, raw = false) {
    this.#text = text;
    this.#lookup = lookup;
    this.#escape = escape;
    this.#split = split;
    this.#raw = raw;
  }

  all(): string[] {
    const words: string[] = [];
    let word: string | undefined;
    while (this.#at < this.#text.length) {
      const character = this.#text[this.#at] ?? '';
      if (this.#split && /\s/.test(character)) {
        if (word !== undefined) words.push(word);
        word = undefined;
        this.#at++;
        continue;
      }
      word = (word ?? '') + this.#next(character);
    }
    if (word !== undefined) words.push(word);
    return this.#split || words.length > 0 ? words : [''];
  }

  #next(character: string): string {
    if (character === "'" && !this.#raw) return this.#singleQuoted();
    if (character === '"' && !this.#raw) return this.#doubleQuoted();
    if (character === '$') return this.#dollar();
    if (character === this.#escape) return this.#escaped();
    this.#at++;
    return character;
  }

  #escaped(): string {
    const next = this.#text[this.#at + 1];
    this.#at += 2;
    if (this.#raw && next !== '$' && next !== this.#escape) return this.#escape + (next ?? '');
    return next ?? (this.#raw ? this.#escape : '');
  }

  #singleQuoted(): string {
    const end = this.#text.indexOf("'", this.#at + 1);
    if (end < 0) throw new ExpansionError(`unclosed ' in ${this.#text}`);
    const inside = this.#text.slice(this.#at + 1, end);
    this.#at = end + 1;
    return inside;
  }

  #doubleQuoted(): string {
    let result = '';
    this.#at++;
    for (;;) {
      const character = this.#text[this.#at];
      if (character === undefined) throw new ExpansionError(`unclosed " in ${this.#text}`);
      if (character === '"') {
        this.#at++;
        return result;
      }
      if (character === '$') {
        result += this.#dollar();
        continue;
      }
      if (character === this.#escape) {
        const next = this.#text[this.#at + 1] ?? '';
        const special = next === '"' || next === '$' || next === this.#escape;
        result += special ? next : this.#escape + next;
        this.#at += 2;
        continue;
      }
      result += character;
      this.#at++;
    }
  }

  #dollar(): string {
    this.#at++;
    if (this.#text[this.#at] === '{') return this.#braced();
    const match = /^(?:[A-Za-z_][A-Za-z0-9_]*|[0-9@*#!?-])/.exec(this.#text.slice(this.#at));
    if (match === null) return '$';
    this.#at += match[0].length;
    return this.#lookup(match[0]) ?? '';
  }

  #braced(): string {
    const opened = this.#at;
    const match = /^\{([A-Za-z_][A-Za-z0-9_]*|[0-9])/.exec(this.#text.slice(opened));
    if (match === null) throw new ExpansionError(`bad substitution in ${this.#text.slice(opened - 1)}`);
    const name = match[1] ?? '';
    this.#at += match[0].length;
    const value = this.#lookup(name);
    const operator = /^(?::[-+?]|[-+?}])/.exec(this.#text.slice(this.#at))?.[0];
    if (operator === undefined)
      throw new ExpansionError(
        `unsupported modifier in \${${name}${this.#text.slice(this.#at, this.#at + 2)}…}: use :- :+ :? - + or ?`,
      );
    this.#at += operator.length;
    if (operator === '}') return value ?? '';
    const word = this.#untilBrace();
    const present = operator.startsWith(':') ? value !== undefined && value !== '' : value !== undefined;
    if (operator.endsWith('-')) return present ? (value ?? '') : word;
    if (operator.endsWith('+')) return present ? word : '';
    if (!present) throw new ExpansionError(`${name}: ${word === '' ? 'not set' : word}`);
    return value ?? '';
  }

  #untilBrace(): string {
    let word = '';
    for (;;) {
      const character = this.#text[this.#at];
      if (character === undefined) throw new ExpansionError(`unclosed \${ in ${this.#text}`);
      if (character === '}') {
        this.#at++;
        return word;
      }
      word += this.#next(character);
    }
  }
}
