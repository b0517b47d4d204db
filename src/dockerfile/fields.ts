import { BuildError } from '../support/index.ts';
import type { Command } from './types.ts';

/** An instruction's place, for messages. */
export interface Place {
  readonly file: string;
  readonly line: number;
}

/** @param subject the word of the Dockerfile that is wrong, to be marked. */
export function syntaxError(place: Place, message: string, remedy?: string, subject?: string): BuildError {
  return new BuildError(message, {
    code: 'E_DOCKERFILE_SYNTAX',
    where: `${place.file}:${place.line}`,
    remedy,
    subject,
  });
}

/**
 * The JSON list of an exec form, or undefined when the text is none (then it is a shell form).
 *
 * @throws BuildError for a list of something else than texts, which is neither.
 */
export function jsonWords(text: string, place: Place): string[] | undefined {
  if (!text.trimStart().startsWith('[')) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
  if (!Array.isArray(value)) return undefined;
  if (value.every((word) => typeof word === 'string')) return value;
  throw syntaxError(place, 'a JSON list may hold texts only', 'Put every element in double quotes.');
}

export function parseCommand(text: string, place: Place): Command {
  const words = jsonWords(text, place);
  return words === undefined ? { form: 'shell', command: text } : { form: 'exec', command: words };
}

/** Splits at white space, whatever quotes there are. */
export function splitAtSpaces(text: string): string[] {
  return text === '' ? [] : text.split(/[\t\v\f\r ]+/);
}

/** Splits at white space outside quotes; quotes and escapes stay in the words. */
export function splitWords(text: string, escape: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  let quote = '';
  for (let at = 0; at < text.length; at++) {
    const character = text[at] ?? '';
    if (quote === '' && /\s/.test(character)) {
      if (word !== undefined) words.push(word);
      word = undefined;
      continue;
    }
    if (character === escape && quote !== "'") {
      // An escape at the very end escapes nothing and is left out.
      if (at + 1 < text.length) word = (word ?? '') + character + (text[at + 1] ?? '');
      at++;
      continue;
    }
    if (quote === character) quote = '';
    else if (quote === '' && (character === '"' || character === "'")) quote = character;
    word = (word ?? '') + character;
  }
  if (word !== undefined) words.push(word);
  return words;
}

const durationUnits: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3600e9,
};

/** A duration as Go writes it (`1m30s`), in nanoseconds; undefined when it is none. */
export function parseDuration(text: string): number | undefined {
  if (text === '0') return 0;
  if (!/^(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|ms|s|m|h))+$/.test(text)) return undefined;
  let total = 0;
  for (const [, number = '', unit = ''] of text.matchAll(/([0-9.]+)(ns|us|µs|ms|s|m|h)/g))
    total += Number(number) * (durationUnits[unit] ?? 0);
  return Math.round(total);
}

/** The candidate nearest to a mistyped word (edit distance at most 2, and less than its length), for "did you mean". */
export function nearestWord(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.min(3, word.length);
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

function editDistance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 2) return 3;
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(replaced, (previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1));
    }
    previous = current;
  }
  return previous[b.length] ?? 3;
}
