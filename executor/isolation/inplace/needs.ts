import { EnvironmentError } from '../../../src/support/index.ts';
import { type CapabilityName, containerCapabilities, ownCapabilities } from '../capabilities.ts';

/** Without these neither can a base be unpacked as it is, nor a step be run as another user. */
export const neededCapabilities: readonly CapabilityName[] = [
  ...(['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'SETGID', 'SETUID'] as const),
];

/**
 * Makes sure that this process may do what a build in place does.
 *
 * @throws EnvironmentError `E_INPLACE_CAPABILITY` naming what is missing.
 */
export function requireCapabilities(): void {
  if (process.geteuid?.() !== 0)
    throw new EnvironmentError(
      `building in place takes root, and this is user ${process.geteuid?.() ?? '?'}`,
      {
        code: 'E_INPLACE_CAPABILITY',
        remedy: 'Give the container runAsUser: 0.',
      },
    );
  const own = ownCapabilities('effective');
  const missing = neededCapabilities.filter((name) => !own.has(name));
  if (missing.length === 0) return;
  throw new EnvironmentError(`building in place needs the capabilities ${missing.join(', ')}`, {
    code: 'E_INPLACE_CAPABILITY',
    remedy: `Add to the container: securityContext.capabilities.add: [${missing.join(', ')}].`,
  });
}

/** What a step that failed may have missed: capabilities that containers have by default, and this one has not. */
export function missingCapabilitiesHint(): string | undefined {
  const own = ownCapabilities('bounding');
  const missing = containerCapabilities.filter((name) => !own.has(name));
  if (missing.length === 0) return undefined;
  return `This container lacks capabilities that a step may need: ${missing.join(', ')} (securityContext.capabilities.add).`;
}
