import type { Option } from 'commander';
import type { RegistryOptions } from '../registry/index.ts';
import type { Progress } from '../support/index.ts';
import { booleanFlag, listFlag } from './flags.ts';

/** What the flags of {@link registryFlags} give. */
export interface RegistryFlags {
  readonly insecure: boolean;
  readonly insecureRegistry: readonly string[];
  readonly skipTlsVerify: boolean;
  readonly skipTlsVerifyRegistry: readonly string[];
}

/** The flags about registries that every command which speaks to one has. */
export function registryFlags(): Option[] {
  return [
    booleanFlag('--insecure', 'speak plain HTTP to all registries', false),
    listFlag('--insecure-registry <host>', 'speak plain HTTP to this registry'),
    booleanFlag('--skip-tls-verify', 'accept any certificate', false),
    listFlag('--skip-tls-verify-registry <host>', 'accept any certificate of this registry'),
  ];
}

export function registryOptions(flags: RegistryFlags, progress: Progress): RegistryOptions {
  return {
    insecure: flags.insecure,
    insecureRegistries: new Set(flags.insecureRegistry),
    skipTlsVerify: flags.skipTlsVerify,
    skipTlsVerifyRegistries: new Set(flags.skipTlsVerifyRegistry),
    progress,
  };
}
