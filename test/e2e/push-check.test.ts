import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { TestAuthority } from '../support/certificates.ts';
import { startFaultProxy } from '../support/faults.ts';
import { type Ended, stepsThat, warningsOf, writeFiles } from '../support/programs.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';
import { startTokenServer, type TokenServer } from '../support/tokens.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

describe('whether the image may be pushed', () => {
  let workshop: Workshop;
  let tokens: TokenServer;
  let registry: TestRegistry;
  let context: string;
  let config: string;
  before(async () => {
    workshop = await openWorkshop();
    const authority = await TestAuthority.create(workshop.directory);
    tokens = await startTokenServer({
      key: await authority.issue('tokens'),
      users: { alice: 'secret' },
      allow: (user, repository, action) =>
        user === 'alice' && (action === 'pull' || !repository.startsWith('closed')),
    });
    registry = await startRegistry({ tokens: { ...tokens, certificate: authority.certificate } });
    config = await writeFiles(join(workshop.directory, 'config'), {
      'config.json': JSON.stringify({
        auths: { [registry.host]: { username: 'alice', password: 'secret' } },
      }),
    });
    context = await workshop.context({ Dockerfile: 'FROM %BASE%\nARG N\nRUN echo "$N" > /ran\n' });
  });
  after(async () => {
    await registry[Symbol.asyncDispose]();
    await tokens[Symbol.asyncDispose]();
    await workshop[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    tokens.lifetimeSeconds = 300;
    await registry.clearLog();
  });

  const build = (...args: string[]): Promise<Ended> =>
    workshop.build(context, ['--build-arg', `N=${workshop.unique('n')}`, ...args], {
      env: { DOCKER_CONFIG: config },
    });
  const written = async (): Promise<string[]> =>
    (await registry.accessLog()).filter((line) => /^(?:PUT|POST|PATCH|DELETE)/.test(line));

  test('is known before any step runs, and a refusal says who asked', async () => {
    const ended = await build('--destination', `${registry.host}/closed/app:1`);
    assert.equal(ended.code, 4, ended.messages);
    assert.deepEqual(stepsThat('ran', ended), []);
    assert.match(
      ended.messages,
      /nothing was built, since it could not be pushed: push to .*\/closed\/app: .*asked as alice from .*\[E_REGISTRY_UNAUTHORIZED\]/,
    );
  });

  test('is found out without a trace in the registry', async () => {
    const repository = workshop.unique('open');
    const ended = await build(
      '--destination',
      `${registry.host}/${repository}:1`,
      '--destination',
      `${registry.host}/${repository}:2`,
    );
    assert.equal(ended.code, 0, ended.messages);
    const given = (await written()).filter((line) =>
      line.startsWith(`DELETE /v2/${repository}/blobs/uploads/`),
    );
    assert.equal(given.filter((line) => line.endsWith(' 204')).length, 1, given.join('\n'));
    assert.ok(existsSync(join(registry.storage, `docker/registry/v2/repositories/${repository}`)));
  });

  test('is not asked with --no-push, nor when that was said', async () => {
    const destination = ['--destination', `${registry.host}/closed/app:1`];
    const built = await build(...destination, '--no-push');
    assert.equal(built.code, 0, built.messages);
    assert.deepEqual(await written(), []);
    const late = await build(...destination, '--skip-push-permission-check');
    assert.equal(late.code, 4);
    assert.equal(stepsThat('ran', late).length, 1);
    assert.doesNotMatch(late.messages, /nothing was built/);
  });

  test('of the layer cache is a warning, and the build goes on', async () => {
    const ended = await build(
      ...['--destination', `${registry.host}/${workshop.unique('app')}:1`, '--cache'],
      ...['--cache-repo', `${registry.host}/closed/cache`],
    );
    assert.equal(ended.code, 0, ended.messages);
    assert.match(
      warningsOf(ended).join('\n'),
      /will not be kept in the layer cache: push to .*\/closed\/cache/,
    );
  });

  test('may be unknown for a fault of the registry, which is no refusal', async () => {
    let faults = 0;
    await using proxy = await startFaultProxy(workshop.registry.host, ({ method, path }) =>
      method === 'POST' && path.endsWith('/uploads/') && faults++ === 0
        ? { kind: 'answer', status: 503 }
        : undefined,
    );
    const ended = await build('--destination', `${proxy.host}/faulty:1`, '--push-retry', '0');
    assert.equal(ended.code, 0, ended.messages);
    assert.match(warningsOf(ended).join('\n'), /may be pushed is not known yet: .*503/);
  });

  test('is asked again with another token when the first has expired meanwhile', async () => {
    tokens.lifetimeSeconds = 1;
    const repository = workshop.unique('expiring');
    const slow = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN sleep 2.5; echo > /x\n' });
    const before = tokens.issued.length;
    const ended = await workshop.build(slow, ['--destination', `${registry.host}/${repository}:1`], {
      env: { DOCKER_CONFIG: config },
    });
    assert.equal(ended.code, 0, ended.messages);
    const asked = tokens.issued.slice(before).filter((token) => token.endsWith(`${repository}:pull,push`));
    assert.ok(asked.length >= 2, asked.join('\n'));
  });
});
