import { readFileSync } from 'node:fs';

/** Where something is mounted in the calling thread's mount namespace, the root too (proc_pid_mountinfo(5)). */
export function mountPoints(): string[] {
  return parseMountPoints(readFileSync('/proc/thread-self/mountinfo', 'utf8'));
}

/** The mount points in the text of a `mountinfo`; blanks in them are written as octal numbers. */
export function parseMountPoints(mountinfo: string): string[] {
  return mountinfo.split('\n').flatMap((line) => {
    const point = line.split(' ')[4];
    return point === undefined
      ? []
      : [point.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)))];
  });
}
