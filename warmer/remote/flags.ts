import type { Option } from 'commander';
import {
  listFlag,
  logFlags,
  type LogFlags,
  outputFlag,
  type OutputFlags,
  pushFlags,
  type PushFlags,
  registryFlags,
  type RegistryFlags,
  registryOptions,
  valueFlag,
} from '../../src/cli/index.ts';
import {
  type CacheInventory,
  type EntryStore,
  openEntryStore,
  openTrust,
  readInventory,
} from '../../src/layercache/index.ts';
import { keepHeapSmall } from '../../src/os/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { Progress, reportTo, UsageError } from '../../src/support/index.ts';

/** What all commands about a cache repository are told. */
export interface RemoteFlags extends RegistryFlags, PushFlags, LogFlags, OutputFlags {
  readonly cacheRepo?: string;
  readonly cacheVerifyKey?: readonly string[];
}

export function remoteFlags(): Option[] {
  return [
    valueFlag('--cache-repo <repository>', 'the layer cache: a repository, or oci:DIR'),
    ...registryFlags(),
    ...pushFlags(),
    outputFlag(),
    ...logFlags(),
  ];
}

/** Of commands that show who signed entries. */
export function verifyKeyFlag(): Option {
  return listFlag(
    '--cache-verify-key <file>',
    'verify signatures with this public key, in a file or env:NAME',
  );
}

/** A cache that is open to be listed or pruned, and everything that was found in it. */
export interface OpenRemote {
  readonly store: EntryStore;
  readonly inventory: CacheInventory;
  readonly progress: Progress;
}

/** Reads the cache that the flags name, and works with it. @throws UsageError when they name none. */
export async function withRemote<T>(
  flags: RemoteFlags,
  signal: AbortSignal,
  work: (remote: OpenRemote) => Promise<T> | T,
): Promise<T> {
  if (flags.cacheRepo === undefined)
    throw new UsageError('no layer cache is named', {
      code: 'E_CACHE_REPO_MISSING',
      remedy: 'Name it with --cache-repo registry.example/team/cache, or oci:DIR.',
    });
  keepHeapSmall();
  const progress = new Progress();
  using _reporter = reportTo(progress, flags);
  await using client = new RegistryClient(registryOptions(flags, progress));
  const store = openEntryStore(flags.cacheRepo, client);
  const { trusted } = await openTrust({ signKey: undefined, verifyKeys: flags.cacheVerifyKey ?? [] });
  const inventory = await readInventory(store, { trusted, progress, signal });
  return await work({ store, inventory, progress });
}

export function writeJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
}
