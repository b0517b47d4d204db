import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { RegistryClient } from '../../src/registry/index.ts';
import { testBlob } from '../support/blobs.ts';
import { TestAuthority } from '../support/certificates.ts';
import { bodyOf } from '../support/http.ts';
import { temporaryDirectory, writeFiles } from '../support/programs.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';
import { startTokenServer, type TokenServer } from '../support/tokens.ts';
import { openWorkshop } from '../support/workshop.ts';

const { bytes: content, descriptor, open } = testBlob(randomBytes(100_000));

describe('a registry that wants tokens', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let tokens: TokenServer;
  let registry: TestRegistry;

  const users: Record<string, string> = { alice: 'secret', bob: 'other' };
  before(async () => {
    directory = await temporaryDirectory();
    const authority = await TestAuthority.create(directory.path);
    tokens = await startTokenServer({
      key: await authority.issue('tokens'),
      users,
      // Everybody reads what is public, alice does what she likes, bob reads her things.
      allow: (user, repository, action) =>
        user === 'alice' ||
        user === 'carol' ||
        (action === 'pull' && (repository.startsWith('public/') || user === 'bob')),
    });
    // It trusts the authority whose certificate signed the tokens' key.
    registry = await startRegistry({ tokens: { ...tokens, certificate: authority.certificate } });
  });
  after(async () => {
    await registry[Symbol.asyncDispose]();
    await tokens[Symbol.asyncDispose]();
    await directory[Symbol.asyncDispose]();
  });
  beforeEach(() => {
    tokens.lifetimeSeconds = 300;
    tokens.refuseWith = undefined;
  });

  /** A client that is logged in as these users, by place: a registry or a repository of it. */
  async function clientFor(auths: Readonly<Record<string, object>>): Promise<RegistryClient> {
    const config = await writeFiles(`${directory.path}/${Object.keys(auths).length}-${Math.random()}`, {
      'config.json': JSON.stringify({ auths }),
    });
    return new RegistryClient({ dockerConfigDirectory: config, pullRetries: 1, pushRetries: 1 });
  }

  const alice = { username: 'alice', password: 'secret' };
  const repository = (client: RegistryClient, name: string): ReturnType<RegistryClient['repository']> =>
    client.repository({ registry: registry.host, repository: name });

  test('is asked with one token for many requests, whose scope is no wider than needed', async () => {
    await using client = await clientFor({ [registry.host]: alice });
    const before = tokens.issued.length;
    const push = repository(client, 'public/one');
    await push.uploadBlob(descriptor, open);
    await push.uploadBlob(descriptor, open);
    await bodyOf(await push.openBlob(descriptor));
    assert.deepEqual(tokens.issued.slice(before), [
      'alice repository:public/one:pull,push',
      'alice repository:public/one:pull',
    ]);
  });

  test('gives what is public to somebody without credentials, and says so where they are missing', async () => {
    await using owner = await clientFor({ [registry.host]: alice });
    await repository(owner, 'public/two').uploadBlob(descriptor, open);
    await using client = await clientFor({});
    assert.deepEqual(await bodyOf(await repository(client, 'public/two').openBlob(descriptor)), content);
    await assert.rejects(repository(client, 'public/two').checkPush(), {
      code: 'E_REGISTRY_UNAUTHORIZED',
      message: /public\/two: the registry answered 401 .*asked without credentials/,
    });
  });

  test('is told by whom it is asked when it refuses', async () => {
    await using client = await clientFor({ [registry.host]: { username: 'bob', password: 'other' } });
    await assert.rejects(repository(client, 'private').checkPush(), (error: Error) => {
      assert.match(error.message, /answered 401 \(UNAUTHORIZED: .*\), asked as bob from .*config\.json$/);
      assert.doesNotMatch(error.message, /other/);
      return true;
    });
  });

  test('takes refresh tokens', async () => {
    await using client = await clientFor({ [registry.host]: { identitytoken: 'refresh-alice' } });
    assert.equal(await repository(client, 'refreshed').uploadBlob(descriptor, open), 'uploaded');
    assert.equal(tokens.issued.at(-1), 'alice repository:refreshed:pull,push');
  });

  test('takes a token that the configuration has ready', async () => {
    await using client = await clientFor({ [registry.host]: { registrytoken: 'nonsense' } });
    await assert.rejects(repository(client, 'ready').checkPush(), {
      code: 'E_REGISTRY_UNAUTHORIZED',
      message: /asked with a token from/,
    });
  });

  test('is sent each repository’s own credentials', async () => {
    await using client = await clientFor({
      [registry.host]: { username: 'alice', password: 'wrong' },
      [`${registry.host}/team`]: { username: 'bob', password: 'other' },
      [`${registry.host}/team/app`]: alice,
    });
    assert.equal(await repository(client, 'team/app').uploadBlob(descriptor, open), 'uploaded');
    assert.equal(tokens.issued.at(-1), 'alice repository:team/app:pull,push');
    assert.equal(await repository(client, 'team/other').statBlob(descriptor.digest), undefined);
    assert.equal(tokens.issued.at(-1), 'bob repository:team/other:pull');
    await assert.rejects(repository(client, 'teams').statBlob(descriptor.digest), {
      code: 'E_REGISTRY_UNAUTHORIZED',
      message: /token for .*\/teams from .*: the registry answered 401/,
    });
  });

  test('uploads what it may not mount, when the token server refuses a token for the source', async () => {
    await using owner = await clientFor({ [registry.host]: alice });
    await repository(owner, 'source').uploadBlob(descriptor, open);
    const uploaded = await repository(owner, 'mounted').uploadBlob(descriptor, open, {
      mountFrom: ['source'],
    });
    assert.equal(uploaded, 'mounted');
    await using client = await clientFor({ [registry.host]: alice });
    const target = repository(client, 'refused-mount');
    await target.checkPush();
    tokens.refuseWith = 403;
    const outcome = await target.uploadBlob(descriptor, open, { mountFrom: ['source'] });
    assert.equal(outcome, 'uploaded');
  });

  test('is asked with a new token before the old one expires', async () => {
    await using client = await clientFor({ [registry.host]: alice });
    const target = repository(client, 'expiring');
    tokens.lifetimeSeconds = 6;
    await target.statBlob(descriptor.digest);
    const before = tokens.issued.length;
    await target.statBlob(descriptor.digest);
    assert.equal(tokens.issued.length, before);
    await sleep(5100);
    await target.statBlob(descriptor.digest);
    assert.equal(tokens.issued.length, before + 1);
  });

  test('takes the push of a long build whose credentials changed meanwhile', async () => {
    await using workshop = await openWorkshop();
    const login = (password: string): Promise<string> =>
      writeFiles(`${directory.path}/rotated`, {
        'config.json': JSON.stringify({ auths: { [registry.host]: { username: 'carol', password } } }),
      });
    users.carol = 'first';
    const config = await login('first');
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN touch /asked; sleep 3\n' });
    const cache = `${registry.host}/long/cache`;
    const building = workshop.build(
      context,
      ['--destination', `${registry.host}/long:1`, '--cache', '--cache-repo', cache],
      { env: { DOCKER_CONFIG: config } },
    );
    // The cache is asked before the step runs, with the credentials of then.
    while (!tokens.issued.some((token) => token.startsWith('carol'))) await sleep(20);
    users.carol = 'second';
    await login('second');
    const { code, messages } = await building;
    assert.equal(code, 0, messages);
    await using client = await clientFor({ [registry.host]: alice });
    assert.notEqual(await repository(client, 'long').headManifest('1'), undefined);
  });

  test('whose token server fails is one clear error, and no secret is in it', async () => {
    await using client = await clientFor({ [registry.host]: alice });
    tokens.refuseWith = 503;
    await assert.rejects(repository(client, 'failing').checkPush(), (error: Error) => {
      assert.match(
        error.message,
        /GET the token for .*\/failing from http:.*\/token: the registry answered 503/,
      );
      assert.doesNotMatch(error.message, /secret/);
      return true;
    });
  });
});
