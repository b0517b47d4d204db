import { InvalidArgumentError, type Option } from 'commander';
import { booleanFlag, listFlag, parseSeconds, parseSize, valueFlag } from '../../src/cli/index.ts';
import { type CacheKey, defaultGraceSeconds, type EntryPolicy } from '../../src/layercache/index.ts';

/** What the flags of {@link entryPolicyFlags} give. */
export interface EntryPolicyFlags {
  readonly olderThan?: number;
  readonly unusedFor?: number;
  readonly maxEntries?: number;
  readonly maxSize?: number;
  readonly keepLast?: number;
  readonly unreachable: boolean;
  readonly all: boolean;
  readonly gracePeriod: number;
}

/** What the flags of {@link keepFlags} give. */
export interface KeepFlags {
  readonly keepDockerfile: readonly string[];
  readonly keepKeys: readonly string[];
  readonly context?: string;
  readonly buildArg: readonly string[];
}

/** The flags that say what goes. */
export function entryPolicyFlags(): Option[] {
  return [
    valueFlag('--older-than <duration>', 'only entries made longer ago than this').argParser(parseSeconds),
    valueFlag('--unused-for <duration>', 'only entries that no build took for this long').argParser(
      parseSeconds,
    ),
    valueFlag('--max-entries <number>', 'least recently used first, until so many are left').argParser(
      parseCount,
    ),
    valueFlag('--max-size <size>', 'least recently used first, until all blobs take no more: 20GB').argParser(
      parseSize,
    ),
    valueFlag(
      '--keep-last <number>',
      'keep so many of the newest chains of each image, Dockerfile and stage',
    ).argParser(parseCount),
    booleanFlag('--unreachable', 'entries that no build can hit: on a gap, or on a step made anew', false),
    booleanFlag('-a, --all', 'everything that nothing keeps', false),
    valueFlag('--grace-period <duration>', 'leave what was made or taken less than this ago (default: 1h)')
      .argParser(parseSeconds)
      .default(defaultGraceSeconds, '1h'),
  ];
}

/** The flags that say what stays whatever the others say. */
export function keepFlags(): Option[] {
  return [
    listFlag('--keep-dockerfile <path>', 'keep what this Dockerfile can hit today, in the context'),
    valueFlag('--context <directory>', 'the build context of --keep-dockerfile (default: .)'),
    listFlag('--build-arg <name=value>', 'value of an ARG of the Dockerfiles that are kept'),
    listFlag('--keep-keys <file>', 'keep what a build can hit: the output of executor explain -o json'),
  ];
}

export function entryPolicy(
  flags: EntryPolicyFlags,
  keepKeys: ReadonlySet<CacheKey> | undefined,
): EntryPolicy {
  const { unreachable, all, maxEntries, maxSize, keepLast } = flags;
  return {
    ...{ unreachable, all, maxEntries, maxSize, keepLast, keepKeys },
    olderThanSeconds: flags.olderThan,
    unusedForSeconds: flags.unusedFor,
    graceSeconds: flags.gracePeriod,
  };
}

function parseCount(text: string): number {
  if (!/^[0-9]{1,7}$/.test(text)) throw new InvalidArgumentError('It must be a number.');
  return Number(text);
}
