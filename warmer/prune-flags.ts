import type { Option } from 'commander';
import {
  booleanFlag,
  listFlag,
  parseSeconds,
  parseSizeOrShare,
  type SizeOrShare,
  valueFlag,
} from '../src/cli/index.ts';
import { parseReferencePattern } from '../src/oci/index.ts';
import { UsageError } from '../src/support/index.ts';
import type { PruneFilter, PrunePolicy } from '../src/volume/index.ts';

/** What the flags of {@link prunePolicyFlags} give. */
export interface PrunePolicyFlags {
  readonly olderThan?: number;
  readonly keepDuration?: number;
  readonly unusedFor?: number;
  readonly maxSize?: SizeOrShare;
  readonly maxUsedSpace?: SizeOrShare;
  readonly minFree?: SizeOrShare;
  readonly minFreeSpace?: SizeOrShare;
  readonly reservedSpace?: SizeOrShare;
  readonly highWaterMark?: SizeOrShare;
  readonly lowWaterMark?: SizeOrShare;
  readonly filter: readonly string[];
  readonly unpackedOnly: boolean;
  readonly all: boolean;
  readonly minAge?: number;
  readonly gracePeriod?: number;
}

/** The flags that say what prune takes. */
export function prunePolicyFlags(): Option[] {
  const duration = (flags: string, description: string): Option =>
    valueFlag(`${flags} <duration>`, description).argParser(parseSeconds);
  const space = (flags: string, description: string): Option =>
    valueFlag(`${flags} <space>`, description).argParser(parseSizeOrShare);
  return [
    duration('--older-than', 'only what was pulled longer ago than this'),
    duration('--keep-duration', 'the same as --older-than'),
    duration('--unused-for', 'only what was not used for this long'),
    space('--max-size', 'prune until the volume takes no more than this: 50GB, 512MiB or 10% of the disk'),
    space('--max-used-space', 'the same as --max-size'),
    space('--min-free', 'prune until this much of the disk is free'),
    space('--min-free-space', 'the same as --min-free'),
    space('--reserved-space', 'what the volume may take in any case; alone: prune down to this'),
    space('--high-water-mark', 'prune only when this much of the disk is used'),
    space('--low-water-mark', 'and then until no more than this is (default: the high mark)'),
    listFlag(
      '--filter <condition>',
      'until=24h, type=image, inuse=false, pinned=false, repo~=regex, id=name',
    ),
    booleanFlag('--unpacked-only', 'take unpacked layers and leave the images packed', false),
    booleanFlag('-a, --all', 'take everything that is neither pinned nor in use', false),
    duration('--min-age', 'leave what was pulled or used less than this ago'),
    duration('--grace-period', 'leave blobs that nothing refers to this long (default: 1h)'),
  ];
}

/**
 * The policy that flags and patterns give.
 *
 * @throws UsageError for filters and patterns that cannot be understood, and a thing said twice.
 */
export function prunePolicy(flags: PrunePolicyFlags, patterns: readonly string[]): PrunePolicy {
  const filters = flags.filter.map(parseFilter);
  const olderThanSeconds = either(flags, 'olderThan', 'keepDuration');
  const unusedForSeconds = latest([flags.unusedFor, ...filters.map(({ until }) => until)]);
  const policy: Partial<Record<keyof PrunePolicy, unknown>> = {
    olderThanSeconds,
    unusedForSeconds,
    maxUsedSpace: either(flags, 'maxSize', 'maxUsedSpace'),
    minFreeSpace: either(flags, 'minFree', 'minFreeSpace'),
    reservedSpace: flags.reservedSpace,
    highWaterMark: flags.highWaterMark,
    lowWaterMark: flags.lowWaterMark,
    references: patterns.map(parseReferencePattern),
    filters: filters.flatMap(({ filter }) => (filter === undefined ? [] : [filter])),
    unpackedOnly: flags.unpackedOnly,
    all: flags.all,
    minimumAgeSeconds: flags.minAge,
    gracePeriodSeconds: flags.gracePeriod,
  };
  return Object.fromEntries(Object.entries(policy).filter(([, value]) => value !== undefined));
}

function either<Name extends keyof PrunePolicyFlags>(
  flags: PrunePolicyFlags,
  short: Name,
  long: Name,
): PrunePolicyFlags[Name] {
  if (flags[short] !== undefined && flags[long] !== undefined)
    throw new UsageError(`--${dashed(short)} and --${dashed(long)} say the same and are both given`, {
      remedy: 'Give one of them.',
    });
  return flags[short] ?? flags[long];
}

function dashed(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

function latest(seconds: readonly (number | undefined)[]): number | undefined {
  const said = seconds.filter((value) => value !== undefined);
  return said.length === 0 ? undefined : Math.max(...said);
}

/** `until` is a last use, as with buildx; the other keys are compared by the volume. */
function parseFilter(text: string): { readonly until?: number; readonly filter?: PruneFilter } {
  const match = /^([a-z]+)(=|!=|~=)(.*)$/s.exec(text);
  const [, key = '', operator = '', value = ''] = match ?? [];
  if (key === 'until' && operator === '=') return { until: parseSeconds(value) };
  if (key === 'type' || key === 'inuse' || key === 'pinned' || key === 'repo' || key === 'id')
    return { filter: { key, operator: operator as PruneFilter['operator'], value } };
  throw new UsageError(`--filter ${text} is no condition`, {
    remedy: 'Write until=24h, or one of type, inuse, pinned, repo, id with =, != or ~= and a value.',
  });
}
