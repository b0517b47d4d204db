import { setTimeout as sleep } from 'node:timers/promises';
import { listProcesses, type ProcessStatus, reap } from '../../../src/os/index.ts';
import { EnvironmentError, systemErrorCode } from '../../../src/support/index.ts';

const patience = 10_000;

/**
 * Ends every process that a step left, and waits until none is left. Without a pid namespace the kernel does not do it; so
 * orphans become children of the executor (PR_SET_CHILD_SUBREAPER), and whatever descends from it and is in another
 * session is the step's: a step starts in a session of its own, and nothing can join the executor's.
 *
 * @param options `isReaping`: whether note is taken of their end. Not while Node still waits for the end of the step's first
 *   process: it would never hear of it.
 * @throws EnvironmentError `E_INPLACE_PROCESSES` when some cannot be ended.
 */
export async function endStrayProcesses({ isReaping }: { readonly isReaping: boolean }): Promise<void> {
  const deadline = performance.now() + patience;
  for (;;) {
    const strays = strayProcesses(listProcesses());
    const living = strays.filter(({ isZombie }) => !isZombie);
    // What is stopped cannot start others, so that even those that multiply come to an end.
    for (const { pid } of living) signal(pid, 'SIGSTOP');
    if (living.length > 0 && strayProcesses(listProcesses()).length > strays.length) continue;
    for (const { pid } of living) signal(pid, 'SIGKILL');
    if (isReaping) for (const { pid, parent } of strays) if (parent === process.pid) reap(pid);
    if (living.length === 0) return;
    if (performance.now() > deadline) throw immortal(living);
    await sleep(1);
  }
}

/** Those that descend from this process and are in another session. */
export function strayProcesses(processes: readonly ProcessStatus[]): ProcessStatus[] {
  const children = Map.groupBy(processes, ({ parent }) => parent);
  const own = processes.find(({ pid }) => pid === process.pid)?.session;
  const found: ProcessStatus[] = [];
  const pending = [process.pid];
  for (let pid = pending.pop(); pid !== undefined; pid = pending.pop())
    for (const child of children.get(pid) ?? []) {
      pending.push(child.pid);
      if (child.session !== own) found.push(child);
    }
  return found;
}

function signal(pid: number, name: 'SIGSTOP' | 'SIGKILL'): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    // It has ended; or it is another user's, and CAP_KILL is missing, which the deadline tells.
    if (systemErrorCode(error) !== 'ESRCH' && systemErrorCode(error) !== 'EPERM') throw error;
  }
}

function immortal(processes: readonly ProcessStatus[]): EnvironmentError {
  return new EnvironmentError(
    `processes that a step left cannot be ended: ${processes.map(({ pid }) => pid).join(', ')}`,
    { code: 'E_INPLACE_PROCESSES', remedy: 'Give the container the capability KILL.' },
  );
}
