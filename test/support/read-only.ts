import { execFileSync } from 'node:child_process';

/** Makes a directory read-only for everybody, as a pod mounts the cache volume, until the result is disposed. */
export function mountReadOnly(directory: string, at: string): Disposable {
  execFileSync('mkdir', ['-p', at]);
  execFileSync('mount', ['--bind', directory, at]);
  try {
    execFileSync('mount', ['-o', 'remount,bind,ro', at]);
  } catch (error) {
    execFileSync('umount', [at]);
    throw error;
  }
  return { [Symbol.dispose]: () => void execFileSync('umount', [at]) };
}
