import { BuildError } from '../support/index.ts';
import type { Command } from './types.ts';

/** An instruction's place, for messages. */
export interface Place {
  readonly file: string;
  readonly line: number;
}

export function syntaxError(place: Place, message: string, remedy?: string): BuildError {
  return new BuildError(message, {
    code: 'E_DOCKERFILE_SYNTAX',
    where: `${place.file}:${place.line}`,
    remedy,
  });
}

export function unsupported(place: Place, what: string): BuildError {
  return new BuildError(`${what} is not supported by this version`, {
    code: 'E_DOCKERFILE_UNSUPPORTED',
    where: `${place.file}:${place.line}`,
    remedy: 'Rewrite the line without it.',
  });
}

/** The JSON list of an exec form, or undefined when the text is none (then it is a shell form). */
export function jsonWords(text: string): string[] | undefined {
  if (!text.trimStart().startsWith('[')) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) && value.every((word) => typeof word === 'string') ? value : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

export function parseCommand(text: string): Command {
  const words = jsonWords(text);
  return words === undefined ? { form: 'shell', command: text } : { form: 'exec', command: words };
}

/** Splits at white space outside quotes; quotes and escapes stay in the words. */
export function splitWords(text: string, escape: string): string[] {
  const words: string[] = [];
  let word = '';
  let quote = '';
  for (let at = 0; at < text.length; at++) {
    const character = text[at] ?? '';
    if (quote === '' && /\s/.test(character)) {
      if (word !== '') words.push(word);
      word = '';
      continue;
    }
    if (character === escape && quote !== "'") {
      word += character + (text[at + 1] ?? '');
      at++;
      continue;
    }
    if (quote === character) quote = '';
    else if (quote === '' && (character === '"' || character === "'")) quote = character;
    word += character;
  }
  if (word !== '') words.push(word);
  return words;
}

/** Takes the `--name=value` flags off the front of an instruction's text. */
export function takeFlags(text: string): { flags: Map<string, string>; rest: string } {
  const flags = new Map<string, string>();
  let rest = text;
  for (;;) {
    const match = /^--([a-z][a-z-]*)(?:=("[^"]*"|'[^']*'|\S*))?(?:\s+|$)/.exec(rest);
    if (match === null) return { flags, rest };
    flags.set(match[1] ?? '', (match[2] ?? '').replace(/^(["'])(.*)\1$/, '$2'));
    rest = rest.slice(match[0].length);
  }
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

/** The candidate nearest to a mistyped word (edit distance at most 2), for "did you mean". */
export function nearestWord(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = 3;
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
