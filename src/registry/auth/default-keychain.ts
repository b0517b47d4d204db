import { homedir } from 'node:os';
import { join } from 'node:path';
import { type CredentialSource, Keychain } from './credential.ts';
import { DockerConfigSource } from './docker-config.ts';

/** Where credentials are looked for. @param path of a Docker configuration, directory or file, instead of the usual places. */
export function defaultKeychain(path: string | undefined): CredentialSource {
  const docker = path ?? process.env.DOCKER_CONFIG ?? join(homedir(), '.docker');
  return new Keychain([DockerConfigSource.at(docker)]);
}
