import type { Compression } from '../src/layer/index.ts';
import type { LayerCache, LookupResult } from '../src/layercache/index.ts';
import type { RegistryClient } from '../src/registry/index.ts';
import type { Progress } from '../src/support/index.ts';
import type { Volume } from '../src/volume/index.ts';
import type { LayerLimits } from './definitions.ts';
import type { Isolation } from './isolation/index.ts';
import type { MountResources } from './mounts/index.ts';
import type { PlannedStage } from './planned.ts';

/** What a build works with; one for every build. */
export interface SessionParts {
  readonly isolation: Isolation;
  /** Where unpacked layers are looked for, in order; the last one is writable. */
  readonly volumes: readonly Volume[];
  readonly client: RegistryClient;
  /** A directory of the build's own, removed after it. */
  readonly scratch: string;
  readonly cache: LayerCache | undefined;
  readonly cachePush: boolean;
  readonly cacheRunLayers: boolean;
  readonly cacheCopyLayers: boolean;
  /** How old results may be of steps that do not say it themselves. */
  readonly maxAgeSeconds: number;
  readonly lookups: ReadonlyMap<string, LookupResult>;
  /** The targets and the stages below them, whose layers are the images'. */
  readonly exported: ReadonlySet<PlannedStage>;
  /** Stages that steps of other stages copy from. */
  readonly sources: ReadonlySet<PlannedStage>;
  readonly compression: Compression;
  readonly limits: LayerLimits;
  /** All steps of a stage make one layer together. */
  readonly singleSnapshot: boolean;
  readonly progress: Progress;
  /** Aborts everything that still runs; with a reason when a part of the build failed. */
  readonly controller: AbortController;
  /** What is built; see {@link SourceOptions}. */
  readonly subject: string;
  /** All that are needed. */
  readonly stages: readonly PlannedStage[];
  /** What mounts of RUN steps are made from, but for what this session knows; undefined when no step has any. */
  readonly mountParts: Pick<MountResources, 'secrets' | 'agents'> | undefined;
  readonly onFirstRun?: () => void;
}
