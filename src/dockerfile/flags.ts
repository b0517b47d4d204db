import { nearestWord, type Place, syntaxError } from './fields.ts';

/** What values a flag of an instruction takes. */
export type FlagType = 'text' | 'boolean' | 'list';

/**
 * Takes the `--name=value` words off the front of an instruction's text. Quotes and escapes are undone; `--` alone ends the
 * flags.
 */
export function takeFlags(text: string, escape: string): { words: string[]; rest: string } {
  const words: string[] = [];
  let at = 0;
  for (;;) {
    while (at < text.length && /\s/.test(text[at] ?? '')) at++;
    if (!text.startsWith('--', at)) return { words, rest: text.slice(at) };
    const word = takeWord(text, at, escape);
    at = word.next;
    if (word.text === '--') return { words, rest: text.slice(at).trimStart() };
    words.push(word.text);
  }
}

function takeWord(text: string, start: number, escape: string): { text: string; next: number } {
  let word = '';
  let quote = '';
  let at = start;
  for (; at < text.length; at++) {
    const character = text[at] ?? '';
    if (quote === '' && /\s/.test(character)) break;
    if (character === escape) {
      at++;
      word += text[at] ?? '';
    } else if (quote === '' && (character === '"' || character === "'")) quote = character;
    else if (character === quote) quote = '';
    else word += character;
  }
  return { text: word, next: Math.min(at, text.length) };
}

/** The flags of one instruction, checked against those that it has. */
export class Flags {
  readonly #values = new Map<string, string[]>();

  /**
   * @param types the instruction's flags.
   * @throws BuildError for a flag that does not exist, is given twice, or has no or a wrong value.
   */
  constructor(
    place: Place,
    instruction: string,
    words: readonly string[],
    types: Readonly<Record<string, FlagType>>,
  ) {
    for (const word of words) {
      const equals = word.indexOf('=');
      const name = word.slice(2, equals < 0 ? undefined : equals);
      const type = Object.hasOwn(types, name) ? types[name] : undefined;
      if (type === undefined) throw unknownFlag(place, instruction, name, Object.keys(types));
      const known = this.#values.get(name) ?? [];
      if (known.length > 0 && type !== 'list')
        throw syntaxError(place, `${instruction} --${name} is given twice`, 'Remove one of them.', word);
      const value = equals < 0 ? undefined : word.slice(equals + 1);
      this.#values.set(name, [...known, checkValue(place, `${instruction} --${name}`, type, value)]);
    }
  }

  /** The value of a text flag; undefined when it is not given. */
  text(name: string): string | undefined {
    return this.#values.get(name)?.[0];
  }

  /** The value of a boolean flag; undefined when it is not given. */
  boolean(name: string): boolean | undefined {
    const value = this.text(name);
    return value === undefined ? undefined : value === 'true';
  }

  /** All values of a flag that may be given several times. */
  list(name: string): readonly string[] {
    return this.#values.get(name) ?? [];
  }
}

function unknownFlag(
  place: Place,
  instruction: string,
  name: string,
  known: readonly string[],
): ReturnType<typeof syntaxError> {
  const near = nearestWord(name, known);
  const remedy =
    near !== undefined
      ? `Did you mean --${near}?`
      : known.length === 0
        ? `${instruction} has no flags.`
        : `It has ${known.map((flag) => `--${flag}`).join(', ')}.`;
  return syntaxError(place, `${instruction} has no flag --${name}`, remedy, `--${name}`);
}

function checkValue(place: Place, flag: string, type: FlagType, value: string | undefined): string {
  if (type !== 'boolean') {
    if (value === undefined)
      throw syntaxError(place, `${flag} needs a value`, `Write ${flag}=….`, flag.split(' ')[1]);
    return value;
  }
  if (value === undefined || /^true$/i.test(value)) return 'true';
  if (/^false$/i.test(value)) return 'false';
  throw syntaxError(place, `${flag} is true or false, not "${value}"`, undefined, value);
}
