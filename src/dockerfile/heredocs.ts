import { expand, type ExpandOptions, ExpansionError } from './expand.ts';
import type { Heredoc } from './types.ts';

/** The opening of a here-document, as `<<EOF`, `<<-"EOF"` or `3<<EOF` writes it. */
export interface HeredocOpening {
  /** The word after `<<`, without quotes. */
  readonly name: string;
  /** `<<-`: tabs at the beginning of its lines are not part of it. */
  readonly chomp: boolean;
  /** False when a part of the word was quoted: variables in the body are then left alone. */
  readonly expand: boolean;
}

const opening = /^[0-9]*<<(-?)\s*([^<]*)$/;

/** Reads a word that opens a here-document; undefined for any other word, also one with an unclosed quote. */
export function parseHeredocOpening(word: string): HeredocOpening | undefined {
  const match = opening.exec(word);
  const rest = match?.[2] ?? '';
  if (match === null || rest === '') return undefined;
  const words = wordsOf(rest, {});
  const [name] = words;
  if (words.length !== 1 || name === undefined) return undefined;
  const [quoted = ''] = wordsOf(rest, { keepQuotes: true });
  return { name, chomp: match[1] === '-', expand: countQuotes(name) === countQuotes(quoted) };
}

/** The words of a text as a shell splits them; none when it cannot. */
function wordsOf(text: string, options: Omit<ExpandOptions, 'escape' | 'keepUnset'>): readonly string[] {
  try {
    return expand(text, () => undefined, { ...options, escape: '\\', keepUnset: true }).words;
  } catch (error) {
    if (error instanceof ExpansionError) return [];
    throw error;
  }
}

function countQuotes(text: string): number {
  return text.match(/["']/g)?.length ?? 0;
}

/** The here-documents that an instruction opens, in order. */
export function findHeredocs(instruction: string): HeredocOpening[] {
  return wordsOf(instruction, { keepQuotes: true, keepEscapes: true }).flatMap(
    (word) => parseHeredocOpening(word) ?? [],
  );
}

/** The text of a here-document; of one opened by `<<-` without the tabs at the beginning of its lines. */
export function heredocBody({ content, chomp }: Heredoc): string {
  return chomp ? content.replace(/^\t+/gm, '') : content;
}
