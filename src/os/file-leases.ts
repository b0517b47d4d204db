import koffi from 'koffi';

/*
 * Leases of files (fcntl(2), "Leases"): while a process holds one, whoever opens the file in a conflicting way waits until
 * the holder, told by SIGIO, has given it up, or until /proc/sys/fs/lease-break-time has passed (45 seconds).
 */

const fcntl = koffi.load(null).func('int fcntl(int fd, int command, long argument)');
const setLease = 1024;
const getLease = 1025;
const kinds = { read: 0, write: 1, none: 2 } as const;

/**
 * Takes a lease on an open file: with `write` nobody else can open it, with `read` nobody can open it for writing or cut
 * it. Needs a file of the caller's own user, open for reading only, and for `write` that nobody else has it open.
 *
 * @returns false when it cannot be had.
 */
export function takeFileLease(fd: number, kind: 'read' | 'write'): boolean {
  return (fcntl(fd, setLease, kinds[kind]) as number) === 0;
}

/** Gives up a lease, so that who waits goes on. Closing the file does so too. */
export function releaseFileLease(fd: number): void {
  fcntl(fd, setLease, kinds.none);
}

/** The kind of lease that is held, or that is left once somebody's wish is granted. */
export function fileLease(fd: number): 'read' | 'write' | 'none' {
  const kind = fcntl(fd, getLease, 0) as number;
  return kind === kinds.read ? 'read' : kind === kinds.write ? 'write' : 'none';
}
