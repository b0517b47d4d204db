import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { type Ended, kiln, type RunOptions } from './programs.ts';

const execute = promisify(execFile);
const root = join(import.meta.dirname, '../..');

/** An account of this machine that a test makes and removes. */
export interface OrdinaryUser extends AsyncDisposable {
  readonly name: string;
  readonly uid: number;
  /** The home, which nobody else may read. */
  readonly home: string;
  /** What comes before a command, for it to be run by the user. */
  readonly under: readonly string[];
  /** Runs one of Kiln's programs as the user would from a shell. */
  kiln(program: 'executor' | 'warmer', args: readonly string[], options?: RunOptions): Promise<Ended>;
}

/** Makes a user, with 65,536 subordinate ids or with none. */
export async function makeOrdinaryUser(options: { subordinateIds: boolean }): Promise<OrdinaryUser> {
  const name = `kiln-${randomBytes(4).toString('hex')}`;
  const home = await mkdtemp(join(tmpdir(), 'kiln-home-'));
  const count = options.subordinateIds ? 65536 : 0;
  const ids = ['-K', `SUB_UID_COUNT=${count}`, '-K', `SUB_GID_COUNT=${count}`];
  await execute('useradd', ['--home-dir', home, '--no-create-home', '--user-group', ...ids, name]);
  const [uid, gid] = await Promise.all(
    ['-u', '-g'].map(async (flag) => Number((await execute('id', [flag, name])).stdout)),
  );
  if (uid === undefined || gid === undefined) throw new Error(`no ids of ${name}`);
  await chown(home, uid, gid);
  await chmod(home, 0o700);
  const under = [
    ...(await openTo()),
    ...['setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--init-groups', '--'],
  ];
  return {
    name,
    uid,
    home,
    under,
    kiln: (program, args, run = {}) =>
      kiln(program, args, { cwd: home, under, ...run, env: { HOME: home, ...run.env } }),
    [Symbol.asyncDispose]: async () => {
      await execute('userdel', [name]);
      await rm(home, { recursive: true, force: true });
    },
  };
}

/**
 * What lets an ordinary user reach a checkout below a directory that is closed to others, such as root's home: a mount
 * namespace in which that directory holds nothing but the way to it.
 */
async function openTo(): Promise<string[]> {
  let closed: string | undefined;
  for (let path = root; path !== '/'; path = dirname(path))
    if (((await stat(path)).mode & 0o005) !== 0o005) closed = path;
  if (closed === undefined) return [];
  const script = [
    'work=$(mktemp -d)',
    'mount --bind "$1" "$work"',
    'mount -t tmpfs -o mode=755 tmpfs "$2"',
    'mkdir -p "$1"',
    'mount --bind "$work" "$1"',
    'umount "$work"',
    'rmdir "$work"',
    'shift 2',
    'exec "$@"',
  ];
  return ['unshare', '--mount', 'sh', '-ec', script.join('\n'), 'sh', root, closed];
}
