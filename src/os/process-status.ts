import { readFileSync } from 'node:fs';

/** A field of `/proc/self/status` (proc_pid_status(5)). */
export function processStatus(field: string): string | undefined {
  return new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
}

/** Whether this process has a capability, in its own user namespace. @param number as in linux/capability.h. */
export function hasCapability(number: number): boolean {
  return (BigInt(`0x${processStatus('CapEff') ?? '0'}`) & (1n << BigInt(number))) !== 0n;
}

const sysAdmin = 21;
let administrator: boolean | undefined;

/** Whether this process has the capability SYS_ADMIN, in its own user namespace; read once a thread. */
export function hasSysAdmin(): boolean {
  administrator ??= hasCapability(sysAdmin);
  return administrator;
}
