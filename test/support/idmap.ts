import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import koffi from 'koffi';

/** The ids that a pod with `hostUsers: false` gets. */
export const podIds = { first: 100_000, count: 65_536 } as const;

const libc = koffi.load(null);
const systemCall = libc.func(
  'long syscall(long number, long a, const void *b, long c, const void *d, long e)',
);
/** The same on every architecture. */
const numbers = { open_tree: 428, move_mount: 429, mount_setattr: 442 } as const;
const atWorkingDirectory = -100;
const emptyPath = 0x1000;
const cloneTree = 1;
const closeOnExec = 0o2000000;
const idMapped = 0x100000n;

function call(
  name: keyof typeof numbers,
  a: number,
  b: string,
  c: number,
  d: Buffer | string,
  e: number,
): number {
  const text = (value: Buffer | string): Buffer =>
    typeof value === 'string' ? Buffer.from(`${value}\0`) : value;
  const result = Number(systemCall(numbers[name], a, text(b), c, text(d), e));
  if (result < 0) throw new Error(`${name}: errno ${koffi.errno()}`);
  return result;
}

/**
 * Mounts a directory or file at another place as the kubelet does for a pod with `hostUsers: false`: files of user 0 are
 * shown there as the pod's root's, and so on (mount_setattr(2), "ID-mapped mounts").
 */
export async function mountIdMapped(source: string, target: string): Promise<void> {
  const namespace = await podUserNamespace();
  try {
    const tree = call('open_tree', atWorkingDirectory, source, cloneTree | closeOnExec, '', 0);
    try {
      const attributes = Buffer.alloc(32);
      attributes.writeBigUInt64LE(idMapped, 0);
      attributes.writeBigUInt64LE(BigInt(namespace), 24);
      call('mount_setattr', tree, '', emptyPath, attributes, attributes.length);
      // Its last argument says that the first path is empty; the fourth is the place.
      call('move_mount', tree, '', atWorkingDirectory, target, 4);
    } finally {
      closeSync(tree);
    }
  } finally {
    closeSync(namespace);
  }
}

/** An open user namespace with a pod's ids. */
async function podUserNamespace(): Promise<number> {
  const holder = spawn('unshare', ['--user', 'cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    holder.stdin.write('x');
    await once(holder.stdout, 'data');
    for (const kind of ['uid', 'gid'])
      writeFileSync(`/proc/${String(holder.pid)}/${kind}_map`, `0 ${podIds.first} ${podIds.count}`);
    return openSync(`/proc/${String(holder.pid)}/ns/user`, 'r');
  } finally {
    holder.stdin.end();
    await once(holder, 'close');
  }
}
