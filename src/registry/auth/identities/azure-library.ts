import {
  EnvironmentCredential,
  ManagedIdentityCredential,
  type TokenCredential,
  WorkloadIdentityCredential,
} from '@azure/identity';
import { isGiven } from './machine.ts';
import type { ProcessEnvironment } from '../../../support/index.ts';

// Azure's library takes long to load: this module is imported when a registry of Azure's wants credentials, and not before.

/**
 * The credential that the environment speaks of: a workload's, a service principal's, or else the managed identity. The SDK's own
 * choice tries all, also those of developers' machines, and says little when none works.
 */
export function chooseCredential(environment: ProcessEnvironment): TokenCredential {
  const { AZURE_AUTHORITY_HOST, AZURE_CLIENT_ID, AZURE_FEDERATED_TOKEN_FILE } = environment;
  const { AZURE_CLIENT_SECRET, AZURE_CLIENT_CERTIFICATE_PATH } = environment;
  // An authority of one's own is none that Microsoft's directory of authorities knows.
  const own = isGiven(AZURE_AUTHORITY_HOST) && !/\.(?:com|us|cn|de)\/?$/.test(AZURE_AUTHORITY_HOST ?? '');
  const options = { disableInstanceDiscovery: own };
  if (isGiven(AZURE_FEDERATED_TOKEN_FILE)) return new WorkloadIdentityCredential(options);
  if (isGiven(AZURE_CLIENT_SECRET) || isGiven(AZURE_CLIENT_CERTIFICATE_PATH))
    return new EnvironmentCredential(options);
  const which = AZURE_CLIENT_ID === undefined || AZURE_CLIENT_ID === '' ? {} : { clientId: AZURE_CLIENT_ID };
  return new ManagedIdentityCredential({ ...which, retryOptions: { maxRetries: 1 } });
}
