import { existsSync } from 'node:fs';
import { formatReference } from '../src/oci/index.ts';
import { type Progress, randomName } from '../src/support/index.ts';
import { NodeClient } from '../src/volume/index.ts';
import { NodePresence } from './node-presence.ts';
import { NodeWarmer } from './node-warmer.ts';
import { contextName } from './context/kinds/index.ts';
import type { BuildOptions } from './options.ts';
import type { BuildVolumes } from './volumes.ts';

/** What a build has to do with the warmer of its node. */
export interface BuildNode extends AsyncDisposable {
  /** Brings what is missing on a volume that the build can only read; a build that can write it does that itself. */
  readonly warmer: NodeWarmer | undefined;
  /** Tells of the build, where there is a warmer to be told. */
  readonly presence: NodePresence | undefined;
}

/** Nothing is loaded and nobody is asked before there is a reason to. */
export function openNode(
  options: BuildOptions,
  volumes: BuildVolumes,
  progress: Progress,
  signal: AbortSignal,
): BuildNode {
  const { cacheDirectory, cache, outputs, context } = options;
  const client = new NodeClient(cacheDirectory);
  const build = randomName('build-');
  const [destination] = outputs.destinations;
  const label = destination === undefined ? contextName(context) : formatReference(destination);
  const { shared: volume } = volumes;
  const warmer =
    volume === undefined ? undefined : new NodeWarmer({ client, volume, build, progress, signal });
  const presence = existsSync(client.path)
    ? new NodePresence({ client, build, label, caches: cache.sources, progress })
    : undefined;
  return {
    warmer,
    presence,
    [Symbol.asyncDispose]: async () => {
      await presence?.[Symbol.asyncDispose]();
      await warmer?.[Symbol.asyncDispose]();
    },
  };
}
