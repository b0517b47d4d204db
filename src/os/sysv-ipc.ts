import { readFileSync } from 'node:fs';
import koffi from 'koffi';
import { systemErrorCode } from '../support/index.ts';
import { asUser, SystemCallError } from './libc.ts';

/*
 * System V shared memory, semaphores and message queues (sysvipc(7)): they belong to the IPC namespace and outlive the
 * processes that made them.
 */

const libc = koffi.load(null);
const bound = {
  shmctl: libc.func('int shmctl(int id, int command, void *data)'),
  semctl: libc.func('int semctl(int id, int number, int command)'),
  msgctl: libc.func('int msgctl(int id, int command, void *data)'),
};
const removeCommand = 0;
const getPid = 11;
const getValue = 12;

export type SysvKind = 'shm' | 'sem' | 'msg';

export interface SysvObject {
  readonly kind: SysvKind;
  /** No other object of its kind has it, nor will have it soon. */
  readonly id: number;
  /** User id of the owner. */
  readonly owner: number;
  /** Whether some process has the memory attached. */
  readonly isAttached: boolean;
  /**
   * Whether a process that this one's pid namespace knows, also one that has ended, made or used it last; or nobody did.
   * Asked for as the owner, since only they may look.
   */
  isOwn(): boolean;
}

/** The objects of the IPC namespace; none where the kernel does not tell. */
export function listSysvObjects(): SysvObject[] {
  return [
    ...table('shm').map((row) => ({
      ...common('shm', row, 'shmid'),
      isAttached: row.nattch !== 0,
      isOwn: () => row.cpid !== 0,
    })),
    ...table('sem').map((row) => ({
      ...common('sem', row, 'semid'),
      isAttached: false,
      isOwn: () => asUser(row.uid ?? 0, () => isOwnSemaphoreSet(row)),
    })),
    ...table('msg').map((row) => ({
      ...common('msg', row, 'msqid'),
      isAttached: false,
      isOwn: () => row.lspid !== 0 || row.lrpid !== 0 || (row.stime === 0 && row.rtime === 0),
    })),
  ];
}

function common(kind: SysvKind, row: Row, id: string): Pick<SysvObject, 'kind' | 'id' | 'owner'> {
  return { kind, id: row[id] ?? 0, owner: row.uid ?? 0 };
}

type Row = Readonly<Record<string, number>>;

function table(kind: SysvKind): Row[] {
  let text: string;
  try {
    text = readFileSync(`/proc/sysvipc/${kind}`, 'latin1');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return [];
    throw error;
  }
  const [head = '', ...lines] = text.trim().split('\n');
  const names = head.trim().split(/\s+/);
  return lines.map((line) => {
    const values = line.trim().split(/\s+/).map(Number);
    return Object.fromEntries(names.map((name, index) => [name, values[index] ?? 0]));
  });
}

/** Last used by a process that this one's pid namespace knows, or by nobody at all. */
function isOwnSemaphoreSet({ semid = 0, nsems = 0, otime }: Row): boolean {
  const numbers = Array.from({ length: nsems }, (_, number) => number);
  const ask = (command: number, number: number): number => bound.semctl(semid, number, command) as number;
  if (numbers.some((number) => ask(getPid, number) > 0)) return true;
  return otime === 0 && numbers.every((number) => ask(getValue, number) === 0);
}

/** Removes an object. One that is gone is no error. @throws SystemCallError, `EPERM` for another user's. */
export function removeSysvObject({ kind, id }: Pick<SysvObject, 'kind' | 'id'>): void {
  const result = (
    kind === 'sem' ? bound.semctl(id, 0, removeCommand) : bound[`${kind}ctl`](id, removeCommand, null)
  ) as number;
  if (result !== -1) return;
  const errno = koffi.errno();
  const { EINVAL, EIDRM } = koffi.os.errno;
  if (errno !== EINVAL && errno !== EIDRM) throw new SystemCallError(`${kind}ctl`, errno, String(id));
}
