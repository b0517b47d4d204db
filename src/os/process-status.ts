import { readFileSync } from 'node:fs';

/** A field of `/proc/self/status` (proc_pid_status(5)). */
export function processStatus(field: string): string | undefined {
  return new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
}

const sysAdmin = 21n;
let administrator: boolean | undefined;

/** Whether this process has the capability SYS_ADMIN, in its own user namespace; read once a thread. */
export function hasSysAdmin(): boolean {
  administrator ??= (BigInt(`0x${processStatus('CapEff') ?? '0'}`) & (1n << sysAdmin)) !== 0n;
  return administrator;
}
