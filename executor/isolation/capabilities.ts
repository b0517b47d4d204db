import { readFileSync } from 'node:fs';

/** Linux capabilities by number (capabilities(7)). */
export const capabilityNames = [
  ...['CHOWN', 'DAC_OVERRIDE', 'DAC_READ_SEARCH', 'FOWNER', 'FSETID', 'KILL', 'SETGID', 'SETUID', 'SETPCAP'],
  ...[
    'LINUX_IMMUTABLE',
    'NET_BIND_SERVICE',
    'NET_BROADCAST',
    'NET_ADMIN',
    'NET_RAW',
    'IPC_LOCK',
    'IPC_OWNER',
  ],
  ...[
    'SYS_MODULE',
    'SYS_RAWIO',
    'SYS_CHROOT',
    'SYS_PTRACE',
    'SYS_PACCT',
    'SYS_ADMIN',
    'SYS_BOOT',
    'SYS_NICE',
  ],
  ...['SYS_RESOURCE', 'SYS_TIME', 'SYS_TTY_CONFIG', 'MKNOD', 'LEASE', 'AUDIT_WRITE', 'AUDIT_CONTROL'],
  ...[
    'SETFCAP',
    'MAC_OVERRIDE',
    'MAC_ADMIN',
    'SYSLOG',
    'WAKE_ALARM',
    'BLOCK_SUSPEND',
    'AUDIT_READ',
    'PERFMON',
  ],
  ...['BPF', 'CHECKPOINT_RESTORE'],
] as const;

export type CapabilityName = (typeof capabilityNames)[number];

/** The capabilities of a container by default (Docker's and containerd's list). */
export const containerCapabilities: readonly CapabilityName[] = [
  ...(['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'SETGID', 'SETUID', 'SETPCAP'] as const),
  ...(['NET_BIND_SERVICE', 'NET_RAW', 'SYS_CHROOT', 'MKNOD', 'AUDIT_WRITE', 'SETFCAP'] as const),
];

/** The number of a capability. */
export function capabilityNumber(name: CapabilityName): number {
  return capabilityNames.indexOf(name);
}

/** A set of capabilities of this process. */
export function ownCapabilities(set: 'effective' | 'bounding'): ReadonlySet<CapabilityName> {
  const field = set === 'effective' ? 'CapEff' : 'CapBnd';
  const status = readFileSync('/proc/self/status', 'latin1');
  const bits = BigInt(`0x${new RegExp(`^${field}:\\s+([0-9a-f]+)$`, 'm').exec(status)?.[1] ?? '0'}`);
  return new Set(capabilityNames.filter((_, number) => (bits & (1n << BigInt(number))) !== 0n));
}
