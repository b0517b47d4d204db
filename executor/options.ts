import { resolve } from 'node:path';
import { type ContextAddress, type RepositoryAccess, standardInput } from './context/index.ts';
import { contextPath, type NamedContextSources } from './named-contexts.ts';
import type { Platform, Reference } from '../src/oci/index.ts';
import type { CacheRules } from './plan.ts';
import type { IsolationKind } from './isolation/index.ts';

/** Where what is built comes from: a context, and a Dockerfile in it or anywhere. */
export interface ContextOptions {
  readonly context: ContextAddress;
  /** A directory of the context that is the context. */
  readonly contextSubPath: string | undefined;
  /** How the server of a context that is a repository is reached. */
  readonly contextAccess: RepositoryAccess;
  /** As it was given: relative to the context, or to the working directory. */
  readonly dockerfile: string;
}

/** What is built: a Dockerfile and its context. */
export interface SourceOptions extends ContextOptions {
  /** What `--build-context` puts in the place of stages and images. */
  readonly contexts: NamedContextSources;
  /** What is built, so that versions of one thing are known as such: the image or else the context, and the Dockerfile. */
  readonly subject: string;
  readonly target: string | undefined;
  readonly buildArguments: ReadonlyMap<string, string>;
  readonly platform: Platform;
  /** Seconds since 1970: no time in the layers that are made is later, and the image is of that date. */
  readonly sourceDate: number | undefined;
}

/** What the user asked of one build, checked and with its defaults. */
export interface BuildOptions extends SourceOptions {
  readonly labels: ReadonlyMap<string, string>;
  /** What the build checks find fails the build. */
  readonly checkError: boolean;
  readonly outputs: OutputOptions;
  readonly cache: CacheOptions;
  /** The cache volume; made when it is missing and can be. */
  readonly cacheDirectory: string;
  /** Wait so long for the node's warmer to be ready; undefined: do not wait. */
  readonly waitForWarmerSeconds: number | undefined;
  /** Where the build keeps its own files; undefined: on the volume, or the system's temporary directory. */
  readonly scratchDirectory: string | undefined;
  readonly compression: 'gzip' | 'zstd';
  readonly isolation: IsolationChoice;
}

export interface IsolationChoice {
  readonly kind: IsolationKind;
  /** Builds in place also where the root file system is not that of a container of Kiln's. */
  readonly force: boolean;
  /** Empties the root after a build in place, also when the container ends with it. */
  readonly cleanup: boolean;
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

/**
 * The paths that a build was given, and that are not an image's wherever they lie.
 *
 * @param dockerfile where the Dockerfile was found.
 */
export function givenPaths(options: BuildOptions, dockerfile: string): string[] {
  const { outputs, cache } = options;
  const layout =
    cache.location?.startsWith('oci:') === true ? cache.location.slice('oci:'.length) : undefined;
  const named = [...options.contexts.sources.values()].map(contextPath);
  const { context } = options;
  const own = context.kind === 'directory' || context.kind === 'file' ? context.path : undefined;
  const paths = [
    ...[own, options.cacheDirectory, ...named],
    dockerfile === standardInput ? undefined : dockerfile,
    ...[options.scratchDirectory, outputs.tarPath, outputs.ociLayoutPath, outputs.digestFile, layout],
  ];
  return paths.filter((path) => path !== undefined).map((path) => resolve(path));
}
