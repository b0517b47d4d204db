import { EnvironmentError, messageOf, systemErrorCode } from '../support/index.ts';
import { hasCapability } from './process-status.ts';

/** Numbers of the capabilities that root needs for files of any kind (linux/capability.h). */
const numbers = { CHOWN: 0, DAC_OVERRIDE: 1, FOWNER: 3, FSETID: 4, MKNOD: 27, SETFCAP: 31 } as const;

type FileCapability = keyof typeof numbers;

/** What a system call that was refused with EPERM lacked (capabilities(7)). */
const needed: Readonly<Record<string, FileCapability>> = {
  chown: 'CHOWN',
  fchown: 'CHOWN',
  lchown: 'CHOWN',
  chmod: 'FOWNER',
  fchmod: 'FOWNER',
  utimensat: 'FOWNER',
  mknod: 'MKNOD',
  lsetxattr: 'SETFCAP',
};

/**
 * The error for what root was refused because it was not given a capability, as in a container; undefined when the cause
 * is another one.
 */
export function capabilityError(error: unknown): EnvironmentError | undefined {
  if (!(error instanceof Error)) return undefined;
  const code = systemErrorCode(error);
  if (code === 'EACCES') return missing('DAC_OVERRIDE', error);
  const name = 'syscall' in error ? needed[String(error.syscall)] : undefined;
  return code === 'EPERM' && name !== undefined ? missing(name, error) : undefined;
}

/**
 * The error for a set-group-id bit that was set and is not there: without FSETID the kernel takes it from files of other
 * groups, and says nothing (chmod(2)).
 */
export function lostGroupBit(path: string): EnvironmentError {
  const cause = new Error(`the set-group-id bit of ${path} did not stay`);
  return (
    missing('FSETID', cause) ??
    new EnvironmentError(cause.message, {
      code: 'E_FILE_SYSTEM',
      remedy: 'Use a file system that keeps such bits, as ext4 and XFS do.',
    })
  );
}

function missing(name: FileCapability, cause: Error): EnvironmentError | undefined {
  if (process.geteuid?.() !== 0 || hasCapability(numbers[name])) return undefined;
  return new EnvironmentError(`the capability ${name} is missing: ${messageOf(cause)}`, {
    code: 'E_CAPABILITY_MISSING',
    cause,
    remedy: `Add ${name} to securityContext.capabilities.add of the container.`,
  });
}
