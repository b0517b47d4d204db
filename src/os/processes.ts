import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import koffi from 'koffi';
import { systemErrorCode } from '../support/index.ts';
import { SystemCallError } from './libc.ts';

const libc = koffi.load(null);
const bound = {
  prctl: libc.func(
    'int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)',
  ),
  waitpid: libc.func('int waitpid(int pid, void *status, int options)'),
};

const setChildSubreaper = 36;
const noHang = 1;

/** PR_SET_CHILD_SUBREAPER: processes below this one whose parent ends become its children, not those of process 1. */
export function adoptOrphans(): void {
  if (bound.prctl(setChildSubreaper, 1, 0, 0, 0) === -1) throw new SystemCallError('prctl', koffi.errno());
}

/** Takes note of the end of a child that nobody else waits for. Never waits. */
export function reap(pid: number): void {
  bound.waitpid(pid, Buffer.alloc(4), noHang);
}

/** A process, from /proc. */
export interface ProcessStatus {
  readonly pid: number;
  readonly parent: number;
  readonly session: number;
  /** It has ended, and its parent has not taken note of it. */
  readonly isZombie: boolean;
}

/** All processes that /proc shows. */
export function listProcesses(): ProcessStatus[] {
  return readdirSync('/proc').flatMap((name) =>
    /^[0-9]+$/.test(name) ? (statusOf(Number(name)) ?? []) : [],
  );
}

function statusOf(pid: number): ProcessStatus | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The second field is the program's name in parentheses, which may hold anything.
    const [state = '', parent = '', , session = ''] = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return {
      pid,
      parent: Number(parent),
      session: Number(session),
      isZombie: state === 'Z' || state === 'X',
    };
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ESRCH') return undefined; // it has ended
    throw error;
  }
}

/**
 * What the threads of a process wait for in the kernel, as /proc tells it: names of functions, `0` for a thread that runs.
 *
 * @returns undefined for a process of which this one may not know; nothing for one that has ended.
 */
export function waitChannels(pid: number): string[] | undefined {
  try {
    // Who may not know reads `0` below, but may not open this.
    closeSync(openSync(`/proc/${pid}/syscall`, 'r'));
    const threads = readdirSync(`/proc/${pid}/task`);
    return threads.map((thread) => readFileSync(`/proc/${pid}/task/${thread}/wchan`, 'latin1'));
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'EACCES' || code === 'EPERM') return undefined;
    if (code === 'ENOENT' || code === 'ESRCH') return [];
    throw error;
  }
}
