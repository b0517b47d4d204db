import koffi from 'koffi';
import { SystemCallError } from './libc.ts';

const libc = koffi.load(null);
const bound = {
  clone: libc.func('int clone(void *function, void *stack, int flags, void *argument)'),
  kill: libc.func('int kill(int pid, int signal)'),
  waitpid: libc.func('int waitpid(int pid, void *status, int options)'),
};

const newUserNamespace = 0x10000000;
const childSignal = 17; // SIGCHLD
const killSignal = 9;
const stackSize = 1 << 16;

/** Seconds after which a process that nobody ended, since its parent was killed, ends by itself. */
const patience = 60;

/**
 * A process that does nothing but hold a user namespace that was made for it, without ids as yet. A process of several
 * threads, as every Node process is, cannot make one for itself (unshare(2)), but for a child. It runs no program: it
 * sleeps in libc, so that no shell and no other program is needed.
 */
export class NamespaceHolder implements Disposable {
  readonly pid: number;

  /** @throws SystemCallError when the kernel refuses, as `EPERM`. */
  constructor() {
    // The child has a copy of this memory, and with it its stack, which grows down.
    const stack = Buffer.alloc(stackSize);
    const top = (koffi.address(stack) + BigInt(stackSize)) & ~0xfn;
    const pid = bound.clone(sleepAddress(), top, newUserNamespace | childSignal, BigInt(patience)) as number;
    if (pid === -1) throw new SystemCallError('clone', koffi.errno());
    this.pid = pid;
  }

  [Symbol.dispose](): void {
    bound.kill(this.pid, killSignal);
    bound.waitpid(this.pid, Buffer.alloc(4), 0);
  }
}

/** Where sleep(3) is: it takes one number, and returns one, as clone(2) wants it. */
function sleepAddress(): bigint {
  return koffi.address(libc.symbol('sleep'));
}
