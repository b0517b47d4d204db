import { processStatus } from '../../src/os/index.ts';
import { EnvironmentError } from '../../src/support/index.ts';

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
  const bits = BigInt(`0x${processStatus(field) ?? '0'}`);
  return new Set(capabilityNames.filter((_, number) => (bits & (1n << BigInt(number))) !== 0n));
}

/** What every way to run steps takes: unpacking a base as it is, and running a step as another user. */
export const fileCapabilities: readonly CapabilityName[] = [
  ...(['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'SETGID', 'SETUID'] as const),
];

/**
 * Makes sure that this process has capabilities.
 *
 * @param what needs them, as `building in place`.
 * @throws EnvironmentError `E_CAPABILITY_MISSING` naming those that are missing.
 */
export function requireCapabilities(what: string, needed: readonly CapabilityName[]): void {
  const own = ownCapabilities('effective');
  const missing = needed.filter((name) => !own.has(name)).join(', ');
  if (missing === '') return;
  throw new EnvironmentError(`${what} takes capabilities that are missing: ${missing}`, {
    code: 'E_CAPABILITY_MISSING',
    remedy: `Add to the container: securityContext.capabilities.add: [${missing}].`,
  });
}

/** Capabilities that containers have by default, and steps have not here. */
export function missingStepCapabilities(): CapabilityName[] {
  const own = ownCapabilities('bounding');
  return containerCapabilities.filter((name) => !own.has(name));
}

/** What a step that failed may have missed; undefined when it had what steps have everywhere. */
export function missingCapabilitiesHint(): string | undefined {
  const missing = missingStepCapabilities();
  if (missing.length === 0) return undefined;
  return `This container lacks capabilities that a step may need: ${missing.join(', ')} (securityContext.capabilities.add).`;
}
