import { existsSync, mkdirSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { setThreadIdentity } from '../../../src/os/index.ts';
import { plainError, systemErrorCode, workerLoaded } from '../../../src/support/index.ts';
import { resolveUser, type UserIdentity } from '../../context/index.ts';
import type { FromWorker, ToWorker } from '../messages.ts';
import { StepProcess } from '../step-process.ts';
import type { RunResult, RunStep } from '../types.ts';
import type { StepTask } from './messages.ts';

/*
 * The thread that runs one step, and ends with it: it takes on the identity of the step's user, which the step's process
 * inherits, and cannot give it back.
 */

if (parentPort === null) throw new Error('this module runs in a worker thread');
const port = parentPort;
workerLoaded();
const post = (message: FromWorker): void => port.postMessage(message);
let running: StepProcess | undefined;

port.on('message', (message: ToWorker<StepTask>) => {
  if (message.type === 'taken') running?.taken(message.bytes);
  // A step is stopped by the executor, which ends its processes.
  else if (message.type === 'task') void perform(message.task);
});

async function perform({ step }: StepTask): Promise<void> {
  try {
    post({ type: 'done', result: await run(step) });
  } catch (error) {
    post({ type: 'failed', error: plainError(error) });
  }
}

function run(step: RunStep): Promise<RunResult> {
  const user = resolveUser('/', step.user, step.where);
  if (!existsSync(step.workingDirectory)) mkdirSync(step.workingDirectory, { recursive: true });
  becomeUser(user);
  running = new StepProcess(step, {
    started: () => post({ type: 'started' }),
    output: (stream, data) => post({ type: 'output', stream, data }),
    exited: () => post({ type: 'exited' }),
  });
  return running.run({ HOME: user.home, ...step.env });
}

/** Capabilities stay those of the container for root, and none for anyone else, as the kernel has it. */
function becomeUser(user: UserIdentity): void {
  try {
    setThreadIdentity(user);
  } catch (error) {
    // Root without SETGID stays root with the groups that the container gave it.
    if (user.uid !== 0 || user.gid !== 0 || systemErrorCode(error) !== 'EPERM') throw error;
  }
}
