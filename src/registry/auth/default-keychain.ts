import { homedir } from 'node:os';
import { join } from 'node:path';
import { type CredentialSource, Keychain } from './credential.ts';
import { DockerConfigSource } from './docker-config.ts';

/**
 * Where credentials are looked for.
 *
 * @param directory of Docker's config.json, instead of the usual places; or a Secret as Kubernetes mounts it; or the file.
 */
export function defaultKeychain(directory: string | undefined): CredentialSource {
  const usual = process.env.DOCKER_CONFIG ?? join(homedir(), '.docker');
  const files =
    directory === undefined
      ? [join(usual, 'config.json')]
      : [join(directory, 'config.json'), join(directory, '.dockerconfigjson'), directory];
  return new Keychain(files.map((file) => DockerConfigSource.file(file)));
}
