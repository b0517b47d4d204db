import type { Progress } from '../src/support/index.ts';
import type { CacheRules, PlannedStage } from './planned.ts';

/** Warns of rules that do not do what they seem to. */
export function warnOfRules(
  { ignoredArguments, noCacheStages }: CacheRules,
  stages: readonly PlannedStage[],
  progress: Progress,
): void {
  for (const name of ignoredArguments) {
    let declared = false;
    for (const step of stages.flatMap(({ steps }) => steps)) {
      if (step.operation.kind !== 'run' || !step.operation.argumentNames.has(name)) continue;
      declared = true;
      if (mentions(step.operation.argv, name))
        progress.warn(
          `the command mentions ${name}, which --cache-ignore-arg leaves out of its key: ` +
            `a layer that was made with another value may be used (${step.where})`,
          step.id,
        );
    }
    if (!declared) progress.warn(`--cache-ignore-arg ${name}: no RUN sees an ARG of that name`);
  }
  for (const name of noCacheStages) {
    const isNamed = ({ index, label }: PlannedStage): boolean =>
      [label, String(index)].includes(name.toLowerCase());
    if (!stages.some(isNamed)) progress.warn(`--no-cache-filter ${name}: no stage of that name is built`);
  }
}

function mentions(argv: readonly string[], name: string): boolean {
  const expression = new RegExp(`(?:^|[^A-Za-z0-9_])${name.replace(/[^A-Za-z0-9_]/g, '')}(?![A-Za-z0-9_])`);
  return argv.some((word) => expression.test(word));
}
