import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Identity } from './identity-source.ts';
import { isGiven, mayBeMachineOf } from './machine.ts';
import type { ProcessEnvironment } from '../../../support/index.ts';

const hosts = /^(?:gcr\.io|.+\.gcr\.io|.+\.pkg\.dev)$/;

/**
 * Google Artifact Registry and the hosts of Container Registry, by Application Default Credentials: a service account's key, workload identity
 * federation (an OIDC token file), what `gcloud auth application-default login` left, or the metadata server.
 */
export function googleIdentity(environment: ProcessEnvironment): Identity {
  return {
    name: 'Google',
    knows: (registry) => hosts.test(registry) && mayBeSomebodyToGoogle(environment),
    obtain: async () => {
      const { token, expires } = await googleToken(environment);
      return {
        kind: 'basic',
        username: 'oauth2accesstoken',
        password: token,
        source: 'Google',
        ...(expires == null ? {} : { expiresAt: expires }),
      };
    },
  };
}

/** An access token of Google's by Application Default Credentials, and when it expires. @throws Error saying why there is none. */
export async function googleToken(
  environment: ProcessEnvironment,
): Promise<{ readonly token: string; readonly expires: number | null | undefined }> {
  const { accessToken } = await import('./google-library.ts');
  return accessToken(environment.GOOGLE_CLOUD_PROJECT);
}

/**
 * Whether it is worth asking. Most who pull a public image from there are nobody to Google, and to find out that there is no metadata
 * server takes seconds.
 */
export function mayBeSomebodyToGoogle(environment: ProcessEnvironment): boolean {
  const {
    GOOGLE_APPLICATION_CREDENTIALS,
    GCE_METADATA_HOST,
    HOME,
    CLOUDSDK_CONFIG,
    K_SERVICE,
    CLOUD_RUN_JOB,
  } = environment;
  if ([GOOGLE_APPLICATION_CREDENTIALS, GCE_METADATA_HOST, K_SERVICE, CLOUD_RUN_JOB].some(isGiven))
    return true;
  const directory = CLOUDSDK_CONFIG ?? join(HOME ?? '/root', '.config/gcloud');
  if (existsSync(join(directory, 'application_default_credentials.json'))) return true;
  return mayBeMachineOf(/Google/, environment);
}
