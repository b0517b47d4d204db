import { type Origin, resolveStages } from '../../src/dockerfile/index.ts';
import { hostPlatform, type Platform } from '../../src/oci/index.ts';
import { type PlannedStage, planBuild, type PlanOptions } from '../plan.ts';
import { shareStages } from './share-stages.ts';

export interface PlatformsRequest extends Omit<
  PlanOptions,
  'graph' | 'platform' | 'isOneOfSeveral' | 'consumed'
> {
  readonly target: string | undefined;
  /** What was asked for; none: what the Dockerfile says, and else this machine's. */
  readonly platforms: readonly Platform[];
}

/** What is built for one platform. */
export interface PlatformPlan {
  readonly platform: Platform;
  /** What the image says it is for. */
  readonly imagePlatform: Platform;
  readonly target: PlannedStage;
  /** The stages as the Dockerfile has them. */
  readonly stages: readonly PlannedStage[];
}

/** What is built, for all platforms. */
export interface BuildPlan {
  readonly platforms: readonly PlatformPlan[];
  /** All that are needed, each once for however many platforms; each comes after what it needs. */
  readonly stages: readonly PlannedStage[];
  /** Names of build arguments that some ARG declares. */
  readonly consumed: ReadonlySet<string>;
}

/** Plans a build for each platform, and joins what the plans have in common. @throws as {@link planBuild}. */
export async function planPlatforms(request: PlatformsRequest): Promise<BuildPlan> {
  const {
    dockerfile,
    target,
    origins: contexts = new Map<string, Origin>(),
    buildArguments,
    platforms: asked,
  } = request;
  const platforms = asked.length === 0 ? [hostPlatform()] : asked;
  const isOneOfSeveral = platforms.length > 1;
  const consumed = new Set<string>();
  const planning = platforms.map(async (platform) => {
    const graph = resolveStages(dockerfile, { target, buildArguments, platform, contexts });
    for (const name of [...graph.globals.keys(), ...graph.automatic.keys()]) consumed.add(name);
    // Without keys it cannot be told what is the same.
    const keyed = request.keyed || isOneOfSeveral;
    return planBuild({ ...request, keyed, graph, platform, isOneOfSeveral, consumed });
  });
  const plans: PlannedStage[][] = [];
  // Nothing is left running when something fails.
  for (const plan of await Promise.allSettled(planning)) {
    if (plan.status === 'rejected') throw plan.reason;
    plans.push(plan.value);
  }
  const shared = isOneOfSeveral
    ? shareStages(plans)
    : { targets: plans.flatMap((plan) => plan.slice(-1)), stages: plans.flat() };
  return {
    platforms: platforms.flatMap((platform, index) => {
      const [plan, planned] = [shared.targets[index], plans[index]];
      if (plan === undefined || planned === undefined) return [];
      // As BuildKit does: what was asked for counts before what the base says.
      const imagePlatform = asked.length === 0 ? plan.platform : platform;
      return [{ platform, imagePlatform, target: plan, stages: planned }];
    }),
    stages: shared.stages,
    consumed,
  };
}
