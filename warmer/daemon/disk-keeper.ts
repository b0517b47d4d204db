import { statfs } from 'node:fs/promises';
import type { SizeOrShare } from '../../src/cli/index.ts';
import {
  EnvironmentError,
  formatBytes,
  messageOf,
  type Progress,
  systemErrorCode,
} from '../../src/support/index.ts';
import type { PrunePlan, PrunePolicy, Skipped, Volume, VolumeUsage } from '../../src/volume/index.ts';
import type { DiskPolicy } from './configuration.ts';
import type { WarmingEvent } from './types.ts';

/** Who an image on the volume belongs to: what is kept warm stays, the rest goes by the policy. */
export type Belonging = 'kept' | 'on-demand' | 'unmanaged';

export interface DiskKeeperParts {
  readonly volume: Pick<Volume, 'directory' | 'usage' | 'planPrune' | 'prune' | 'clean'>;
  readonly belonging: (image: { readonly reference: string; readonly platform: string }) => Belonging;
  readonly emit: (event: Extract<WarmingEvent, { type: 'prune' }>) => void;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

/** Space that is set aside for one pull until this is disposed. */
export interface Reservation extends AsyncDisposable {
  /**
   * Sets space aside, after pruning when that helps.
   *
   * @throws EnvironmentError `E_NO_SPACE` when the policy's bounds would not be kept.
   */
  take(bytes: number): Promise<void>;
  /** What has arrived already takes its space; what is unpacked of it is set aside until the end. */
  progress(bytes: number): void;
}

interface Space {
  /** Blobs, unpacked layers and unfinished files of the volume; 0 when the policy does not ask. */
  readonly used: number;
  readonly free: number;
  readonly total: number;
}

interface Pruned {
  readonly reclaimedBytes: number;
  readonly skipped: Skipped;
}

const noSkips: Skipped = { in_use: 0, pinned: 0, too_young: 0 };

/** Keeps the volume within the disk policy: before and after pulls, and from time to time. */
export class DiskKeeper {
  readonly #parts: DiskKeeperParts;
  #policy: DiskPolicy;
  readonly #reserved = new Map<object, number>();
  /** One look at the disk and one prune at a time, or two pulls would be given the same space. */
  #queue: Promise<unknown> = Promise.resolve();

  constructor(parts: DiskKeeperParts, policy: DiskPolicy) {
    this.#parts = parts;
    this.#policy = policy;
  }

  configure(policy: DiskPolicy): void {
    this.#policy = policy;
  }

  reserve(): Reservation {
    const key = {};
    let taken = 0;
    return {
      take: (bytes) =>
        this.#alone(async () => {
          await this.#admit(bytes);
          taken = bytes;
          this.#reserved.set(key, bytes);
        }),
      progress: (bytes) => {
        if (this.#reserved.has(key)) this.#reserved.set(key, Math.max(0, taken - bytes));
      },
      [Symbol.asyncDispose]: () => {
        this.#reserved.delete(key);
        return Promise.resolve();
      },
    };
  }

  /** Removes what is too old, and what is too much; cleans up after processes that were killed. */
  async tend(): Promise<void> {
    await this.#alone(async () => {
      const { belonging } = this.#parts;
      const { unusedForSeconds, keepOnDemandSeconds } = this.#policy;
      const old = async (kind: Belonging, seconds: number): Promise<number> =>
        (
          await this.#prune({
            unusedForSeconds: seconds,
            keep: (image) => belonging(image) !== kind,
          })
        ).reclaimedBytes;
      try {
        await this.#parts.volume.clean();
        let reclaimedBytes = await old('on-demand', keepOnDemandSeconds);
        if (unusedForSeconds !== undefined) reclaimedBytes += await old('unmanaged', unusedForSeconds);
        const { highWaterMark, lowWaterMark } = this.#policy;
        const bounds = await this.#prune({
          ...this.#bounds(0, await this.#measure()),
          highWaterMark: { share: highWaterMark },
          lowWaterMark: { share: lowWaterMark },
        });
        reclaimedBytes += bounds.reclaimedBytes;
        this.#parts.emit({ type: 'prune', result: 'done', reclaimedBytes, skipped: bounds.skipped });
      } catch (error) {
        if (this.#parts.signal.aborted) return;
        this.#parts.progress.warn(`the volume could not be tended: ${messageOf(error)}`);
        this.#parts.emit({ type: 'prune', result: 'failed', reclaimedBytes: 0, skipped: noSkips });
      }
    });
  }

  /** Makes sure that so many more bytes keep the bounds; what is kept warm is never given up for it. */
  async #admit(needed: number): Promise<void> {
    const { volume, belonging } = this.#parts;
    const before = await this.#measure();
    if (this.#lack(needed, before) === undefined) return;
    const policy = this.#bounds(needed + this.#otherReservations(), before);
    const plan = await volume.planPrune({
      ...policy,
      keep: (image) => belonging(image) === 'kept',
    });
    // Everything else is not thrown away for an image that does not fit even then.
    if (plan.missingBytes === 0)
      this.#parts.emit({ type: 'prune', result: 'done', ...(await this.#carryOut(plan)) });
    const lack = this.#lack(needed, await this.#measure());
    if (lack === undefined) return;
    throw new EnvironmentError(
      `the image needs about ${formatBytes(needed)} more on the volume, but ${lack}`,
      {
        code: 'E_NO_SPACE',
        where: volume.directory,
        remedy: 'Give the volume more space, keep less warm, or change the disk policy.',
      },
    );
  }

  /** Which bound so many more bytes would break, in words; undefined for none. */
  #lack(needed: number, { used, free, total }: Space): string | undefined {
    const { minFree, maxSize } = this.#policy;
    const others = this.#otherReservations();
    const left = Math.max(0, free - others);
    if (left - needed < amount(minFree, total))
      return `${formatBytes(left)} are free and disk.minFree keeps ${formatBytes(amount(minFree, total))}`;
    if (maxSize !== undefined && used + others + needed > amount(maxSize, total))
      return `it takes ${formatBytes(used + others)} and disk.maxSize is ${formatBytes(amount(maxSize, total))}`;
    return undefined;
  }

  /** The policy's hard bounds, as they must be for so many more bytes to fit. */
  #bounds(needed: number, { total }: Space): PrunePolicy {
    const { minFree, maxSize } = this.#policy;
    return {
      minFreeSpace: { bytes: amount(minFree, total) + needed },
      ...(maxSize === undefined
        ? {}
        : { maxUsedSpace: { bytes: Math.max(0, amount(maxSize, total) - needed) } }),
    };
  }

  async #prune(policy: PrunePolicy): Promise<Pruned> {
    return this.#carryOut({ keep: (image) => this.#parts.belonging(image) === 'kept', ...policy });
  }

  /** While a person prunes, nothing more is pruned. */
  async #carryOut(what: PrunePlan | PrunePolicy): Promise<Pruned> {
    try {
      const { reclaimedBytes, skipped } = await this.#parts.volume.prune(what, this.#parts.signal);
      return { reclaimedBytes, skipped };
    } catch (error) {
      if (systemErrorCode(error) !== 'E_VOLUME_LOCKED') throw error;
      return { reclaimedBytes: 0, skipped: noSkips };
    }
  }

  #otherReservations(): number {
    let sum = 0;
    for (const bytes of this.#reserved.values()) sum += bytes;
    return sum;
  }

  async #measure(): Promise<Space> {
    const { volume } = this.#parts;
    const { bavail, blocks, bsize } = await statfs(volume.directory);
    const used = this.#policy.maxSize === undefined ? 0 : usedBytes(await volume.usage());
    return { used, free: bavail * bsize, total: blocks * bsize };
  }

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    this.#queue = result.catch(() => undefined);
    return result;
  }
}

/** Bytes that a volume's own files take. */
export function usedBytes({ blobs, layers, ingest }: VolumeUsage): number {
  return blobs.bytes + layers.bytes + ingest.bytes;
}

function amount(amount: SizeOrShare, total: number): number {
  return 'bytes' in amount ? amount.bytes : Math.round(amount.share * total);
}
