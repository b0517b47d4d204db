import type { CacheKey } from '../src/layercache/index.ts';
import type { Origin } from '../src/dockerfile/index.ts';
import type { BuildContext, SourceQuery, TreeReading, TreeReadings } from './context/index.ts';
import type { MountContent } from './mount-keys.ts';
import type { CopyTree, PlannedBase, PlannedMount } from './planned.ts';
import type { MountOperation, Step } from './steps.ts';

/** A named context that is a directory, or a checked out repository. */
export type TreeBase = CopyTree & { readonly kind: 'tree' };

/** What all steps of a build have in common. */
export interface FilesBuild {
  readonly context: BuildContext;
  readonly readings: TreeReadings;
  readonly signal?: AbortSignal | undefined;
}

/** Finds what the Dockerfile names at a line. */
export type Locate = (origin: Origin, line: number) => Promise<PlannedBase | TreeBase>;

/** What a step takes files from, and what was read of those that are outside. */
export interface StepFilesPlan {
  readonly source: PlannedBase | undefined;
  readonly tree: CopyTree;
  readonly reading: TreeReading | undefined;
  readonly mounts: readonly PlannedMount[];
  /** What counts of each file that was read; see {@link TreeReading}. */
  readonly listed: TreeReading['files'];
}

/**
 * Finds what a step copies from and mounts.
 *
 * @param build `keyed`: whether files of directories outside are read for the step's key.
 * @throws BuildError for files that are not there.
 */
export async function planFiles(
  build: FilesBuild,
  step: Step,
  locate: Locate,
  { keyed }: { readonly keyed: boolean },
): Promise<StepFilesPlan> {
  const { operation, line, where } = step;
  const context: CopyTree = { tree: build.context, name: 'the build context' };
  const mounts: PlannedMount[] = [];
  for (const mount of operation.kind === 'run' ? operation.mounts : []) {
    const found = await locateMount(mount, (origin) => locate(origin, line), context);
    const { tree } = found;
    const query = tree === undefined || !keyed ? undefined : mountQuery(mount, tree, where);
    mounts.push({
      mount,
      ...found,
      reading:
        query === undefined
          ? undefined
          : await build.readings.read(query, { owners: false, modes: true, signal: build.signal }),
    });
  }
  const from = operation.kind === 'copy' ? operation.from : undefined;
  const copied = from === undefined ? undefined : await locate(from, line);
  const source = copied?.kind === 'tree' ? undefined : copied;
  const tree = copied?.kind === 'tree' ? copied : context;
  const reading =
    keyed && source === undefined ? await readCopied(build.readings, tree, step, build.signal) : undefined;
  return { source, tree, reading, mounts, listed: reading?.files ?? filesOfMounts(mounts) };
}

/** What stands for the files of a mount in a key. @param sourceKey that of the stage or image that they are from. */
export function contentOf({ reading }: PlannedMount, sourceKey: CacheKey | undefined): MountContent {
  if (reading !== undefined) return { content: reading.digest };
  return sourceKey === undefined ? undefined : { source: sourceKey };
}

async function locateMount(
  mount: MountOperation,
  locate: (origin: Origin) => Promise<PlannedBase | TreeBase>,
  context: CopyTree,
): Promise<Pick<PlannedMount, 'source' | 'tree'>> {
  if (mount.type !== 'bind' && mount.type !== 'cache') return { source: undefined, tree: undefined };
  if (mount.from === undefined)
    return { source: undefined, tree: mount.type === 'bind' ? context : undefined };
  const found = await locate(mount.from);
  return found.kind === 'tree' ? { source: undefined, tree: found } : { source: found, tree: undefined };
}

/** What of a directory outside a mount shows. Its source is a path and no pattern. */
export function mountQuery(
  mount: MountOperation,
  { tree, name }: CopyTree,
  where: string,
): SourceQuery & { readonly patterns: readonly [string] } {
  return {
    root: tree.directory,
    patterns: [mountPattern(mount)],
    ignore: tree.ignore,
    where,
    treeName: name,
  };
}

/** The source of a mount as a pattern that matches it alone. */
export function mountPattern(mount: MountOperation): string {
  const source = 'source' in mount ? mount.source : '/';
  return source === '/' ? '.' : source.slice(1).replace(/[*?[\\]/g, '\\$&');
}

/** The files of all mounts; undefined when there are too many, or nothing was read. */
function filesOfMounts(mounts: readonly PlannedMount[]): TreeReading['files'] {
  const read = mounts.flatMap(({ reading }) => reading ?? []);
  if (read.length === 0 || read.some(({ files }) => files === undefined)) return undefined;
  return new Map(read.flatMap(({ files }) => [...(files ?? [])]));
}

/** Reads what a copy takes from a directory outside; undefined for other steps, and when it takes nothing from there. */
async function readCopied(
  readings: TreeReadings,
  { tree, name }: CopyTree,
  { operation, where }: Step,
  signal: AbortSignal | undefined,
): Promise<TreeReading | undefined> {
  if (operation.kind !== 'copy' || operation.patterns.length === 0) return undefined;
  return readings.read(
    {
      root: tree.directory,
      patterns: operation.patterns,
      excludes: operation.excludes,
      parents: operation.parents,
      ignore: tree.ignore,
      where,
      treeName: name,
    },
    { owners: false, modes: typeof operation.chmod !== 'number', signal },
  );
}
