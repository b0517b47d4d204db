import type { Platform, Reference } from '../../src/oci/index.ts';
import type { ImageName, Volume } from '../../src/volume/index.ts';

type Amount = { readonly bytes: number } | { readonly share: number };

export interface PrunePolicy {
  readonly unusedForSeconds?: number;
  readonly maxUsedSpace?: Amount;
  readonly minFreeSpace?: Amount;
  readonly highWaterMark?: Amount;
  readonly lowWaterMark?: Amount;
  readonly keep?: (image: ImageName) => boolean;
}

export type Skipped = Readonly<Record<'in_use' | 'pinned' | 'too_young', number>>;

/** The housekeeping of a volume, as far as the daemon uses it. */
export interface Housekeeping {
  planPrune(policy: PrunePolicy): Promise<{ readonly missingBytes: number }>;
  prune(
    what: PrunePolicy | { readonly missingBytes: number },
    signal?: AbortSignal,
  ): Promise<{ readonly reclaimedBytes: number; readonly skipped: Skipped }>;
  clean(): Promise<void>;
  setPinned(reference: Reference, platform: Platform, pinned: boolean): Promise<unknown>;
}

/** The volume with its housekeeping, where it has one. */
export function housekeepingOf(volume: object): Housekeeping | undefined {
  return 'planPrune' in volume ? (volume as Volume & Housekeeping) : undefined;
}
