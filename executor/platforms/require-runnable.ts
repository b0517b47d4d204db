import { formatPlatform } from '../../src/oci/index.ts';
import { BuildError } from '../../src/support/index.ts';
import { forecast, type ResultOf, wantedSources } from '../forecast.ts';
import type { PlannedStage, PlannedStep } from '../plan.ts';
import { whyNotRunnable } from './emulation.ts';

/**
 * Makes sure, before anything is built, that the commands of other platforms can run here. A RUN that the cache has for certain
 * needs nothing, nor does a stage without RUN.
 *
 * @throws BuildError `E_PLATFORM_NOT_RUNNABLE` at the first RUN that could not.
 */
export async function requireRunnable(
  targets: readonly PlannedStage[],
  resultOf: ResultOf,
  scratch: string,
  signal?: AbortSignal,
): Promise<void> {
  const tried = new Set<string>();
  for (const { stage, step } of commandsOf(targets, resultOf)) {
    const platform = formatPlatform(stage.platform);
    if (tried.has(platform)) continue;
    tried.add(platform);
    const obstacle = await whyNotRunnable(stage.platform, scratch, signal);
    if (obstacle === undefined) continue;
    throw new BuildError(`RUN for ${platform} cannot run here: ${obstacle.reason}`, {
      code: 'E_PLATFORM_NOT_RUNNABLE',
      where: step.where,
      remedy: obstacle.remedy,
    });
  }
}

/** The commands that may have to run, with their stages, in the order of the Dockerfile. */
function commandsOf(
  targets: readonly PlannedStage[],
  resultOf: ResultOf,
): { readonly stage: PlannedStage; readonly step: PlannedStep }[] {
  const needed = new Set<PlannedStage>();
  const need = (stage: PlannedStage): void => {
    if (needed.has(stage)) return;
    if (stage.base.kind === 'stage') need(stage.base.stage);
    for (const source of wantedSources(stage, resultOf)) need(source);
    needed.add(stage);
  };
  for (const target of targets) need(target);
  return [...needed].flatMap((stage) =>
    stage.steps
      .slice(forecast(stage, resultOf).certain)
      .filter(({ operation }) => operation.kind === 'run')
      .map((step) => ({ stage, step })),
  );
}
