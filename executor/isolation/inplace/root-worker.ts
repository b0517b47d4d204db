import { parentPort, workerData } from 'node:worker_threads';
import { capabilityError } from '../../../src/os/index.ts';
import { plainError, workerLoaded } from '../../../src/support/index.ts';
import { gatherInto } from '../../context/index.ts';
import { filledRequest, InplaceRoot } from './inplace-root.ts';
import { linkedCopy } from './linked-copy.ts';
import type { RootAnswer, RootOptions, RootRequest, RootTask } from './messages.ts';

/*
 * The thread that owns the root of the container. It does one task after the other, so that file calls can be made
 * synchronously, which costs less, and the executor's own thread is free.
 */

if (parentPort === null) throw new Error('this module runs in a worker thread');
const port = parentPort;
workerLoaded();
const answer = (message: RootAnswer): void => port.postMessage(message);
const options = workerData as RootOptions;
let root: InplaceRoot | undefined;
let last: Promise<void> = Promise.resolve();

port.on('message', (request: RootRequest) => {
  last = last.then(() => perform(request));
});

async function perform({ id, task }: RootRequest): Promise<void> {
  try {
    root ??= new InplaceRoot(options);
    const result = await execute(root, task);
    answer({ id, result, problems: root.takeProblems() });
  } catch (error) {
    answer({ id, error: plainError(capabilityError(error) ?? error) });
  }
}

async function execute(target: InplaceRoot, task: RootTask): Promise<unknown> {
  switch (task.kind) {
    case 'open':
      return target.open(task.layers, task.isSource);
    case 'close':
      return target.close();
    case 'tree':
      return target.tree(task.layers, task.scratch);
    case 'copy':
      return target.copy(task.source, task.request);
    case 'mkdir':
      return target.makeDirectory(task.path, task.user, task.where);
    case 'digest':
      return target.digest(task.tree, task.query, task.modes);
    case 'gather':
      await gatherInto(task.directory, filledRequest(task.source, task.request));
      return undefined;
    case 'place':
      return target.place(task.mounts, task.where);
    case 'unplace':
      return target.unplace();
    case 'step':
      return target.viewOf(task.workingDirectory);
    case 'snapshot':
      return target.snapshot(task.capture);
    case 'link':
      return linkedCopy(filledRequest(task.source, task.request), task.capture);
    case 'finish':
      return target.finish(task.isDeleting);
  }
}
