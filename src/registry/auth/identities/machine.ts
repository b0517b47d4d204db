import { readFileSync } from 'node:fs';
import type { ProcessEnvironment } from '../../../support/index.ts';

/** True when a variable is set to something. */
export function isGiven(value: string | undefined): boolean {
  return value !== undefined && value !== '';
}

/**
 * Whether this machine may be one of a cloud's. A sandbox hides what the machine is; then a pod may be anywhere.
 *
 * @param vendor as the firmware names the cloud.
 */
export function mayBeMachineOf(vendor: RegExp, environment: ProcessEnvironment): boolean {
  const text = firmwareVendor();
  return text === undefined ? isGiven(environment.KUBERNETES_SERVICE_HOST) : vendor.test(text);
}

function firmwareVendor(): string | undefined {
  try {
    return ['bios_vendor', 'sys_vendor']
      .map((name) => readFileSync(`/sys/class/dmi/id/${name}`, 'utf8'))
      .join(' ');
  } catch {
    return undefined;
  }
}
