import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { randomName } from '../../src/support/index.ts';
import type { CopyRequest, Gathered } from '../context/index.ts';
import type { OverlaySpace, WorkerMount } from './messages.ts';
import { listenIn } from './listen-in.ts';
import { linkSource } from './overlay-space.ts';
import type { StepMount } from './types.ts';

/** Files of a directory outside, copied to a directory. */
export interface GatheredTree extends Gathered {
  readonly directory: string;
}

/** Mounts that a worker can make. Disposed when the step has ended. */
export interface PreparedMounts extends AsyncDisposable {
  readonly mounts: readonly WorkerMount[];
  /** As of {@link MountedRunResult}. */
  readonly stamps: readonly (string | undefined)[];
}

export interface MountPreparation {
  readonly space: OverlaySpace;
  /** The Dockerfile and line, for messages. */
  readonly where: string;
  /** Copies what a request asks for, once for all steps. */
  readonly gather: (request: CopyRequest) => Promise<GatheredTree>;
}

/** Makes everything for mounts that needs no mount namespace: links to layers, copies of directories outside, sockets. */
export async function prepareMounts(
  mounts: readonly StepMount[],
  preparation: MountPreparation,
): Promise<PreparedMounts> {
  await using stack = new AsyncDisposableStack();
  const prepared: WorkerMount[] = [];
  const stamps: (string | undefined)[] = [];
  for (const [index, each] of mounts.entries()) {
    stamps.push(undefined);
    if (each.kind === 'tree') {
      const { mount, stamp } = await prepareTree(each, `m${index}-`, preparation);
      prepared.push(mount);
      stamps[index] = stamp;
    } else if (each.kind === 'socket') {
      const path = join(preparation.space.directory, randomName('socket-'));
      stack.use(await listenIn(path, each));
      prepared.push({ kind: 'socket', target: each.target, path });
    } else prepared.push(each);
  }
  const kept = stack.move();
  return { mounts: prepared, stamps, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

type TreeMount = Extract<StepMount, { kind: 'tree' }>;

async function prepareTree(
  { target, source, query, path, readOnly }: TreeMount,
  prefix: string,
  { space, where, gather }: MountPreparation,
): Promise<{ readonly mount: WorkerMount; readonly stamp: string | undefined }> {
  let layers: readonly string[];
  let inside = path;
  let stamp: string | undefined;
  if (source.kind === 'layers') layers = await source.layers.directories();
  else {
    const gathered = await gather(mountRequest(query, where));
    layers = [gathered.directory];
    inside = gathered.path;
    ({ stamp } = gathered);
  }
  // An earlier step of the same layer may have had other mounts; its worker has ended.
  for (const name of ['merged', 'upper', 'work']) {
    const directory = join(space.directory, `${prefix}${name}`);
    await rm(directory, { recursive: true, force: true });
    await mkdir(directory, { mode: 0o755 });
  }
  const layerCount = await linkSource(space, layers, prefix);
  const { treeName } = query;
  return {
    mount: { kind: 'tree', target, prefix, layerCount, path: inside, treeName, readOnly },
    stamp,
  };
}

/** A copy of what a mount shows, with the owner that files of the context have in an image. */
export function mountRequest(query: CopyRequest['query'], where: string): CopyRequest {
  return {
    query,
    files: [],
    destination: '/',
    chown: undefined,
    chmod: undefined,
    keepOwners: false,
    unpackArchives: false,
    where,
  };
}
