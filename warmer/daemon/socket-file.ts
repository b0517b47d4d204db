import { chmod, readdir, rename, rm } from 'node:fs/promises';
import type { Server } from 'node:net';
import { join } from 'node:path';
import { EnvironmentError, randomName } from '../../src/support/index.ts';
import { FileLock, nodeSocketName } from '../../src/volume/index.ts';

/** `sun_path` of sockaddr_un holds this many bytes and a final zero. */
const longestPath = 107;

/**
 * The name `warmer.sock` on a volume, for as long as the daemon runs. A lock beside it says whose it is: the socket of a
 * killed daemon is left behind and may be replaced, that of a living one never.
 */
export class SocketFile implements AsyncDisposable {
  readonly path: string;
  readonly #lock: FileLock;

  private constructor(path: string, lock: FileLock) {
    this.path = path;
    this.#lock = lock;
  }

  /**
   * Claims the name.
   *
   * @throws EnvironmentError `E_WARMER_RUNNING` when a daemon serves the volume already, `E_SOCKET_PATH_TOO_LONG`.
   */
  static async claim(directory: string): Promise<SocketFile> {
    const path = join(directory, nodeSocketName);
    if (Buffer.byteLength(temporaryName(path)) > longestPath)
      throw new EnvironmentError(
        `the path of a socket can have ${longestPath} bytes, and ${path} is too long`,
        {
          code: 'E_SOCKET_PATH_TOO_LONG',
          where: path,
          remedy: 'Mount the volume at a shorter path.',
        },
      );
    const lock = await FileLock.tryAcquire(join(directory, 'ingest', 'warmer.lock'));
    if (lock === undefined)
      throw new EnvironmentError('another warmer serves this volume already', {
        code: 'E_WARMER_RUNNING',
        where: path,
        remedy: 'Run one warmer daemon for each volume, or wait until the other one has ended.',
      });
    // Left by a daemon that was killed before it had renamed its socket.
    for (const name of await readdir(directory))
      if (name.startsWith(`${nodeSocketName}.`)) await rm(join(directory, name), { force: true });
    return new SocketFile(path, lock);
  }

  /**
   * Makes a server listen. The socket appears under its name in one step, in place of one that was left behind, and
   * open to every build on the node: whatever user id a pod has, who can see the volume may connect.
   */
  async listen(server: Server): Promise<void> {
    const temporary = temporaryName(this.path);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once('error', reject).listen({ path: temporary, backlog: 1024 }, resolve);
    await promise;
    server.off('error', reject);
    await chmod(temporary, 0o666);
    await rename(temporary, this.path);
  }

  /** Takes the name away, so that no build begins to ask any more. */
  async remove(): Promise<void> {
    await rm(this.path, { force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
    await this.#lock[Symbol.asyncDispose]();
  }
}

function temporaryName(path: string): string {
  return randomName(`${path}.`).slice(0, path.length + 7);
}
