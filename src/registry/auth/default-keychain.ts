import { homedir } from 'node:os';
import { join } from 'node:path';
import { type CredentialSource, Keychain } from './credential.ts';
import { DockerConfigSource } from './docker-config.ts';

/** Where credentials are looked for. @param directory of Docker's config.json, instead of the usual places. */
export function defaultKeychain(directory: string | undefined): CredentialSource {
  const docker = directory ?? process.env.DOCKER_CONFIG ?? join(homedir(), '.docker');
  return new Keychain([DockerConfigSource.file(join(docker, 'config.json'))]);
}
