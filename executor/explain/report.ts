import { formatAge, printable } from '../../src/support/index.ts';
import type { StageExplanation, StepExplanation, StepOutcome } from './explanation.ts';
import type { StoredEntry } from './file-reasons.ts';

/** For people: each step with what it came to, and under it why; where several caches are read, in which it is. */
export function explanationText(
  locations: readonly string[],
  stages: readonly StageExplanation<StoredEntry>[],
): string {
  const counts = new Map<StepOutcome, number>();
  const lines: string[] = [];
  for (const { stage, steps } of stages) {
    lines.push(`stage ${stage.label}, on ${printable(stage.origin.base.name)}`);
    for (const explanation of steps) {
      counts.set(explanation.outcome, (counts.get(explanation.outcome) ?? 0) + 1);
      lines.push(...stepLines(explanation, locations.length > 1));
    }
    if (steps.length === 0) lines.push('  nothing to be cached');
  }
  const total = [...counts].map(([outcome, count]) => `${count} ${outcome}`).join(', ');
  return `${lines.join('\n')}\n${total === '' ? 'no steps' : total}\n`;
}

const column = Math.max(...['other-rootfs', 'unauthorized'].map(({ length }) => length)) + 2;

function stepLines(
  { step, outcome, hit, reasons, nearest }: StepExplanation<StoredEntry>,
  several: boolean,
): string[] {
  const indent = ' '.repeat(column + 2);
  const place = (location: string): string => (several ? `, in ${location}` : '');
  return [
    `  ${outcome.padEnd(column)}${step.id} ${printable(step.written)}`,
    ...reasons.map((reason) => `${indent}${reason}`),
    ...(several && hit !== undefined ? [`${indent}in ${hit.place.location}`] : []),
    ...(nearest === undefined
      ? []
      : [
          `${indent}compared with ${nearest.key.slice(0, 12)}, made ${formatAge(nearest.created)}` +
            place(nearest.store.location),
        ]),
  ];
}

/** For programs. `keys` is what `warmer remote prune --keep-keys` keeps. */
export function explanationDocument(
  locations: readonly string[],
  stages: readonly StageExplanation<StoredEntry>[],
): object {
  const keys = stages.flatMap(({ steps }) => steps.flatMap(({ step }) => step.key ?? []));
  return {
    locations,
    keys: [...new Set(keys)],
    stages: stages.map(({ stage, steps }) => ({
      stage: stage.label,
      line: stage.origin.line,
      base: stage.origin.base,
      steps: steps.map(({ step, outcome, hit, reasons, differences, nearest }) => ({
        step: step.id,
        where: step.where,
        instruction: step.written,
        key: step.key ?? null,
        outcome,
        location: hit?.place.location ?? null,
        reasons,
        differences,
        nearest:
          nearest === undefined
            ? null
            : {
                key: nearest.key,
                location: nearest.store.location,
                instruction: nearest.instruction,
                created: nearest.created,
              },
      })),
    })),
  };
}
