import assert from 'node:assert/strict';
import { chmod } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { defaultKeychain, type KeychainOptions } from '../../src/registry/auth/default-keychain.ts';
import { parseCredentialHelpers } from '../../src/registry/index.ts';
import { temporaryDirectory, writeFiles } from '../support/programs.ts';

let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
before(async () => {
  scratch = await temporaryDirectory();
});
after(() => scratch[Symbol.asyncDispose]());

/** Who we are to a registry, as `kind user:password`, and what was noted. */
async function find(
  registry: string,
  environment: Record<string, string>,
  more: Partial<KeychainOptions> & { repository?: string } = {},
): Promise<string | undefined> {
  const { repository = 'team/app', ...options } = more;
  const keychain = defaultKeychain({
    environment: { HOME: '/nonexistent', ...environment },
    send: () => Promise.reject(new Error('nothing is sent')),
    ...options,
  });
  const found = await keychain.find({ registry, repository });
  if (found === undefined) return undefined;
  return found.kind === 'basic' ? `${found.username}:${found.password}` : `${found.kind} ${found.token}`;
}

const auth = (user: string): { auth: string } => ({ auth: Buffer.from(`${user}:p`).toString('base64') });
const configOf = (user: string, host = 'registry.example'): string =>
  JSON.stringify({ auths: { [host]: auth(user) } });

describe('files', () => {
  test('are looked at in the order of how explicitly they were named', async () => {
    const directory = await writeFiles(`${scratch.path}/order`, {
      'docker/config.json': configOf('docker-config'),
      'auth.json': configOf('auth-file'),
      'home/.docker/config.json': configOf('home'),
      'run/containers/auth.json': configOf('runtime'),
      'home/.config/containers/auth.json': configOf('podman'),
      'config/containers/auth.json': configOf('config-home'),
    });
    const all = {
      DOCKER_AUTH_CONFIG: configOf('environment'),
      DOCKER_CONFIG: `${directory}/docker`,
      REGISTRY_AUTH_FILE: `${directory}/auth.json`,
      HOME: `${directory}/home`,
      XDG_RUNTIME_DIR: `${directory}/run`,
    };
    const order = ['environment', 'docker-config', 'auth-file', 'home', 'runtime', 'podman'];
    const names = ['DOCKER_AUTH_CONFIG', 'DOCKER_CONFIG', 'REGISTRY_AUTH_FILE', 'HOME', 'XDG_RUNTIME_DIR'];
    const environment: Record<string, string> = { ...all };
    for (const user of order.slice(0, 3)) {
      assert.equal(await find('registry.example', environment), `${user}:p`);
      delete environment[names.shift() ?? ''];
    }
    assert.equal(await find('registry.example', environment), 'home:p');
    environment.HOME = '/nonexistent';
    assert.equal(await find('registry.example', environment), 'runtime:p');
    delete environment.XDG_RUNTIME_DIR;
    environment.XDG_CONFIG_HOME = `${directory}/config`;
    assert.equal(await find('registry.example', environment), 'config-home:p');
    await writeFiles(`${directory}/home2`, { '.config/containers/auth.json': configOf('podman') });
    assert.equal(await find('registry.example', { HOME: `${directory}/home2` }), 'podman:p');
    assert.equal(await find('registry.example', all, { directory: `${directory}/home/.docker` }), 'home:p');
  });

  test('that do not know a registry leave it to the next', async () => {
    const directory = await writeFiles(`${scratch.path}/next`, {
      'config.json': configOf('other', 'other.example'),
      'auth.json': configOf('right'),
    });
    const environment = { DOCKER_CONFIG: directory, REGISTRY_AUTH_FILE: `${directory}/auth.json` };
    assert.equal(await find('registry.example', environment), 'right:p');
    assert.equal(await find('nobody.example', environment), undefined);
  });

  test('name places in all the ways that Docker and Podman write them', async () => {
    for (const [key, registry, repository] of [
      ['registry.example', 'registry.example', 'a'],
      ['https://registry.example', 'registry.example', 'a'],
      ['https://registry.example/v2/', 'registry.example', 'a'],
      ['registry.example/team', 'registry.example', 'team/app'],
      ['https://index.docker.io/v1/', 'docker.io', 'library/debian'],
      ['docker.io', 'docker.io', 'library/debian'],
      ['docker.io/library', 'docker.io', 'library/debian'],
      ['registry-1.docker.io', 'docker.io', 'library/debian'],
    ] as const) {
      const environment = { DOCKER_AUTH_CONFIG: configOf('u', key) };
      assert.equal(await find(registry, environment, { repository }), 'u:p', key);
    }
    const environment = { DOCKER_AUTH_CONFIG: configOf('u', 'registry.example/team') };
    assert.equal(await find('registry.example', environment, { repository: 'teams/app' }), undefined);
  });

  test('that are not JSON are an error that quotes nothing of them', async () => {
    for (const environment of [
      { DOCKER_AUTH_CONFIG: '{"auths": secret' },
      { DOCKER_CONFIG: await writeFiles(`${scratch.path}/broken`, { 'config.json': 'secret' }) },
    ])
      await assert.rejects(find('registry.example', environment), (error: Error & { code?: string }) => {
        assert.equal(error.code, 'E_DOCKER_CONFIG');
        assert.doesNotMatch(error.message, /secret/);
        return true;
      });
  });
});

describe('a credential helper', () => {
  /** A configuration that names helpers, and programs on the PATH. */
  async function withHelpers(
    config: object,
    programs: Record<string, string>,
    registry = 'registry.example',
  ): Promise<string | undefined> {
    const directory = await writeFiles(`${scratch.path}/helpers-${Math.random()}`, programs);
    for (const name of Object.keys(programs)) await chmod(`${directory}/${name}`, 0o755);
    const path = process.env.PATH;
    process.env.PATH = `${directory}:${path ?? ''}`;
    try {
      return await find(registry, { DOCKER_AUTH_CONFIG: JSON.stringify(config) });
    } finally {
      process.env.PATH = path;
    }
  }

  const answering = (secret: object): string =>
    `#!/bin/sh\n[ "$1" = get ] || exit 1\nread host\necho '${JSON.stringify(secret)}' | sed "s|HOST|$host|"\n`;

  test('is asked for its registry, and the store for all others', async () => {
    const programs = {
      'docker-credential-one': answering({ Username: 'one', Secret: 'HOST' }),
      'docker-credential-store': answering({ Username: '<token>', Secret: 'HOST' }),
    };
    const config = { credHelpers: { 'registry.example': 'one' }, credsStore: 'store' };
    assert.equal(await withHelpers(config, programs), 'one:registry.example');
    assert.equal(await withHelpers(config, programs, 'other.example'), 'identity other.example');
    assert.equal(await withHelpers(config, programs, 'docker.io'), 'identity https://index.docker.io/v1/');
  });

  test('that knows nobody is no error, and one that fails is, without what it said', async () => {
    const config = { credsStore: 'store' };
    const none = '#!/bin/sh\ncat >/dev/null\necho "credentials not found in native keychain"; exit 1\n';
    assert.equal(await withHelpers(config, { 'docker-credential-store': none }), undefined);
    for (const script of ['echo secret; exit 3', 'echo "{secret"'])
      await assert.rejects(
        withHelpers(config, { 'docker-credential-store': `#!/bin/sh\ncat >/dev/null\n${script}\n` }),
        (error: Error & { code?: string }) => {
          assert.equal(error.code, 'E_CREDENTIAL_HELPER');
          assert.doesNotMatch(error.message, /secret/);
          return true;
        },
      );
  });

  test('that is not installed is an error, unless Kiln does without it', async () => {
    await assert.rejects(withHelpers({ credsStore: 'nowhere' }, {}), {
      code: 'E_CREDENTIAL_HELPER',
      message: /docker-credential-nowhere failed: it is not installed/,
    });
    // As the configurations for kaniko have it; for a registry that is not Amazon's.
    assert.equal(await withHelpers({ credsStore: 'ecr-login' }, {}), undefined);
    assert.equal(await withHelpers({ credHelpers: { 'registry.example': 'gcr' } }, {}), undefined);
  });
});

describe('the environment', () => {
  test('has variables named after registries', async () => {
    const environment = {
      KANIKO_REGISTRY_EXAMPLE_COM_USER: 'exact',
      KANIKO_REGISTRY_EXAMPLE_COM_PASSWORD: 'p',
      KILN_EXAMPLE_COM_USER: 'domain',
      KILN_EXAMPLE_COM_PASSWORD: 'p',
      KANIKO_EXAMPLE_COM_USER: 'shadowed',
      KANIKO_EXAMPLE_COM_PASSWORD: 'p',
      KILN_MY_REGISTRY_5000_USER: 'port',
      KILN_MY_REGISTRY_5000_PASSWORD: 'p',
      KILN_INDEX_DOCKER_IO_USER: 'hub',
      KILN_INDEX_DOCKER_IO_PASSWORD: 'p',
      KILN_HALF_EXAMPLE_USER: 'half',
    };
    assert.equal(await find('registry.example.com', environment), 'exact:p');
    assert.equal(await find('other.example.com', environment), 'domain:p');
    assert.equal(await find('my-registry:5000', environment), 'port:p');
    assert.equal(await find('docker.io', environment), 'hub:p');
    assert.equal(await find('half.example', environment), undefined);
  });

  test('of GitLab CI logs in to its registry and dependency proxy', async () => {
    const environment = {
      CI_REGISTRY: 'registry.gitlab.example:443',
      CI_REGISTRY_USER: 'gitlab-ci-token',
      CI_REGISTRY_PASSWORD: 'job',
      CI_DEPENDENCY_PROXY_SERVER: 'gitlab.example:443',
      CI_DEPENDENCY_PROXY_USER: 'proxy',
      CI_DEPENDENCY_PROXY_PASSWORD: 'p',
    };
    assert.equal(await find('registry.gitlab.example', environment), 'gitlab-ci-token:job');
    assert.equal(await find('gitlab.example', environment), 'proxy:p');
    assert.equal(await find('other.example', environment), undefined);
    const token = { CI_REGISTRY: 'registry.gitlab.example', CI_JOB_TOKEN: 'token' };
    assert.equal(await find('registry.gitlab.example', token), 'gitlab-ci-token:token');
  });

  test('of GitHub Actions logs in to its registry', async () => {
    const environment = { GITHUB_TOKEN: 'token', GITHUB_ACTOR: 'octocat' };
    assert.equal(await find('ghcr.io', environment), 'octocat:token');
    assert.equal(await find('docker.io', environment), undefined);
  });

  test('is used after files, and not where that was said', async () => {
    const environment = { GITHUB_TOKEN: 'token', DOCKER_AUTH_CONFIG: configOf('file', 'ghcr.io') };
    assert.equal(await find('ghcr.io', environment), 'file:p');
    const without = { helpers: parseCredentialHelpers(['']) };
    assert.equal(await find('ghcr.io', { GITHUB_TOKEN: 'token' }, without), undefined);
    const other = { helpers: parseCredentialHelpers(['env', 'gitlab']) };
    assert.equal(await find('ghcr.io', { GITHUB_TOKEN: 'token' }, other), undefined);
    assert.throws(() => parseCredentialHelpers(['ecr', 'nobody']), { code: 'E_USAGE', message: /nobody/ });
  });
});
