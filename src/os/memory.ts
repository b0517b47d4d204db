import { setFlagsFromString } from 'node:v8';
import koffi from 'koffi';

/**
 * Gives memory that was freed back to the system (malloc_trim(3) of glibc), which the allocator by itself keeps for the
 * next time. Another C library is left alone.
 */
export function releaseMemory(): void {
  try {
    trim ??= koffi.load(null).func('int malloc_trim(size_t pad)');
  } catch {
    return; // there is no such function
  }
  trim(0);
}

let trim: ((pad: number) => number) | undefined;

/**
 * Has V8 collect garbage early instead of letting its heap grow, for commands that go through much, keep little, and wait for
 * the network anyway. It costs them some processor time.
 */
export function keepHeapSmall(): void {
  setFlagsFromString('--optimize-for-size');
}
