import type { WarmingImage } from '../types.ts';

/** What an image's phase and history come to, for people. `stale`: it is there, but can no longer be refreshed. */
export type ImageState = 'warm' | 'stale' | 'pulling' | 'checking' | 'waiting' | 'failed';

/** States that a visitor looks for together. */
export const stateGroups = ['warm', 'moving', 'failing'] as const;
export type StateGroup = (typeof stateGroups)[number];

export const groupLabels: Readonly<Record<StateGroup, string>> = {
  warm: 'Warm',
  moving: 'In progress',
  failing: 'Failing',
};

export const stateLabels: Readonly<Record<ImageState, string>> = {
  warm: 'Warm',
  stale: 'Warm, not refreshed',
  pulling: 'Pulling',
  checking: 'Checking',
  waiting: 'Waiting',
  failed: 'Failed',
};

export function stateOf({ phase, digest, failures }: WarmingImage): ImageState {
  if (phase === 'pulling' || phase === 'checking') return phase;
  if (phase === 'pending') return 'waiting';
  if (phase === 'failed' || failures > 0) return digest === undefined ? 'failed' : 'stale';
  return 'warm';
}

export function groupOf(state: ImageState): StateGroup {
  if (state === 'warm') return 'warm';
  return state === 'failed' || state === 'stale' ? 'failing' : 'moving';
}
