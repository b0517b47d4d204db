import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { messageOf } from '../../src/support/index.ts';
import type { StoredImageSummary, Volume, VolumeUsage } from '../../src/volume/index.ts';
import type { DiskPolicy } from './configuration.ts';
import { usedBytes } from './disk-keeper.ts';
import type { Flight } from './flight.ts';
import { nameOf } from './image-key.ts';
import type { ScheduledImage } from './schedule.ts';
import type { ImagePhase, ImageSource, WarmingImage, WarmingStatus } from './types.ts';
import { isWarm } from './volume-view.ts';

/** Everything that is known of images, by key. */
export interface ImageFacts {
  readonly scheduled: ReadonlyMap<string, ScheduledImage>;
  readonly stored: ReadonlyMap<string, StoredImageSummary>;
  readonly flights: ReadonlyMap<string, Flight>;
  readonly users: ReadonlyMap<string, readonly string[]>;
  /** True for what is on the volume because a build asked for it. */
  readonly isOnDemand: (key: string) => boolean;
}

/** The images of the status: first what is kept warm, then what builds asked for, then whatever else lies on the volume. */
export function describeImages(facts: ImageFacts): WarmingImage[] {
  const { scheduled, stored, flights } = facts;
  const keys = new Set([...scheduled.keys(), ...flights.keys(), ...stored.keys()]);
  return [...keys].flatMap((key) => describeImage(facts, key) ?? []);
}

function describeImage(facts: ImageFacts, key: string): WarmingImage | undefined {
  const scheduled = facts.scheduled.get(key);
  const stored = facts.stored.get(key);
  const flight = facts.flights.get(key);
  const name = scheduled === undefined ? (flight?.name ?? stored) : nameOf(scheduled.wish);
  if (name === undefined) return undefined;
  return {
    reference: name.reference,
    platform: name.platform,
    source: sourceOf(facts, key),
    phase: phaseOf(scheduled, stored, flight),
    digest: stored?.digest,
    size: stored?.size,
    pinned: stored?.pinned ?? scheduled?.wish.pin ?? false,
    pulledAt: stored?.pulledAt,
    checkedAt: stored?.checkedAt,
    nextRefreshAt: scheduled?.dueAt === undefined ? undefined : new Date(scheduled.dueAt),
    lastUsedAt: stored?.lastUsedAt,
    uses: stored?.uses ?? 0,
    failures: scheduled?.failures ?? 0,
    lastError: scheduled?.lastError,
    transfer: flight?.transfer,
    usedBy: facts.users.get(key) ?? [],
  };
}

function sourceOf({ scheduled, isOnDemand, flights }: ImageFacts, key: string): ImageSource {
  const source = scheduled.get(key)?.wish.source;
  if (source !== undefined) return source;
  return isOnDemand(key) || flights.get(key)?.reason === 'build' ? 'on-demand' : 'unmanaged';
}

/**
 * An image that is on the volume stays warm when its registry does not answer; it has failed when it is known not to be
 * what its reference names, or not there at all.
 */
function phaseOf(
  scheduled: ScheduledImage | undefined,
  stored: StoredImageSummary | undefined,
  flight: Flight | undefined,
): ImagePhase {
  if (flight !== undefined && flight.phase !== 'pending') return flight.phase;
  const failed = scheduled !== undefined && scheduled.failures > 0;
  if (isWarm(stored)) return failed && scheduled.outdated ? 'failed' : 'warm';
  if (failed) return 'failed';
  return 'pending';
}

/** What the volume takes, and the marks of the policy in bytes of its file system. */
export function describeDisk(usage: VolumeUsage, policy: DiskPolicy): WarmingStatus['disk'] {
  const { free, total } = usage;
  return {
    used: usedBytes(usage),
    free,
    total,
    high: Math.round(policy.highWaterMark * total),
    low: Math.round(policy.lowWaterMark * total),
  };
}

/** Whether everything that people asked for is there. */
export class FirstRound {
  readonly #until: number;
  #over: 'warm' | 'late' | undefined;

  /** @param until milliseconds since 1970 after which nothing is waited for. */
  constructor(until: number) {
    this.#until = until;
  }

  /** Once it is over it stays so: an image that is added later does not make a node unready. */
  check(
    scheduled: ReadonlyMap<string, ScheduledImage>,
    stored: ReadonlyMap<string, StoredImageSummary>,
    now: number,
  ): WarmingStatus['checks'][number] {
    const asked = [...scheduled].filter(
      ([, { wish }]) => wish.source === 'configured' || wish.source === 'dockerfile',
    );
    const warm = asked.filter(([key]) => isWarm(stored.get(key))).length;
    if (warm === asked.length) this.#over ??= 'warm';
    else if (now >= this.#until) this.#over ??= 'late';
    const count = `${warm} of ${asked.length} configured images are warm`;
    const detail = this.#over === 'late' && warm < asked.length ? `${count}; no longer waited for` : count;
    return { name: 'images', ok: this.#over !== undefined, detail };
  }
}

/** Whether the volume can be written and its index read. */
export async function checkVolume(
  volume: Pick<Volume, 'directory' | 'hasIndex'>,
): Promise<WarmingStatus['checks']> {
  const writable = await access(volume.directory, constants.W_OK).then(
    () => 'writable',
    (error: unknown) => error,
  );
  const index = await volume.hasIndex();
  return [
    {
      name: 'volume',
      ok: writable === 'writable',
      detail: writable === 'writable' ? `${volume.directory} is writable` : messageOf(writable),
    },
    {
      name: 'index',
      ok: index,
      detail: index ? 'open' : 'it cannot be read; it is rebuilt by the next change',
    },
  ];
}
