import { join } from 'node:path';
import { build } from '../../executor/build.ts';
import { parseBuildContexts } from '../../executor/named-contexts.ts';
import { type Digest, hostPlatform } from '../../src/oci/index.ts';
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
  readonly contexts?: readonly string[];
  readonly arguments?: Readonly<Record<string, string>>;
  readonly target?: string | undefined;
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
  const { image } = await build(
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
      platform: hostPlatform(),
      checkError: false,
      outputs: {
        destinations: [],
        push: false,
        tarPath: undefined,
        ociLayoutPath: layout,
        digestFile: undefined,
      },
      cache: {
        location: cache,
        onVolume: false,
        maxAgeSeconds: 3600,
        push: true,
        runLayers: true,
        copyLayers: true,
        rules: { noCache: false, noCacheStages: [], ignoredArguments: new Set() },
      },
      cacheDirectory: volume,
      waitForWarmerSeconds: undefined,
      scratchDirectory: undefined,
      compression: 'gzip',
      sourceDate,
      isolation: { kind: 'overlay', force: false, cleanup: false },
    },
    client,
    progress,
    new AbortController().signal,
  );
  return { digest: image.descriptor.digest, layout: `${layout}:latest`, events };
}
