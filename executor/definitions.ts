import type { CacheKey, KeyDefinition } from '../src/layercache/index.ts';
import type { Digest } from '../src/oci/index.ts';
import type { CanonicalValue } from '../src/support/index.ts';
import { describeMount, type MountContent } from './mount-keys.ts';
import type { ResolvedRemote } from './remote/index.ts';
import type { Operation, Step } from './steps.ts';

/** What is left out of every layer that is made, or changed in it. */
export interface LayerLimits {
  /** No time is later, in seconds since 1970. */
  readonly clampTime?: number | undefined;
  /** Absolute paths that are in no layer, with all that is below them; sorted. */
  readonly ignored?: readonly string[] | undefined;
}

/** What is known of a step when its key is made. */
export interface KeyParts {
  /** Null for a layer that is made on nothing. */
  readonly parent: CacheKey | null;
  readonly limits: LayerLimits;
  /** The key of the stage or image that a copy is from. */
  readonly source: CacheKey | undefined;
  /** Of the files of the context that a copy takes. */
  readonly content: Digest | undefined;
  readonly remotes: readonly ResolvedRemote[];
  /** Of each mount of a RUN, what stands for its files. */
  readonly mounts: readonly MountContent[];
}

/** What the key of a step is made of, before anything of this build's stages is there. */
export function definitionOf(
  { operation }: Step,
  { parent, limits, source, content, remotes, mounts }: KeyParts,
): KeyDefinition {
  if (operation.kind === 'copy') {
    if (source === undefined)
      return copyContentDefinition(operation, parent, content ?? null, limits, remotes);
    const { patterns, destination, chown = null } = operation;
    const chmod = chmodText(operation);
    return {
      kind: 'copy-from',
      parent,
      source,
      patterns,
      destination,
      chown,
      chmod,
      ...copyFlags(operation, limits),
    };
  }
  if (parent === null) throw new Error('only copies are made on nothing');
  if (operation.kind === 'run') return runDefinition(operation, parent, mounts);
  return { kind: 'workdir', parent, path: operation.path, user: operation.user };
}

/** RUNs without what is optional here have the keys that they would have if there were no such things. */
export function runDefinition(
  operation: RunOperation,
  parent: CacheKey,
  contents: readonly MountContent[],
): KeyDefinition {
  const { argv, keyedEnv, user, workingDirectory, mounts, script, network } = operation;
  return {
    kind: 'run',
    parent,
    argv,
    env: keyedEnv,
    user,
    workingDirectory,
    ...(mounts.length === 0
      ? {}
      : { mounts: mounts.map((mount, index) => describeMount(mount, contents[index])) }),
    ...(script === undefined ? {} : { files: [script] }),
    ...(network === 'default' ? {} : { network }),
  };
}

type RunOperation = Extract<Operation, { kind: 'run' }>;
type CopyOperation = Extract<Operation, { kind: 'copy' }>;

function chmodText({ chmod }: CopyOperation): string | null {
  return typeof chmod === 'number' ? chmod.toString(8) : (chmod ?? null);
}

/** Copies without these flags have the keys that they would have if there were no such flags. */
function copyFlags(
  { parents, excludes, link }: CopyOperation,
  { clampTime, ignored = [] }: LayerLimits,
): { parents?: true; excludes?: readonly string[]; clampTime?: number; ignored?: readonly string[] } {
  return {
    ...(parents ? { parents } : {}),
    ...(excludes.length === 0 ? {} : { excludes }),
    // Other copies have these in the key of their base.
    ...(link && clampTime !== undefined ? { clampTime } : {}),
    ...(link && ignored.length > 0 ? { ignored } : {}),
  };
}

/** What a copy's key is made of by the content of what it copies, wherever that is from. */
export function copyContentDefinition(
  operation: CopyOperation,
  parent: CacheKey | null,
  content: Digest | null,
  limits: LayerLimits,
  remotes: readonly ResolvedRemote[] = [],
): KeyDefinition {
  return {
    kind: 'copy',
    parent,
    destination: operation.destination,
    chown: operation.chown ?? null,
    chmod: chmodText(operation),
    content,
    files: operation.files,
    unpackArchives: operation.unpackArchives,
    keepOwners: operation.from !== undefined && operation.from.kind !== 'context',
    ...copyFlags(operation, limits),
    ...(remotes.length === 0
      ? {}
      : { remotes: remotes.map(({ identity }, at) => describeRemote(operation, identity, at)) }),
  };
}

function describeRemote(
  { remotes }: CopyOperation,
  identity: ResolvedRemote['identity'],
  at: number,
): CanonicalValue {
  return { ...identity, after: remotes[at]?.after ?? 0, unpack: remotes[at]?.unpack ?? false };
}
