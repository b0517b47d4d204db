import { parseSeconds } from '../src/cli/index.ts';
import type { Instruction } from '../src/dockerfile/index.ts';
import { BuildError, UsageError } from '../src/support/index.ts';
import type { StepRule } from './steps.ts';

/** What has comments above it. */
type Commented = Pick<Instruction, 'comments'>;

/** Of a step that says nothing. */
export const noRule: StepRule = { noCache: false, ttlSeconds: undefined };

const directive = /^kiln:\s*(.*)$/;

/**
 * What the comments right above a step say of its caching: `# kiln: no-cache`, `# kiln: ttl=24h`. Other builders see nothing
 * but comments.
 *
 * @throws BuildError `E_KILN_DIRECTIVE` for one that says something else, which would be ignored otherwise.
 */
export function stepRule({ comments }: Commented, where: string): StepRule {
  let rule = noRule;
  for (const comment of comments)
    for (const word of directive.exec(comment)?.[1]?.split(/[\s,]+/) ?? []) {
      if (word === 'no-cache') rule = { ...rule, noCache: true };
      else if (word.startsWith('ttl=')) rule = { ...rule, ttlSeconds: parseTtl(word.slice(4), where) };
      else throw unknown(`"${word}" is nothing that a step can be told`, where);
    }
  return rule;
}

/** @throws BuildError `E_KILN_DIRECTIVE` for a directive above what is no step. */
export function requireNoDirective({ comments }: Commented, word: string, where: string): void {
  const found = comments.find((comment) => directive.test(comment));
  if (found !== undefined) throw unknown(`"# ${found}" stands above ${word}, which is no step`, where);
}

function parseTtl(text: string, where: string): number {
  try {
    return parseSeconds(text);
  } catch (error) {
    if (error instanceof UsageError) throw unknown(error.message, where);
    throw error;
  }
}

function unknown(message: string, where: string): BuildError {
  return new BuildError(message, {
    code: 'E_KILN_DIRECTIVE',
    where,
    remedy: 'Write "# kiln: no-cache" or "# kiln: ttl=24h" right above a RUN, COPY, ADD or WORKDIR.',
  });
}
