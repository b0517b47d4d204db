import type { Credential, CredentialSource, CredentialTarget } from '../credential.ts';
import type { ProcessEnvironment } from '../../../support/index.ts';

/**
 * User and password from variables named after the registry, as kaniko's fork reads them: for `registry.example.com`
 * `KILN_REGISTRY_EXAMPLE_COM_USER` and `…_PASSWORD`, or those of `EXAMPLE_COM` or `COM`; also with `KANIKO_` before it.
 */
export function environmentSource(environment: ProcessEnvironment): CredentialSource {
  return source(({ registry }) => {
    const host = registry === 'docker.io' ? 'index.docker.io' : registry;
    const parts = host.toUpperCase().replace(/[-:]/g, '_').split('.');
    for (let from = 0; from < parts.length; from++)
      for (const prefix of ['KILN', 'KANIKO']) {
        const name = `${prefix}_${parts.slice(from).join('_')}`;
        const found = basic(environment[`${name}_USER`], environment[`${name}_PASSWORD`], `${name}_PASSWORD`);
        if (found !== undefined) return found;
      }
    return undefined;
  });
}

/** A job of GitLab CI: the project's registry, and the group's dependency proxy. */
export function gitlabSource(environment: ProcessEnvironment): CredentialSource {
  const { CI_REGISTRY, CI_REGISTRY_USER, CI_REGISTRY_PASSWORD, CI_JOB_TOKEN } = environment;
  const { CI_DEPENDENCY_PROXY_SERVER, CI_DEPENDENCY_PROXY_USER, CI_DEPENDENCY_PROXY_PASSWORD } = environment;
  return source(({ registry }) => {
    const is = (name: string | undefined): boolean => name?.replace(/:443$/, '') === registry;
    if (is(CI_REGISTRY))
      return (
        basic(CI_REGISTRY_USER, CI_REGISTRY_PASSWORD, 'CI_REGISTRY_PASSWORD') ??
        basic('gitlab-ci-token', CI_JOB_TOKEN, 'CI_JOB_TOKEN')
      );
    return is(CI_DEPENDENCY_PROXY_SERVER)
      ? basic(CI_DEPENDENCY_PROXY_USER, CI_DEPENDENCY_PROXY_PASSWORD, 'CI_DEPENDENCY_PROXY_PASSWORD')
      : undefined;
  });
}

/** A workflow of GitHub Actions that passes its token on. */
export function githubSource(environment: ProcessEnvironment): CredentialSource {
  const { GITHUB_ACTOR, GITHUB_TOKEN } = environment;
  return source(({ registry }) =>
    registry === 'ghcr.io' ? basic(GITHUB_ACTOR ?? 'unset', GITHUB_TOKEN, 'GITHUB_TOKEN') : undefined,
  );
}

function source(find: (target: CredentialTarget) => Credential | undefined): CredentialSource {
  return { find: (target) => Promise.resolve(find(target)) };
}

function basic(
  username: string | undefined,
  password: string | undefined,
  variable: string,
): Credential | undefined {
  if (username === undefined || username === '' || password === undefined || password === '')
    return undefined;
  return { kind: 'basic', username, password, source: `$${variable}` };
}
