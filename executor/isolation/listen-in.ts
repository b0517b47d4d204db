import { chmod, open, rm } from 'node:fs/promises';
import { setOwner } from '../../src/os/index.ts';
import type { StepFileOwner } from './types.ts';

/** Has a socket listen, with its owner and mode. The path is named through its directory: sockets know only short ones. */
export async function listenIn(
  path: string,
  { listen, uid, gid, mode }: StepFileOwner & { readonly listen: (path: string) => Promise<AsyncDisposable> },
): Promise<AsyncDisposable> {
  const slash = path.lastIndexOf('/');
  await using directory = await open(path.slice(0, slash) || '/', 'r');
  const listening = await listen(`/proc/self/fd/${directory.fd}${path.slice(slash)}`);
  setOwner(path, { uid, gid });
  await chmod(path, mode & 0o777);
  return {
    [Symbol.asyncDispose]: async () => {
      await listening[Symbol.asyncDispose]();
      // Node removes it by the name that it was made by, which is gone.
      await rm(path, { force: true });
    },
  };
}
