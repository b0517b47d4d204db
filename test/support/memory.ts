import { mkdirSync } from 'node:fs';
import { mount, unmount } from '../../src/os/index.ts';

/** Makes a directory whose files are in memory, where syncing costs nothing, until the result is disposed. */
export function mountMemory(directory: string): Disposable {
  mkdirSync(directory, { recursive: true });
  mount('tmpfs', directory, 'tmpfs', 0, 'size=512m,mode=755');
  return { [Symbol.dispose]: () => unmount(directory, { detach: true }) };
}
