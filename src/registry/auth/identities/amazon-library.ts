import { Agent } from 'node:https';
import { ECRClient, GetAuthorizationTokenCommand } from '@aws-sdk/client-ecr';
import {
  ECRPUBLICClient,
  GetAuthorizationTokenCommand as GetPublicTokenCommand,
} from '@aws-sdk/client-ecr-public';

// The AWS SDK takes long to load: this module is imported when a registry of Amazon's wants credentials, and not before.

/** What both kinds of ECR answer. */
export interface AuthorizationData {
  readonly authorizationToken?: string | undefined;
  readonly expiresAt?: Date | undefined;
}

export async function privateToken(
  region: string,
  useFipsEndpoint: boolean,
  abortSignal: AbortSignal,
): Promise<AuthorizationData | undefined> {
  const client = new ECRClient({ region, useFipsEndpoint, requestHandler: { httpsAgent: proxiedAgent() } });
  try {
    const answer = await client.send(new GetAuthorizationTokenCommand({}), { abortSignal });
    return answer.authorizationData?.[0];
  } finally {
    client.destroy();
  }
}

/** Of `public.ecr.aws`, whose tokens are made in one region only. */
export async function publicToken(abortSignal: AbortSignal): Promise<AuthorizationData | undefined> {
  const client = new ECRPUBLICClient({ region: 'us-east-1', requestHandler: { httpsAgent: proxiedAgent() } });
  try {
    const answer = await client.send(new GetPublicTokenCommand({}), { abortSignal });
    return answer.authorizationData;
  } finally {
    client.destroy();
  }
}

/** The SDK itself knows of no proxies. */
function proxiedAgent(): Agent {
  return new Agent({ keepAlive: false, proxyEnv: process.env });
}
