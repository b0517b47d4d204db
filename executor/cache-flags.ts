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
  readonly cacheFrom: readonly string[];
  readonly cacheTo?: string;
  readonly noPushCache?: boolean;
  readonly cacheSignKey?: string;
  readonly cacheVerifyKey: readonly string[];
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
    listFlag('--cache-from <repository>', 'a layer cache that is only read, in this order'),
    valueFlag('--cache-to <repository>', 'a layer cache that is only written'),
    booleanFlag('--no-push-cache', 'read layer caches but store nothing'),
    valueFlag(
      '--cache-sign-key <key>',
      'sign what is stored: a private ed25519 key in a file, env:NAME, or cmd:COMMAND that signs its input',
    ),
    listFlag(
      '--cache-verify-key <file>',
      'use only what is signed by one of these public ed25519 keys, in a file or env:NAME',
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

/** @throws UsageError also when flags contradict each other. */
export function cacheOptions(
  flags: CacheFlags,
  destinations: readonly Reference[],
  cacheDirectory: string,
): CacheOptions {
  const places = cachePlaces(flags, destinations, cacheDirectory);
  const { sources, onVolume } = places;
  const target = flags.noPushCache === true ? undefined : places.target;
  if (flags.cache !== false) requireUse(flags, { sources, target });
  return {
    sources: [...new Set(sources)],
    target,
    onVolume,
    maxAgeSeconds: flags.cacheTtl,
    signKey: flags.cache === false ? undefined : flags.cacheSignKey,
    verifyKeys: flags.cache === false ? [] : flags.cacheVerifyKey,
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

type CachePlaces = Pick<CacheOptions, 'sources' | 'target' | 'onVolume'>;

const noPlaces: CachePlaces = { sources: [], target: undefined, onVolume: false };

/** What is read and what is written. `--cache=false` turns off what any other flag says. */
function cachePlaces(
  flags: CacheFlags,
  destinations: readonly Reference[],
  cacheDirectory: string,
): CachePlaces {
  const { cache, cacheRepo, cacheFrom, cacheTo } = flags;
  if (cache === false) return noPlaces;
  requireAgreement(flags);
  if (cacheRepo !== undefined) return { ...noPlaces, sources: [cacheRepo, ...cacheFrom], target: cacheRepo };
  // Who says where to read from and write to means these and no other.
  if (cacheFrom.length > 0 || cacheTo !== undefined)
    return { ...noPlaces, sources: cacheFrom, target: cacheTo };
  const [destination] = destinations;
  if (destination === undefined) {
    const embedded = `oci:${join(cacheDirectory, 'layer-cache')}`;
    return { sources: [embedded], target: embedded, onVolume: true };
  }
  if (cache !== true) return noPlaces;
  const inferred = inferCacheRepository(destination);
  return { ...noPlaces, sources: [inferred], target: inferred };
}

/** Whoever gives a key relies on it. */
function requireUse(
  { cacheSignKey, cacheVerifyKey }: CacheFlags,
  { sources, target }: Pick<CachePlaces, 'sources' | 'target'>,
): void {
  if (cacheSignKey !== undefined && target === undefined)
    throw new UsageError('--cache-sign-key is given, but no layer is stored', {
      remedy: 'Say where with --cache, --cache-repo or --cache-to, or leave it out.',
    });
  if (cacheVerifyKey.length > 0 && sources.length === 0 && target === undefined)
    throw new UsageError('--cache-verify-key is given, but there is no layer cache', {
      remedy: 'Name one with --cache-repo or --cache-from, or leave it out.',
    });
}

function requireAgreement({ cache, cacheRepo, cacheTo, noPushCache }: CacheFlags): void {
  if (cacheRepo !== undefined && cacheTo !== undefined)
    throw new UsageError('--cache-repo and --cache-to both say where layers are stored', {
      remedy: 'Read it with --cache-from instead of --cache-repo, and write with --cache-to.',
    });
  if (cacheTo !== undefined && noPushCache === true)
    throw new UsageError('--cache-to says where layers are stored, --no-push-cache that none are', {
      remedy: 'Leave one of them out.',
    });
  if (cacheRepo !== undefined && cache === undefined)
    throw new UsageError('--cache-repo is given without --cache', { remedy: 'Add --cache.' });
}
