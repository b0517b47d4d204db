export { type BuildPlan, planPlatforms, type PlatformPlan } from './plan-platforms.ts';
export { requireRunnable } from './require-runnable.ts';
export { shareStages } from './share-stages.ts';
