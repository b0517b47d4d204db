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

/** A command that runs another in a mount namespace of its own, in which the directory lies read-only at `at` as well. */
export function underReadOnlyMount(directory: string, at: string): readonly string[] {
  const script = 'mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && shift 2 && exec "$@"';
  return ['unshare', '--mount', 'sh', '-c', script, 'sh', directory, at];
}
