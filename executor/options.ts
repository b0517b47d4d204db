import { resolve } from 'node:path';
import { standardInput } from './context/index.ts';
import type { ContextAddress, RepositoryAccess } from './context/kinds/index.ts';
import type { Compression } from '../src/layer/index.ts';
import type { Annotations } from './annotations.ts';
import type { ImageFormat } from './image.ts';
import { contextPath, type NamedContextSources } from './named-contexts.ts';
import type { Platform, Reference } from '../src/oci/index.ts';
import type { AttestOptions } from './attest-flags.ts';
import type { CacheRules } from './planned.ts';
import { type MountSources, sourcePaths } from './mounts/sources.ts';
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
  /** What was asked for; none: this machine's, and what the Dockerfile says. */
  readonly platforms: readonly Platform[];
  /** Seconds since 1970: no time in the layers that are made is later, and the image is of that date. */
  readonly sourceDate: number | undefined;
  /** Absolute paths, sorted, that are in no layer that is made. */
  readonly ignoredPaths: readonly string[];
}

/** What the user asked of one build, checked and with its defaults. */
export interface BuildOptions extends SourceOptions {
  readonly labels: ReadonlyMap<string, string>;
  /** All steps of a stage make one layer together. Nothing is taken from a layer cache, or put there. */
  readonly singleSnapshot: boolean;
  /** What the build checks find fails the build. */
  readonly checkError: boolean;
  readonly outputs: OutputOptions;
  readonly attest: AttestOptions;
  readonly cache: CacheOptions;
  /** The cache volume; made when it is missing and can be. */
  readonly cacheDirectory: string;
  /** Wait so long for the node's warmer to be ready; undefined: do not wait. */
  readonly waitForWarmerSeconds: number | undefined;
  /** Where the build keeps its own files; undefined: on the volume, or the system's temporary directory. */
  readonly scratchDirectory: string | undefined;
  readonly isolation: IsolationChoice;
  /** Secrets and agents for mounts of RUN. */
  readonly mountSources: MountSources;
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
  /** Whether the push may be done is found out before the first step. */
  readonly checkPush: boolean;
  readonly tarPath: string | undefined;
  readonly ociLayoutPath: string | undefined;
  readonly digestFiles: DigestFiles;
  readonly format: ImageFormat;
  /** A tag that the registry lets nobody change is left as it is, and that is no failure. */
  readonly ignoreImmutableTags: boolean;
  /** Of the layers that are made. */
  readonly compression: Compression;
  /** Layers that exist already are given that compression too. */
  readonly forceCompression: boolean;
  readonly annotations: Annotations;
}

/** Where something goes that is an image already. */
export type ExportPlaces = Pick<
  OutputOptions,
  'destinations' | 'push' | 'tarPath' | 'ociLayoutPath' | 'digestFiles' | 'ignoreImmutableTags'
>;

/** Whether the digest goes to a web server and not to a file. */
export function isAddress(path: string): boolean {
  return path.startsWith('https://');
}

/** Where the digest of what was built is written: files, or addresses that begin with `https://`. */
export interface DigestFiles {
  readonly digest: string | undefined;
  /** With the name before it, a line for each destination. */
  readonly named: string | undefined;
  /** With name and tag. */
  readonly tagged: string | undefined;
  /** The directory for Google Cloud Build's list of what was pushed. */
  readonly builderOutput: string | undefined;
}

export interface CacheOptions {
  /** What is read, in this order: `oci:DIR` or a repository each. With no target either, there is no cache. */
  readonly sources: readonly string[];
  /** What is written; undefined: nothing. */
  readonly target: string | undefined;
  /** It was not asked for but lies on the cache volume, and is only read when that can only be read. */
  readonly onVolume: boolean;
  readonly maxAgeSeconds: number;
  /** Who signs what is stored; see {@link TrustFlags}. */
  readonly signKey: string | undefined;
  /** Whose signature is wanted of what is found; empty: nobody's. */
  readonly verifyKeys: readonly string[];
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
  const { digestFiles: files } = outputs;
  const { digest, tagged, builderOutput } = files;
  const layouts = [...cache.sources, cache.target].map((location) =>
    location?.startsWith('oci:') === true ? location.slice('oci:'.length) : undefined,
  );
  const named = [...options.contexts.sources.values()].map(contextPath);
  const { context } = options;
  const own = context.kind === 'directory' || context.kind === 'file' ? context.path : undefined;
  const paths = [
    ...[own, options.cacheDirectory, ...named],
    dockerfile === standardInput ? undefined : dockerfile,
    ...[options.scratchDirectory, outputs.tarPath, outputs.ociLayoutPath, ...layouts],
    ...[digest, tagged, builderOutput, files.named],
  ];
  paths.push(...sourcePaths(options.mountSources));
  return paths
    .filter((path) => path !== undefined)
    .filter((path) => !isAddress(path))
    .map((path) => resolve(path));
}
