import { BuildError } from '../support/index.ts';
import { withExcerpt } from './excerpt.ts';
import { syntaxError } from './fields.ts';
import { parseInstruction } from './instructions.ts';
import { splitLines } from './lines.ts';
import type { ArgInstruction, Dockerfile, FromInstruction, Instruction, Stage } from './types.ts';

/**
 * Parses a Dockerfile (Dockerfile reference, stable channel).
 *
 * @param file how messages call it.
 * @throws BuildError `E_DOCKERFILE_SYNTAX`, naming file and line.
 */
export function parseDockerfile(text: string, file: string): Dockerfile {
  const source = text.split(/\r?\n/);
  return withExcerpt(file, source, () => parse(text, file, source));
}

function parse(text: string, file: string, source: readonly string[]): Dockerfile {
  const { escape, check, instructions } = splitLines(text, file);
  const metaArgs: ArgInstruction[] = [];
  const stages: { from: FromInstruction; instructions: Instruction[] }[] = [];
  for (const line of instructions) {
    const instruction = parseInstruction(line, file, escape);
    const stage = stages.at(-1);
    if (instruction.kind === 'from') stages.push({ from: instruction, instructions: [] });
    else if (stage !== undefined) stage.instructions.push(instruction);
    else if (instruction.kind === 'arg') metaArgs.push(instruction);
    else
      throw syntaxError(
        { file, line: line.line },
        `${instruction.kind.toUpperCase()} stands before the first FROM`,
        'Begin the Dockerfile with FROM image.',
      );
  }
  if (stages.length === 0)
    throw new BuildError('the Dockerfile has no FROM', {
      code: 'E_DOCKERFILE_SYNTAX',
      where: file,
      remedy: 'Begin it with FROM image.',
    });
  return {
    file,
    source,
    escape,
    check,
    emptyContinuations: instructions.flatMap(({ emptyContinuation }) => emptyContinuation ?? []),
    metaArgs,
    stages: stages.map(({ from, instructions }, index): Stage => ({
      index,
      name: from.alias,
      from,
      instructions,
    })),
  };
}

/** Parses the triggers that ONBUILD left in what a stage is made from. Their lines count as the FROM's. */
export function parseTriggers(
  triggers: readonly string[],
  from: FromInstruction,
  file: string,
  escape: string,
): Instruction[] {
  return triggers.map((trigger) => {
    const refused = (why: string): BuildError =>
      syntaxError({ file, line: from.line }, `${from.image} has an ONBUILD trigger that ${why}: ${trigger}`);
    const [line, ...others] = splitLines(trigger, `${file} (ONBUILD of ${from.image})`).instructions;
    if (line === undefined || others.length > 0) throw refused('is not one instruction');
    const placed = { ...line, line: from.line, endLine: from.line };
    const instruction = parseInstruction(placed, file, escape);
    if (instruction.kind === 'from' || instruction.kind === 'onbuild' || instruction.kind === 'maintainer')
      throw refused('is not allowed');
    return { ...instruction, isTrigger: true };
  });
}
