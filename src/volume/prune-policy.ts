import type { ReferencePattern } from '../oci/index.ts';
import { UsageError, formatBytes } from '../support/index.ts';

/** An amount of space: bytes, or a part (0 to 1) of the file system that holds the volume. */
export type SpaceAmount = { readonly bytes: number } | { readonly share: number };

/** What prune takes: an image; an unpacked layer that no image has; a blob that nothing refers to; a cache of RUN steps. */
export type PruneKind = 'image' | 'layer' | 'blob' | 'cache-mount';

/** One condition on what may go, as `--filter` of buildx writes it. `~=` takes a regular expression. */
export interface PruneFilter {
  readonly key: 'type' | 'inuse' | 'pinned' | 'repo' | 'id';
  readonly operator: '=' | '!=' | '~=';
  readonly value: string;
}

/**
 * What may go and how much. Conditions (ages, patterns, filters) are all to be met. Bounds (spaces, water marks) end the
 * pruning as soon as they are kept, least recently used first; without a bound everything that meets the conditions goes.
 * Blobs that nothing refers to go first, whatever the bounds.
 */
export interface PrunePolicy {
  /** Only what was pulled or unpacked longer ago than this, in seconds. */
  readonly olderThanSeconds?: number;
  /** Only what was not used for this long, in seconds; what was never used counts from when it was pulled. */
  readonly unusedForSeconds?: number;
  /** The most that blobs and unpacked layers together may take. */
  readonly maxUsedSpace?: SpaceAmount;
  /** The least that must be free on the file system. */
  readonly minFreeSpace?: SpaceAmount;
  /** What blobs and unpacked layers may take in any case: the other bounds do not go below it. */
  readonly reservedSpace?: SpaceAmount;
  /** As kubelet's: nothing goes until this much of the file system is used, */
  readonly highWaterMark?: SpaceAmount;
  /** and then so much that no more than this is used. Default: the high mark. */
  readonly lowWaterMark?: SpaceAmount;
  /** Only images that match one of these; layers and blobs of no image then stay. */
  readonly references?: readonly ReferencePattern[];
  readonly filters?: readonly PruneFilter[];
  /** Only unpacked layers go; images stay, packed. */
  readonly unpackedOnly?: boolean;
  /** Says that everything may go. Without it a policy that names neither condition nor bound is refused. */
  readonly all?: boolean;
  /** What was pulled or used less than this ago stays, in seconds. Default 0. */
  readonly minimumAgeSeconds?: number;
  /** Blobs that nothing refers to stay this long, in seconds, for pulls that go on where they stopped. Default an hour. */
  readonly gracePeriodSeconds?: number;
  /** Images that stay like pinned ones, for instance because a configuration names them. */
  readonly keep?: (image: { readonly reference: string; readonly platform: string }) => boolean;
}

/** How long blobs that nothing refers to stay, in seconds, when a policy does not say. */
export const defaultGracePeriodSeconds = 3600;

const conditions = ['olderThanSeconds', 'unusedForSeconds', 'references', 'filters', 'unpackedOnly'] as const;
const bounds = ['maxUsedSpace', 'minFreeSpace', 'reservedSpace', 'highWaterMark'] as const;

/**
 * Checks a policy.
 *
 * @param total bytes of the file system, for comparing shares with bytes.
 * @throws UsageError `E_PRUNE_POLICY_EMPTY` for one that says nothing, `E_PRUNE_POLICY_INVALID` for one that contradicts itself.
 */
export function requirePolicy(policy: PrunePolicy, total: number): void {
  const { highWaterMark: high, lowWaterMark: low } = policy;
  if (low !== undefined && high === undefined)
    throw invalid('there is a low water mark but no high one', 'Give --high-water-mark too.');
  if (high !== undefined && low !== undefined && bytesOf(low, total) > bytesOf(high, total))
    throw invalid(
      `the low water mark (${describeAmount(low)}) is above the high one (${describeAmount(high)})`,
      'Pruning starts above the high mark and ends at the low one.',
    );
  for (const filter of policy.filters ?? []) requireFilter(filter);
  if (policy.all !== true && [...conditions, ...bounds].every((name) => saysNothing(policy[name])))
    throw new UsageError('the policy says neither what may go nor how much', {
      code: 'E_PRUNE_POLICY_EMPTY',
      remedy: 'Give --unused-for, --max-size or another condition or bound; --all for everything.',
    });
}

function saysNothing(value: unknown): boolean {
  return value === undefined || value === false || (Array.isArray(value) && value.length === 0);
}

function requireFilter({ key, operator, value }: PruneFilter): void {
  if (operator === '~=') {
    try {
      new RegExp(value);
    } catch (cause) {
      throw invalid(`${JSON.stringify(value)} is no regular expression`, 'Mend the filter.', cause);
    }
    return;
  }
  const allowed = {
    inuse: ['true', 'false'],
    pinned: ['true', 'false'],
    type: ['image', 'layer', 'blob', 'cache-mount'],
  };
  if (key !== 'repo' && key !== 'id' && !allowed[key].includes(value))
    throw invalid(`${key} is never ${JSON.stringify(value)}`, `It is ${allowed[key].join(' or ')}.`);
}

function invalid(message: string, remedy: string, cause?: unknown): UsageError {
  return new UsageError(message, { code: 'E_PRUNE_POLICY_INVALID', remedy, cause });
}

/** An amount in bytes, given the size of the file system. */
export function bytesOf(amount: SpaceAmount, total: number): number {
  return 'bytes' in amount ? amount.bytes : Math.round(amount.share * total);
}

function describeAmount(amount: SpaceAmount): string {
  return 'bytes' in amount ? formatBytes(amount.bytes) : `${amount.share * 100}%`;
}

/** What of a thing the filters look at. */
export interface FilterSubject {
  readonly type: PruneKind;
  readonly pinned: boolean;
  /** Of a cache of RUN steps. */
  readonly id?: string | undefined;
  /** `registry/repository` of an image. */
  readonly repo: string | undefined;
  /** Asked for only when a filter wants to know. */
  inuse(): boolean;
}

/** True when a thing meets all filters. */
export function meetsFilters(filters: readonly PruneFilter[], subject: FilterSubject): boolean {
  return filters.every(({ key, operator, value }) => {
    const actual = key === 'inuse' ? String(subject.inuse()) : String(subject[key] ?? '');
    if (operator === '~=') return new RegExp(value).test(actual);
    return (actual === value) === (operator === '=');
  });
}

/** The space that pruning starts from, in bytes. */
export interface Space {
  /** Blobs and unpacked layers. */
  readonly used: number;
  /** Of the file system. */
  readonly free: number;
  readonly total: number;
}

/** How many bytes the bounds of a policy want freed: Infinity when it has none, 0 when they are kept. */
export function bytesToFree(policy: PrunePolicy, { used, free, total }: Space): number {
  if (bounds.every((name) => policy[name] === undefined)) return Infinity;
  const wanted: number[] = [];
  if (policy.maxUsedSpace !== undefined) wanted.push(used - bytesOf(policy.maxUsedSpace, total));
  if (policy.minFreeSpace !== undefined) wanted.push(bytesOf(policy.minFreeSpace, total) - free);
  if (policy.highWaterMark !== undefined) wanted.push(aboveMarks(policy, policy.highWaterMark, total, free));
  const reserved = policy.reservedSpace === undefined ? 0 : bytesOf(policy.reservedSpace, total);
  // A reserved space alone says what to keep, as with BuildKit.
  const excess = wanted.length === 0 ? used : Math.max(...wanted);
  return Math.max(0, Math.min(excess, used - reserved));
}

function aboveMarks(policy: PrunePolicy, high: SpaceAmount, total: number, free: number): number {
  const inUse = total - free;
  if (inUse < bytesOf(high, total)) return 0;
  return inUse - bytesOf(policy.lowWaterMark ?? high, total);
}
