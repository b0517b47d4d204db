import { formatAge, printable } from '../../src/support/index.ts';
import type { StageExplanation, StepExplanation, StepOutcome } from './explanation.ts';

/** For people: each step with what it came to, and under it why. */
export function explanationText(stages: readonly StageExplanation[]): string {
  const counts = new Map<StepOutcome, number>();
  const lines: string[] = [];
  for (const { stage, steps } of stages) {
    lines.push(`stage ${stage.label}, on ${printable(stage.origin.base.name)}`);
    for (const explanation of steps) {
      counts.set(explanation.outcome, (counts.get(explanation.outcome) ?? 0) + 1);
      lines.push(...stepLines(explanation));
    }
    if (steps.length === 0) lines.push('  nothing to be cached');
  }
  const total = [...counts].map(([outcome, count]) => `${count} ${outcome}`).join(', ');
  return `${lines.join('\n')}\n${total === '' ? 'no steps' : total}\n`;
}

const column = Math.max(...['other-rootfs', 'unauthorized'].map(({ length }) => length)) + 2;

function stepLines({ step, outcome, reasons, nearest }: StepExplanation): string[] {
  const indent = ' '.repeat(column + 2);
  return [
    `  ${outcome.padEnd(column)}${step.id} ${printable(step.written)}`,
    ...reasons.map((reason) => `${indent}${reason}`),
    ...(nearest === undefined
      ? []
      : [`${indent}compared with ${nearest.key.slice(0, 12)}, made ${formatAge(nearest.created)}`]),
  ];
}

/** For programs. `keys` is what `warmer remote prune --keep-keys` keeps. */
export function explanationDocument(location: string, stages: readonly StageExplanation[]): object {
  const keys = stages.flatMap(({ steps }) => steps.flatMap(({ step }) => step.key ?? []));
  return {
    location,
    keys: [...new Set(keys)],
    stages: stages.map(({ stage, steps }) => ({
      stage: stage.label,
      line: stage.origin.line,
      base: stage.origin.base,
      steps: steps.map(({ step, outcome, reasons, differences, nearest }) => ({
        step: step.id,
        where: step.where,
        instruction: step.written,
        key: step.key ?? null,
        outcome,
        reasons,
        differences,
        nearest:
          nearest === undefined
            ? null
            : { key: nearest.key, instruction: nearest.instruction, created: nearest.created },
      })),
    })),
  };
}
