import type { Platform, Reference } from '../src/oci/index.ts';
import type { CacheRules } from './plan.ts';

/** What is built: a Dockerfile and its context. */
export interface SourceOptions {
  readonly context: string;
  readonly dockerfile: string;
  /** What is built, so that versions of one thing are known as such: the image or else the context, and the Dockerfile. */
  readonly subject: string;
  readonly target: string | undefined;
  readonly buildArguments: ReadonlyMap<string, string>;
  readonly platform: Platform;
}

/** What the user asked of one build, checked and with its defaults. */
export interface BuildOptions extends SourceOptions {
  readonly labels: ReadonlyMap<string, string>;
  readonly outputs: OutputOptions;
  readonly cache: CacheOptions;
  /** The cache volume; made when it is missing and can be. */
  readonly cacheDirectory: string;
  /** Wait so long for the node's warmer to be ready; undefined: do not wait. */
  readonly waitForWarmerSeconds: number | undefined;
  /** Where the build keeps its own files; undefined: on the volume, or the system's temporary directory. */
  readonly scratchDirectory: string | undefined;
  readonly compression: 'gzip' | 'zstd';
}

export interface OutputOptions {
  readonly destinations: readonly Reference[];
  readonly push: boolean;
  readonly tarPath: string | undefined;
  readonly ociLayoutPath: string | undefined;
  readonly digestFile: string | undefined;
}

export interface CacheOptions {
  /** `oci:DIR` or a repository; undefined: no cache. */
  readonly location: string | undefined;
  /** It was not asked for but lies on the cache volume, and is only read when that can only be read. */
  readonly onVolume: boolean;
  readonly maxAgeSeconds: number;
  readonly push: boolean;
  readonly rules: CacheRules;
  readonly runLayers: boolean;
  readonly copyLayers: boolean;
}
