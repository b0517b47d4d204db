import { neededStages, type ResolvedStage, withTriggers } from '../src/dockerfile/index.ts';
import type { ContainerConfig } from '../src/oci/index.ts';
import type { PlanOptions } from './plan.ts';

/** How {@link expandTriggers} learns of the images that stages are made from. */
export interface TriggerSource {
  /** Finds all images that these stages name, at once. */
  readonly resolve: (stages: readonly ResolvedStage[]) => Promise<unknown>;
  /** The configuration of the image that a stage is made from; undefined when that is none. */
  readonly configOf: (stage: ResolvedStage) => Promise<ContainerConfig | undefined>;
}

/**
 * The stages that are needed, each after what it needs, with the triggers of ONBUILD before their own instructions. A trigger
 * may copy from a stage that nothing else needs, whose base may have triggers again: so what is needed is looked at until it
 * grows no more (as BuildKit does it).
 *
 * @throws BuildError for triggers that cannot be, at the line of the FROM.
 */
export async function expandTriggers(
  options: Pick<PlanOptions, 'dockerfile' | 'graph' | 'origins'>,
  source: TriggerSource,
): Promise<ResolvedStage[]> {
  const { dockerfile, graph, origins } = options;
  const target = graph.stages.at(-1)?.stage.index ?? 0;
  const all = [...graph.all];
  const expanded = new Set<number>();
  for (;;) {
    const needed = neededStages(dockerfile, all, target);
    const missing = needed.filter(({ stage }) => !expanded.has(stage.index));
    if (missing.length === 0) return needed;
    await source.resolve(missing);
    let hasTriggers = false;
    for (const resolved of missing) {
      const { index } = resolved.stage;
      expanded.add(index);
      const triggers = await triggersOf(resolved, all, source);
      if (triggers.length === 0) continue;
      hasTriggers = true;
      all[index] = withTriggers(dockerfile, resolved, triggers, graph, origins);
    }
    if (!hasTriggers) return needed;
    await source.resolve(missing.flatMap(({ stage }) => all[stage.index] ?? []));
  }
}

async function triggersOf(
  resolved: ResolvedStage,
  all: readonly ResolvedStage[],
  { configOf }: TriggerSource,
): Promise<readonly string[]> {
  const { base } = resolved;
  if (base.kind !== 'stage') return (await configOf(resolved))?.OnBuild ?? [];
  const instructions = all[base.index]?.stage.instructions ?? [];
  return instructions.flatMap((instruction) => (instruction.kind === 'onbuild' ? [instruction.trigger] : []));
}
