import { join } from 'node:path';
import { Annotations } from '../../executor/annotations.ts';
import { build } from '../../executor/build.ts';
import { type MountSources, noMountSources } from '../../executor/mounts/sources.ts';
import type { BuildOptions } from '../../executor/options.ts';
import { parseBuildContexts } from '../../executor/named-contexts.ts';
import { type Digest, parsePlatform } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { Progress, type ProgressEvent } from '../../src/support/index.ts';
import { writeFiles } from './programs.ts';

/** A build in the test's own process, which starts faster than a process of its own. */
export interface InProcessBuild {
  readonly dockerfile: string;
  readonly context: string;
  /** Where the Dockerfile and the image's layout go. */
  readonly place: string;
  readonly volume: string;
  /** The layer cache, `oci:DIR`; undefined: none. */
  readonly cache?: string | undefined;
  /** What differs from a cache that is read and written. */
  readonly cacheOptions?: Partial<BuildOptions['cache']>;
  readonly contexts?: readonly string[];
  readonly arguments?: Readonly<Record<string, string>>;
  readonly target?: string | undefined;
  /** Secrets and agents. */
  readonly mountSources?: MountSources;
  /** Default: this machine's. */
  readonly platforms?: readonly string[];
  /** Seconds since 1970 that no time is later than. */
  readonly sourceDate?: number | undefined;
}

export interface InProcessResult {
  readonly digest: Digest;
  /** `DIR:latest`. */
  readonly layout: string;
  readonly events: readonly ProgressEvent[];
}

/** Builds an image into an OCI layout. @throws what the build throws. */
export async function buildInProcess(request: InProcessBuild): Promise<InProcessResult> {
  const { context, place, volume, cache, target, sourceDate } = request;
  const directory = await writeFiles(place, { Dockerfile: request.dockerfile });
  const layout = join(place, 'image');
  const events: ProgressEvent[] = [];
  const progress = new Progress();
  using _listening = progress.listen((event) => events.push(event));
  await using client = new RegistryClient();
  const { output } = await build(
    {
      context: { kind: 'directory', path: context },
      contextSubPath: undefined,
      contextAccess: {},
      contexts: parseBuildContexts(request.contexts ?? []),
      dockerfile: join(directory, 'Dockerfile'),
      subject: 'test Dockerfile',
      target,
      buildArguments: new Map(Object.entries(request.arguments ?? {})),
      labels: new Map(),
      platforms: (request.platforms ?? []).map(parsePlatform),
      checkError: false,
      ignoredPaths: [],
      singleSnapshot: false,
      outputs: {
        destinations: [],
        push: false,
        checkPush: false,
        tarPath: undefined,
        ociLayoutPath: layout,
        digestFiles: { digest: undefined, named: undefined, tagged: undefined, builderOutput: undefined },
        format: 'oci',
        compression: { compression: 'gzip' },
        forceCompression: false,
        ignoreImmutableTags: false,
        annotations: new Annotations(),
      },
      attest: { provenance: undefined, sbom: false },
      cache: {
        sources: cache === undefined ? [] : [cache],
        target: cache,
        onVolume: false,
        maxAgeSeconds: 3600,
        signKey: undefined,
        verifyKeys: [],
        runLayers: true,
        copyLayers: true,
        rules: { noCache: false, noCacheStages: [], ignoredArguments: new Set() },
        ...request.cacheOptions,
      },
      cacheDirectory: volume,
      waitForWarmerSeconds: undefined,
      scratchDirectory: undefined,
      sourceDate,
      isolation: { kind: 'overlay', force: false, cleanup: false },
      mountSources: request.mountSources ?? noMountSources,
    },
    client,
    progress,
    new AbortController().signal,
  );
  return { digest: output.descriptor.digest, layout: `${layout}:latest`, events };
}
