import { closeSync, fchmodSync, fstatSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { randomName } from '../support/index.ts';

/**
 * Waits until a file that changes now gets a later change time than `moment`. The clock of a file system moves in steps
 * of up to ten milliseconds, so a change directly after a file was looked at could leave its status as it was.
 *
 * @param directory on the same file system; a file is made in it, and removed.
 * @param moment in nanoseconds since the epoch.
 */
export function waitForLaterChanges(directory: string, moment: bigint): void {
  const path = join(directory, randomName('.clock-'));
  const fd = openSync(path, 'wx', 0o600);
  try {
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (let mode = 0o600; fstatSync(fd, { bigint: true }).ctimeNs <= moment; mode ^= 0o100) {
      Atomics.wait(pause, 0, 0, 1);
      fchmodSync(fd, mode);
    }
  } finally {
    closeSync(fd);
    rmSync(path);
  }
}
