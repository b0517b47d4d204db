import { parentPort } from 'node:worker_threads';
import { plainError, workerLoaded } from '../../src/support/index.ts';
import { copyInto, type CopyRequest, gatherInto, makeDirectory, treeDigest } from '../context/index.ts';
import type { FromWorker, ToWorker, WorkerTask } from './messages.ts';
import { enterNamespaces, mountOverlay, mountSource } from './mounts.ts';
import { ContainerRun, prepareInit } from './run-in-worker.ts';

/*
 * A worker does one task and ends: its thread's namespaces and root cannot be given back.
 */

if (parentPort === null) throw new Error('this module runs in a worker thread');
const port = parentPort;
const prepared = prepareInit();
workerLoaded();
const post = (message: FromWorker): void => port.postMessage(message);
let run: ContainerRun | undefined;

port.on('message', (message: ToWorker<WorkerTask>) => {
  if (message.type === 'stop') run?.stop();
  else if (message.type === 'taken') run?.taken(message.bytes);
  else void perform(message.task);
});

async function perform(task: WorkerTask): Promise<void> {
  try {
    const result = await execute(task);
    post({ type: 'done', result, mountPoints: run?.mountPoints ?? [] });
  } catch (error) {
    post({ type: 'failed', error: plainError(error) });
  }
}

async function execute(task: WorkerTask): Promise<unknown> {
  if (task.kind === 'run') {
    run = new ContainerRun(
      task,
      {
        started: () => post({ type: 'started' }),
        output: (stream, data) => post({ type: 'output', stream, data }),
      },
      prepared,
    );
    return run.run();
  }
  if (prepared === undefined) enterNamespaces('files');
  try {
    return await work(task);
  } finally {
    await prepared?.stop();
  }
}

async function work(task: Exclude<WorkerTask, { kind: 'run' }>): Promise<unknown> {
  switch (task.kind) {
    case 'copy': {
      const root = mountOverlay(task.space);
      return copyInto(root, mountedRequest(task));
    }
    case 'gather':
      return gatherInto(task.directory, mountedRequest(task));
    case 'mkdir':
      makeDirectory(mountOverlay(task.space), task.path, task.user, task.where);
      return undefined;
    case 'digest': {
      const source = mountSource(task.space, task.space.lowerCount);
      return treeDigest({ ...task.query, root: source }, { owners: true, modes: task.modes });
    }
    case 'probe':
      mountOverlay(task.space);
      return undefined;
  }
}

/** The request with the root of its query where the files to copy from are, mounted when they are layers. */
function mountedRequest({ space, source, request }: Extract<WorkerTask, { source: unknown }>): CopyRequest {
  const { query } = request;
  if (query === undefined || source.kind !== 'layers') return request;
  return { ...request, query: { ...query, root: mountSource(space, source.layers.length) } };
}
