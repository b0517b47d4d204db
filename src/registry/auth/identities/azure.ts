import type { TokenCredential } from '@azure/identity';
import { fetchDocument } from '../../http/document.ts';
import { errorFrom, type Send } from '../../http/message.ts';
import type { Credential } from '../credential.ts';
import type { Identity } from './identity-source.ts';
import { isGiven, mayBeMachineOf } from './machine.ts';
import type { ProcessEnvironment } from '../../../support/index.ts';

const hosts = /\.azurecr\.(?:io|cn|us|de)$/;

/** Whom a token of Entra ID must be for: the resource manager of the registry's cloud, or registries, where only that is allowed. */
function audiences(registry: string): string[] {
  const manager = registry.endsWith('.cn')
    ? 'https://management.chinacloudapi.cn'
    : registry.endsWith('.us')
      ? 'https://management.usgovcloudapi.net'
      : 'https://management.azure.com';
  return [`${manager}/.default`, 'https://containerregistry.azure.net/.default'];
}

/** A registry's refresh tokens last three hours; Azure says so in the token itself. */
const defaultLife = 3 * 3600_000;

/**
 * Azure Container Registry, by workload identity (an OIDC token file), a service principal in the environment, or a managed identity. The
 * token of Entra ID is exchanged for a refresh token of the registry.
 *
 * @param send sends requests to the registry, without credentials.
 * @param matches registries that are Azure's; for tests.
 */
export function azureIdentity(
  send: Send,
  environment: ProcessEnvironment,
  matches: RegExp = hosts,
): Identity {
  let credential: TokenCredential | undefined;
  return {
    name: 'Azure',
    knows: (registry) => matches.test(registry) && mayBeSomebodyToAzure(environment),
    obtain: async (registry, signal) => {
      credential ??= await azureCredential(environment);
      let failure: unknown;
      for (const audience of audiences(registry)) {
        const token = await credential.getToken(audience, { abortSignal: signal });
        if (token == null) throw new Error('there is no token');
        try {
          return await exchange(send, registry, token.token, signal);
        } catch (error) {
          failure ??= error;
        }
      }
      throw failure;
    },
  };
}

/** Who we are to Azure: a workload, a service principal, or the machine. */
export async function azureCredential(environment: ProcessEnvironment): Promise<TokenCredential> {
  const { chooseCredential } = await import('./azure-library.ts');
  return chooseCredential(environment);
}

/** Whether it is worth asking: to find out that there is no managed identity takes long. */
export function mayBeSomebodyToAzure(environment: ProcessEnvironment): boolean {
  const { AZURE_CLIENT_ID, AZURE_FEDERATED_TOKEN_FILE, IDENTITY_ENDPOINT, MSI_ENDPOINT, IMDS_ENDPOINT } =
    environment;
  const { AZURE_POD_IDENTITY_AUTHORITY_HOST } = environment;
  return (
    [
      ...[AZURE_CLIENT_ID, AZURE_FEDERATED_TOKEN_FILE, IDENTITY_ENDPOINT, MSI_ENDPOINT, IMDS_ENDPOINT],
      AZURE_POD_IDENTITY_AUTHORITY_HOST,
    ].some(isGiven) || mayBeMachineOf(/Microsoft/, environment)
  );
}

/** The registry's own exchange of tokens (`/oauth2/exchange`). */
async function exchange(
  send: Send,
  registry: string,
  accessToken: string,
  signal: AbortSignal,
): Promise<Credential> {
  const form = new URLSearchParams({
    grant_type: 'access_token',
    service: registry,
    access_token: accessToken,
  });
  const body = Buffer.from(form.toString());
  const what = `a token of ${registry}`;
  const { response, body: answer } = await fetchDocument(
    () =>
      send({
        method: 'POST',
        url: new URL(`https://${registry}/oauth2/exchange`),
        headers: {
          'content-type': 'application/x-www-form-urlencoded',
          'content-length': String(body.length),
        },
        body: () => body,
        signal,
      }),
    1024 * 1024,
    what,
    signal,
  );
  if (answer === undefined) throw await errorFrom(response, `POST ${what}`);
  const { refresh_token: token } = JSON.parse(answer.toString('utf8')) as { refresh_token?: unknown };
  if (typeof token !== 'string' || token === '') throw new Error('the registry gave no token');
  return { kind: 'identity', token, source: 'Azure', expiresAt: expiryOf(token) };
}

/** When a JSON web token ends, in milliseconds since 1970. */
function expiryOf(token: string): number {
  try {
    const claims = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString('utf8')) as {
      exp?: unknown;
    };
    if (typeof claims.exp === 'number') return claims.exp * 1000;
  } catch {
    // It need not be a JSON web token; then the usual life is assumed.
  }
  return Date.now() + defaultLife;
}
