import type { Credential } from '../credential.ts';
import type { AuthorizationData } from './amazon-library.ts';
import type { Identity } from './identity-source.ts';
import { isGiven } from './machine.ts';
import type { ProcessEnvironment } from '../../../support/index.ts';

/** Account, FIPS and region of a private registry: `123456789012.dkr.ecr.eu-west-1.amazonaws.com`, also in other partitions. */
const privateRegistry =
  /^[0-9]{12}\.dkr[.-]ecr(?<fips>-fips)?\.(?<region>[a-z0-9-]+)\.(?:amazonaws\.(?:com(?:\.cn)?|eu)|on\.(?:aws|amazonwebservices\.com\.cn)|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)$/;

const publicRegistry = 'public.ecr.aws';

/** Signs that somebody told this process who it is. Public images are given to anybody, so without them it is not worth asking. */
const signs = [
  'AWS_ACCESS_KEY_ID',
  'AWS_PROFILE',
  'AWS_WEB_IDENTITY_TOKEN_FILE',
  'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI',
  'AWS_CONTAINER_CREDENTIALS_FULL_URI',
];

/**
 * Amazon ECR, by the credentials that the AWS SDK finds: environment, web identity (IRSA), container (ECS, EKS Pod
 * Identity), instance metadata. The endpoints are the SDK's to choose, and `AWS_ENDPOINT_URL_…` overrides them.
 */
export function amazonIdentity(environment: ProcessEnvironment): Identity {
  return {
    name: 'Amazon ECR',
    knows: (registry) =>
      privateRegistry.test(registry) ||
      (registry === publicRegistry && signs.some((name) => isGiven(environment[name]))),
    obtain: async (registry, signal) => {
      const { privateToken, publicToken } = await import('./amazon-library.ts');
      const { region = '', fips } = privateRegistry.exec(registry)?.groups ?? {};
      return credentialOf(
        registry === publicRegistry
          ? await publicToken(signal)
          : await privateToken(region, fips !== undefined, signal),
      );
    },
  };
}

function credentialOf(data: AuthorizationData | undefined): Credential {
  const decoded = Buffer.from(data?.authorizationToken ?? '', 'base64').toString('utf8');
  const colon = decoded.indexOf(':');
  if (colon <= 0) throw new Error('the answer has no token');
  return {
    kind: 'basic',
    username: decoded.slice(0, colon),
    password: decoded.slice(colon + 1),
    source: 'Amazon ECR',
    ...(data?.expiresAt === undefined ? {} : { expiresAt: data.expiresAt.getTime() }),
  };
}
