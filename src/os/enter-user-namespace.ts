import { execFile } from 'node:child_process';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { promisify } from 'node:util';
import { EnvironmentError, messageOf, rememberRootlessUser } from '../support/index.ts';
import type { IdKind, IdRange } from './id-map.ts';
import { becomeProgram } from './libc.ts';
import { NamespaceHolder } from './namespace-holder.ts';
import { ownCommand } from './own-program.ts';
import { type Account, readSubordinateMap } from './subordinate-ids.ts';
import { findProgram, subordinateIdObstacles, userNamespaceObstacles } from './user-namespace-obstacles.ts';

/**
 * Makes an ordinary user root of a user namespace. This process begins anew in it with the same arguments, process id,
 * environment and standard streams, so that signals, exit codes and terminals are those of one process. Root 0 is the
 * user, other ids are the user's subordinate ones (subuid(5)); without these there is root alone.
 *
 * A process of several threads can neither make nor join a user namespace (user_namespaces(7)). So a child makes it and
 * holds it while newuidmap(1) and newgidmap(1) fill in its ids; then this process becomes nsenter(1), which joins it and
 * becomes Node again.
 *
 * @throws EnvironmentError `E_USER_NAMESPACE` naming what is in the way.
 */
export async function enterUserNamespace(signal?: AbortSignal): Promise<never> {
  const account = ownAccount();
  let reason = subordinateIdObstacles(account)[0]?.reason;
  let namespace: number | undefined;
  if (reason === undefined)
    try {
      namespace = await makeNamespace((pid) => mapSubordinateIds(pid, account), signal);
    } catch (error) {
      if (!(error instanceof MappingError)) throw error;
      reason = error.message;
    }
  namespace ??= await makeNamespace((pid) => mapOwnId(pid, account), signal).catch((error: unknown) => {
    throw error instanceof MappingError ? refused(error.message) : error;
  });
  rememberRootlessUser({ name: account.name, singleIdReason: reason });
  process.env.HOME ??= account.home;
  try {
    return beginAnew(namespace);
  } catch (error) {
    closeSync(namespace);
    throw refused(messageOf(error));
  }
}

function ownAccount(): Account & { readonly home: string } {
  const [uid, gid] = [process.geteuid?.() ?? 0, process.getegid?.() ?? 0];
  try {
    const { username, homedir } = userInfo();
    return { name: username, uid, gid, home: homedir };
  } catch {
    return { name: String(uid), uid, gid, home: '/' }; // a user that only the cluster knows
  }
}

/**
 * @returns an open file that keeps the namespace.
 * @throws MappingError when `map` cannot fill in the ids, EnvironmentError when there can be no user namespace.
 */
async function makeNamespace(
  map: (pid: number) => Promise<void>,
  signal: AbortSignal | undefined,
): Promise<number> {
  signal?.throwIfAborted();
  using holder = holdNamespace();
  await map(holder.pid);
  return openSync(`/proc/${holder.pid}/ns/user`, 'r');
}

function holdNamespace(): NamespaceHolder {
  try {
    return new NamespaceHolder();
  } catch (error) {
    throw refused(messageOf(error));
  }
}

/** The ids could not be filled in. */
class MappingError extends Error {
  override readonly name = 'MappingError';
}

const run = promisify(execFile);

async function mapSubordinateIds(pid: number, account: Account): Promise<void> {
  const fill = async (program: string, kind: IdKind): Promise<void> => {
    const map = readSubordinateMap(kind, account) ?? [];
    const words = map.flatMap(({ inside, outside, count }: IdRange) => [inside, outside, count]);
    await run(findProgram(program) ?? program, [pid, ...words].map(String), { env: {} });
  };
  const filled = await Promise.allSettled([fill('newuidmap', 'uid'), fill('newgidmap', 'gid')]);
  for (const result of filled)
    if (result.status === 'rejected') {
      const { stderr } = result.reason as { stderr?: string };
      throw new MappingError((stderr ?? messageOf(result.reason)).trim());
    }
}

function mapOwnId(pid: number, { uid, gid }: Account): Promise<void> {
  try {
    // The kernel lets a user map their own group only where groups cannot be changed (user_namespaces(7)).
    writeFileSync(`/proc/${pid}/setgroups`, 'deny');
    writeFileSync(`/proc/${pid}/uid_map`, `0 ${uid} 1`);
    writeFileSync(`/proc/${pid}/gid_map`, `0 ${gid} 1`);
  } catch (error) {
    throw new MappingError(messageOf(error));
  }
  return Promise.resolve();
}

function beginAnew(namespace: number): never {
  const { file, args } = ownCommand();
  const nsenter = [`--user=/proc/self/fd/${namespace}`, '--preserve-credentials', '--', file, ...args];
  return becomeProgram(findProgram('nsenter') ?? 'nsenter', nsenter, { keepOpen: [namespace] });
}

function refused(problem: string): EnvironmentError {
  const [obstacle] = userNamespaceObstacles();
  return new EnvironmentError(
    `an ordinary user builds as root of a user namespace, and there can be none: ${obstacle?.reason ?? problem}`,
    {
      code: 'E_USER_NAMESPACE',
      remedy: obstacle?.remedy ?? 'Build as root, or in a pod with hostUsers: false and SYS_ADMIN.',
    },
  );
}
