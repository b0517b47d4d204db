import { EnvironmentError, isOrdinaryUser, rootlessUser } from '../../../src/support/index.ts';

/**
 * Makes sure that an ordinary user does not build in place, whatever user namespace they are root of: the root file system
 * would not be theirs.
 *
 * @throws EnvironmentError `E_INPLACE_USER`.
 */
export function requireRoot(): void {
  if (!isOrdinaryUser()) return;
  const name = rootlessUser()?.name ?? `user ${process.geteuid?.() ?? '?'}`;
  throw new EnvironmentError(`building in place takes root of the container, and this is ${name}`, {
    code: 'E_INPLACE_USER',
    remedy: 'In a container, set runAsUser: 0; elsewhere build with --isolation overlay.',
  });
}
