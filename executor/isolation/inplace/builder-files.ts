import { existsSync, realpathSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { dockerConfigFiles } from '../../../src/registry/index.ts';
import { home } from '../../home.ts';
import type { ProcessEnvironment } from '../../../src/support/index.ts';

/** Where kaniko's is, which pipelines mount credentials into. */
const kanikoHome = '/kaniko';

/** Environment variables that name files with credentials, or directories of such. */
const credentialVariables = [
  ...['DOCKER_CONFIG', 'REGISTRY_AUTH_FILE', 'GOOGLE_APPLICATION_CREDENTIALS', 'AWS_CONFIG_FILE'],
  ...['AWS_SHARED_CREDENTIALS_FILE', 'AWS_WEB_IDENTITY_TOKEN_FILE', 'AZURE_FEDERATED_TOKEN_FILE'],
];

/** Where the kubelet mounts service account tokens, and container engines secrets. */
const tokenDirectories = ['/var/run/secrets', '/run/secrets'];

/** Files and directories with the builder's credentials. */
export function builderSecrets(environment: ProcessEnvironment): string[] {
  const named = credentialVariables.flatMap((name) => environment[name] ?? []);
  const files = dockerConfigFiles(environment);
  return [...new Set([...files, join(kanikoHome, '.docker'), ...named, ...tokenDirectories])];
}

/**
 * Paths that are not the image's: Kiln's directory, credentials, and what the build was given. Of a link both its own
 * path and where it leads count.
 *
 * @param given the context, the Dockerfile, the cache, places of output; also those that are yet to be made.
 */
export function sparedPaths(environment: ProcessEnvironment, given: readonly string[]): string[] {
  const secrets = builderSecrets(environment).filter((path) => !tokenDirectories.includes(path));
  const docker = environment.DOCKER_CONFIG ?? join(environment.HOME ?? homedir(), '.docker');
  const own = [home, kanikoHome, docker, ...secrets].filter(existsSync);
  const paths = [...own, ...given].flatMap((path) =>
    existsSync(path) ? [path, realpathSync(path)] : [path],
  );
  return [...new Set(paths)].filter((path) => path.startsWith('/') && path !== '/');
}

/** PATH without directories of the image: what Kiln starts for itself must be its own, or mounted. */
export function ownPath(path: string, isOwn: (directory: string) => boolean): string {
  return path.split(':').filter(isOwn).join(':');
}
