import { type CacheKey, type EntryOrigin, type KeyDefinition } from '../src/layercache/index.ts';
import type { Platform } from '../src/oci/index.ts';
import type { BaseImage } from './bases.ts';
import type { BuildContext, TreeReading } from './context/index.ts';
import type { ResolvedRemote } from './remote/index.ts';
import type { InterpretedStage, MountOperation, Step } from './steps.ts';

/** Where a planned stage's files come from. */
export type PlannedBase =
  | { readonly kind: 'stage'; readonly stage: PlannedStage }
  | { readonly kind: 'image'; readonly image: BaseImage }
  | { readonly kind: 'scratch' };

export interface PlannedStep extends Step {
  /** Undefined, as the definition is, when nothing is looked up and nothing stored. */
  readonly key: CacheKey | undefined;
  readonly definition: KeyDefinition | undefined;
  /** Null for a layer that does not depend on what is below it. */
  readonly parentKey: CacheKey | null | undefined;
  readonly source: PlannedBase | undefined;
  /** Of a RUN, what its mounts are from, in their order. */
  readonly mounts: readonly PlannedMount[];
  /** Of the files of the context that a copy's key counts, to tell whether they have changed when they are copied. */
  readonly stamp: string | undefined;
  /** What a copy without another source copies from: the build context, or a named one. */
  readonly tree: CopyTree;
  /** Of ADD, what it takes from elsewhere, as it is now. */
  readonly remotes: readonly ResolvedRemote[];
  /** Of the same files, or of those of mounts, what counts of each; see {@link TreeReading}. */
  readonly files: TreeReading['files'];
  /** Why it is not looked up, in words; undefined when it is. */
  readonly uncached: string | undefined;
  /** How old its result may be; undefined: as old as that of any step. */
  readonly ttlSeconds: number | undefined;
  /** The steps that are below it. */
  readonly ground: StepGround;
  /** How old it may be because of what it copies from. */
  readonly sourceTtlSeconds: number;
}

/** A mount of a RUN, and where its files are. */
export interface PlannedMount {
  readonly mount: MountOperation;
  /** The stage or image that it is from. */
  readonly source: PlannedBase | undefined;
  /** The directory outside that it is from: the build context, or a named one. */
  readonly tree: CopyTree | undefined;
  /** Of its files in a directory outside, when they were read. */
  readonly reading: TreeReading | undefined;
}

/** A directory outside that is copied from, and how messages call it. */
export interface CopyTree {
  readonly tree: BuildContext;
  readonly name: string;
}

export interface PlannedStage {
  readonly index: number;
  readonly label: string;
  /** What its files are for. */
  readonly platform: Platform;
  readonly base: PlannedBase;
  readonly interpreted: InterpretedStage;
  readonly steps: readonly PlannedStep[];
  readonly finalKey: CacheKey | undefined;
  readonly origin: EntryOrigin;
  /** What is below a step of a stage that is made from this one. */
  readonly ground: StepGround;
  /** The shortest time that a step of it, or of what it is made from, says its result may be used; Infinity for none. */
  readonly ttlSeconds: number;
}

/** What is below a step: a step or base, and upon it copies with `--link`, which stand on nothing themselves. */
export interface StepGround {
  readonly key: CacheKey | undefined;
  readonly links: readonly CacheKey[];
}

/** What a build is told not to take from the cache, and what counts in no key. */
export interface CacheRules {
  readonly noCache: boolean;
  /** Names of stages that are built anew. */
  readonly noCacheStages: readonly string[];
  readonly ignoredArguments: ReadonlySet<string>;
}

export const noCacheRules: CacheRules = { noCache: false, noCacheStages: [], ignoredArguments: new Set() };

/** Whether a step's layer is made on nothing, so that it fits on anything. */
export function isLinked({ operation }: Step): boolean {
  return operation.kind === 'copy' && operation.link;
}

/** All stages and images that a step takes files from. */
export function sourcesOf({ source, mounts }: Pick<PlannedStep, 'source' | 'mounts'>): PlannedBase[] {
  return [source, ...mounts.map((mount) => mount.source)].filter((each) => each !== undefined);
}

/** The stages among {@link sourcesOf}. */
export function sourceStagesOf(step: Pick<PlannedStep, 'source' | 'mounts'>): PlannedStage[] {
  return sourcesOf(step).flatMap((source) => (source.kind === 'stage' ? [source.stage] : []));
}

/** Keys of what is looked up, and how old each may be. @param maxAgeSeconds of steps that say nothing. */
export function lookupsOf(
  stages: readonly PlannedStage[],
  maxAgeSeconds: number,
): { readonly keys: CacheKey[]; readonly maxAgeSeconds: (key: CacheKey) => number } {
  const ages = new Map<CacheKey, number>();
  for (const { steps } of stages)
    for (const { key, uncached, ttlSeconds = maxAgeSeconds, sourceTtlSeconds } of steps)
      if (key !== undefined && uncached === undefined) {
        // The same step in two stages may say two things.
        const age = Math.min(ttlSeconds, sourceTtlSeconds, ages.get(key) ?? Infinity);
        ages.set(key, age);
      }
  return { keys: [...ages.keys()], maxAgeSeconds: (key) => ages.get(key) ?? maxAgeSeconds };
}

/** What an entry says of where it was made. A key that stands on copies with `--link` does not name them, so they are named. */
export function originOf({ origin }: PlannedStage, { ground }: PlannedStep): EntryOrigin {
  const { key, links } = ground;
  return links.length === 0 || key === undefined ? origin : { ...origin, ground: { key, links } };
}
