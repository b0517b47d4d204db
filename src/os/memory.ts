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
