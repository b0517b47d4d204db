import koffi from 'koffi';
import { SystemCallError } from './libc.ts';

const syncfs = koffi.load(null).func('int syncfs(int fd)');

/**
 * syncfs(2): returns once everything written so far to the file system that holds the open file is on disk.
 * Runs beside the event loop, since it can take seconds.
 */
export function syncFileSystem(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    syncfs.async(fd, (error: unknown, result: number) => {
      if (error != null) reject(error instanceof Error ? error : new Error('syncfs failed'));
      // errno belongs to the thread that made the call, so it cannot be read here; I/O errors are what syncfs reports.
      else if (result === -1) reject(new SystemCallError('syncfs', koffi.os.errno.EIO ?? 5));
      else resolve();
    });
  });
}
