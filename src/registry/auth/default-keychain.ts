import { homedir } from 'node:os';
import { join } from 'node:path';
import { TextFiles, UsageError, type ProcessEnvironment } from '../../support/index.ts';
import type { Send } from '../http/message.ts';
import { type CredentialSource, Keychain } from './credential.ts';
import { DockerConfigSource } from './docker-config.ts';
import { amazonIdentity } from './identities/amazon.ts';
import { azureIdentity } from './identities/azure.ts';
import { environmentSource, githubSource, gitlabSource } from './identities/environment.ts';
import { googleIdentity } from './identities/google.ts';
import { IdentitySource } from './identities/identity-source.ts';

/** What can find credentials without a file, in the order in which they are asked. */
export const credentialHelperNames = ['env', 'google', 'ecr', 'acr', 'gitlab', 'github'] as const;
export type CredentialHelperName = (typeof credentialHelperNames)[number];

/** Programs of Docker's protocol that Kiln needs no program for: configurations for kaniko name them. */
const builtInPrograms: Readonly<Record<string, CredentialHelperName>> = {
  'ecr-login': 'ecr',
  gcr: 'google',
  gcloud: 'google',
  'acr-env': 'acr',
  'acr-login': 'acr',
  acr: 'acr',
  gitlabci: 'gitlab',
};

export interface KeychainOptions {
  /** Of Docker's config.json, instead of all other files; or a Secret as Kubernetes mounts it; or the file itself. */
  readonly directory?: string | undefined;
  readonly helpers?: readonly CredentialHelperName[] | undefined;
  readonly environment: ProcessEnvironment;
  /** Sends requests without credentials. */
  readonly send: Send;
  /** What files of the form of Docker's config.json are read with. */
  readonly files?: TextFiles | undefined;
}

/**
 * Where credentials are looked for: `DOCKER_AUTH_CONFIG`, the files of Docker and Podman, and then whatever the machine or job
 * has as an identity.
 */
export function defaultKeychain(options: KeychainOptions): CredentialSource {
  const { directory, environment, helpers = credentialHelperNames, files = new TextFiles() } = options;
  const sources = helperSources(options);
  const builtIn = new Map<string, CredentialSource>();
  for (const [program, name] of Object.entries(builtInPrograms)) {
    const source = sources.get(name);
    if (source !== undefined) builtIn.set(program, source);
  }
  const text = environment.DOCKER_AUTH_CONFIG;
  return new Keychain([
    ...(directory === undefined && text !== undefined
      ? [new DockerConfigSource('$DOCKER_AUTH_CONFIG', () => Promise.resolve(text), builtIn)]
      : []),
    ...dockerConfigFiles(environment, directory).map((path) => DockerConfigSource.file(path, files, builtIn)),
    ...helpers.map((name) => sources.get(name)).filter((source) => source !== undefined),
  ]);
}

/**
 * The files in which credentials are looked for.
 *
 * @param directory as in {@link KeychainOptions}.
 */
export function dockerConfigFiles(environment: ProcessEnvironment, directory?: string): string[] {
  return directory === undefined ? configFiles(environment) : filesOf(directory);
}

function filesOf(directory: string): string[] {
  return [join(directory, 'config.json'), join(directory, '.dockerconfigjson'), directory];
}

/** What is said explicitly comes before what lies at a usual place. */
function configFiles(environment: ProcessEnvironment): string[] {
  const home = environment.HOME ?? homedir();
  const { DOCKER_CONFIG, REGISTRY_AUTH_FILE, XDG_RUNTIME_DIR, XDG_CONFIG_HOME } = environment;
  const below = (base: string | undefined, path: string): string[] =>
    base === undefined || base === '' ? [] : [join(base, path)];
  return [
    ...below(DOCKER_CONFIG, 'config.json'),
    ...below(REGISTRY_AUTH_FILE, ''),
    join(home, '.docker/config.json'),
    ...below(XDG_RUNTIME_DIR, 'containers/auth.json'),
    join(XDG_CONFIG_HOME ?? join(home, '.config'), 'containers/auth.json'),
    // Where manifests for kaniko mount it.
    '/kaniko/.docker/config.json',
  ];
}

function helperSources({ environment, send }: KeychainOptions): Map<CredentialHelperName, CredentialSource> {
  return new Map<CredentialHelperName, CredentialSource>([
    ['env', environmentSource(environment)],
    ['google', new IdentitySource(googleIdentity(environment))],
    ['ecr', new IdentitySource(amazonIdentity(environment))],
    ['acr', new IdentitySource(azureIdentity(send, environment))],
    ['gitlab', gitlabSource(environment)],
    ['github', githubSource(environment)],
  ]);
}

/**
 * Parses names of helpers; an empty one stands for none.
 *
 * @throws UsageError for a name that nobody has.
 */
export function parseCredentialHelpers(names: readonly string[]): CredentialHelperName[] {
  return names.flatMap((text) => {
    if (text === '') return [];
    const name = credentialHelperNames.find((known) => known === text);
    if (name !== undefined) return name;
    throw new UsageError(`"${text}" is not a credential helper`, {
      remedy: `There are ${credentialHelperNames.join(', ')}.`,
    });
  });
}
