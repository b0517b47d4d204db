import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Option } from 'commander';
import { defaultCacheDirectory, valueFlag } from '../src/cli/index.ts';

export interface VolumeFlags {
  readonly cacheDir?: string;
}

export function cacheDirFlag(): Option {
  return valueFlag(
    '-c, --cache-dir <directory>',
    "the cache volume (default: /cache when it is there, otherwise the user's cache directory)",
  );
}

/** The volume that the flags name, or the default one. */
export function volumeDirectory(flags: VolumeFlags): string {
  return resolve(flags.cacheDir ?? defaultCacheDirectory(existsSync));
}
