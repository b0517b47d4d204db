import { join } from 'node:path';
import type { Option } from 'commander';
import { booleanFlag, listFlag, parseSeconds, valueFlag } from '../src/cli/index.ts';
import { inferCacheRepository } from '../src/layercache/index.ts';
import type { Reference } from '../src/oci/index.ts';
import { UsageError } from '../src/support/index.ts';
import type { CacheOptions } from './options.ts';

/** What the flags of {@link cacheFlags} give. */
export interface CacheFlags {
  readonly cache?: boolean;
  readonly cacheRepo?: string;
  readonly cacheTtl: number;
  readonly cacheRunLayers: boolean;
  readonly cacheCopyLayers: boolean;
  readonly noCache: boolean;
  readonly noCacheFilter: readonly string[];
  readonly cacheIgnoreArg: readonly string[];
}

/** The flags that say what is taken from the layer cache. */
export function cacheFlags(): Option[] {
  return [
    booleanFlag('--cache', 'reuse and store the layers of steps'),
    valueFlag(
      '--cache-repo <repository>',
      'where layers are kept: a repository, or oci:DIR (default: <destination>/cache)',
    ),
    valueFlag('--cache-ttl <duration>', 'layers older than this are made again')
      .argParser(parseSeconds)
      .default(336 * 3600, '336h'),
    booleanFlag('--cache-run-layers', 'cache RUN steps', true),
    booleanFlag('--cache-copy-layers', 'cache COPY and ADD steps', true),
    booleanFlag('--no-cache', 'take nothing from the layer cache, but store what is made', false),
    listFlag('--no-cache-filter <stage>', 'take nothing of this stage from the layer cache'),
    listFlag('--cache-ignore-arg <name>', 'leave this ARG out of the keys of RUN steps'),
  ];
}

/** @throws UsageError. */
export function cacheOptions(
  flags: CacheFlags,
  destinations: readonly Reference[],
  cacheDirectory: string,
): Omit<CacheOptions, 'push'> {
  const location = cacheLocation(flags, destinations, cacheDirectory);
  return {
    location,
    onVolume: location === embeddedCache(cacheDirectory) && flags.cacheRepo === undefined,
    maxAgeSeconds: flags.cacheTtl,
    rules: {
      noCache: flags.noCache,
      noCacheStages: flags.noCacheFilter,
      ignoredArguments: new Set(flags.cacheIgnoreArg.map(parseArgumentName)),
    },
    runLayers: flags.cacheRunLayers,
    copyLayers: flags.cacheCopyLayers,
  };
}

function parseArgumentName(name: string): string {
  if (/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) return name;
  throw new UsageError(`--cache-ignore-arg ${name} is not the name of an ARG`, {
    remedy: 'Give the name alone, without a value.',
  });
}

function embeddedCache(cacheDirectory: string): string {
  return `oci:${join(cacheDirectory, 'layer-cache')}`;
}

function cacheLocation(
  flags: CacheFlags,
  destinations: readonly Reference[],
  cacheDirectory: string,
): string | undefined {
  const [destination] = destinations;
  if (flags.cache === false) return undefined;
  if (flags.cacheRepo !== undefined) {
    if (flags.cache === undefined)
      throw new UsageError('--cache-repo is given without --cache', { remedy: 'Add --cache.' });
    return flags.cacheRepo;
  }
  if (destination === undefined) return embeddedCache(cacheDirectory);
  return flags.cache === true ? inferCacheRepository(destination) : undefined;
}
