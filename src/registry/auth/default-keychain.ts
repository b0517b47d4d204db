import { homedir } from 'node:os';
import { join } from 'node:path';
import { TextFiles } from '../../support/index.ts';
import { type CredentialSource, Keychain } from './credential.ts';
import { DockerConfigSource } from './docker-config.ts';

/**
 * Where credentials are looked for.
 *
 * @param directory of Docker's config.json, instead of the usual places.
 * @param files what that file is read with.
 */
export function defaultKeychain(
  directory: string | undefined,
  files: TextFiles = new TextFiles(),
): CredentialSource {
  const docker = directory ?? process.env.DOCKER_CONFIG ?? join(homedir(), '.docker');
  return new Keychain([DockerConfigSource.file(join(docker, 'config.json'), files)]);
}
