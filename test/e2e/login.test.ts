import assert from 'node:assert/strict';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { RegistryClient } from '../../src/registry/index.ts';
import { TestAuthority } from '../support/certificates.ts';
import { type Ended, kiln, temporaryDirectory } from '../support/programs.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';
import { startTokenServer, type TokenServer } from '../support/tokens.ts';

describe('executor login', () => {
  let directory: AsyncDisposable & { readonly path: string };
  let basic: TestRegistry;
  let open: TestRegistry;
  let tokens: TokenServer;
  let bearer: TestRegistry;
  before(async () => {
    directory = await temporaryDirectory();
    const authority = await TestAuthority.create(directory.path);
    tokens = await startTokenServer({
      key: await authority.issue('tokens'),
      users: { alice: 'secret' },
      allow: (user) => user === 'alice',
    });
    [basic, open, bearer] = await Promise.all([
      startRegistry({ user: 'alice', password: 'secret' }),
      startRegistry(),
      startRegistry({ tokens: { ...tokens, certificate: authority.certificate } }),
    ]);
  });
  after(async () => {
    for (const resource of [basic, open, bearer, tokens, directory]) await resource[Symbol.asyncDispose]();
  });

  let rooms = 0;
  /** A directory for a configuration of its own, and what runs the program with it. */
  function room(config?: object): {
    path: string;
    file: string;
    run: (args: string[], input?: string) => Promise<Ended>;
  } {
    const path = join(directory.path, `room-${++rooms}`, 'docker');
    const file = join(path, 'config.json');
    if (config !== undefined) {
      mkdirSync(path, { recursive: true });
      writeFileSync(file, JSON.stringify(config));
    }
    const env = { DOCKER_CONFIG: path, PATH: `${directory.path}:${process.env.PATH ?? ''}` };
    return { path, file, run: (args, input = 'secret\n') => kiln('executor', args, { env, input }) };
  }
  const read = (file: string): Record<string, unknown> =>
    JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;

  test('keeps what the registry took, for nobody else to read, and what is used afterwards', async () => {
    for (const registry of [basic, bearer]) {
      const { path, file, run } = room();
      const ended = await run(['login', registry.host, '-u', 'alice', '--password-stdin']);
      assert.equal(ended.code, 0, ended.messages);
      assert.match(ended.stderr, /logged in to .* as alice; kept in .*config\.json/);
      assert.doesNotMatch(ended.stderr, /secret/);
      assert.equal(statSync(file).mode & 0o777, 0o600);
      assert.deepEqual(readdirSync(path), ['config.json'], 'nothing is left beside it');
      await using client = new RegistryClient({ dockerConfigDirectory: path });
      await client.repository({ registry: registry.host, repository: 'x' }).checkPush();

      const out = await run(['logout', registry.host]);
      assert.equal(out.code, 0);
      assert.deepEqual(read(file).auths, {});
      assert.match((await run(['logout', registry.host])).stderr, /has no login to/);
    }
  });

  test('keeps nothing that the registry does not take', async () => {
    for (const registry of [basic, bearer]) {
      const { file, run } = room();
      const ended = await run(['login', registry.host, '-u', 'alice', '--password-stdin'], 'wrong\n');
      assert.equal(ended.code, 4, ended.messages);
      assert.match(ended.messages, /\[E_REGISTRY_UNAUTHORIZED\]/);
      assert.doesNotMatch(ended.messages, /wrong/);
      assert.equal(existsSync(file), false);
    }
  });

  test('leaves the rest of the file as it is, also behind a link, and is for a path alone when it has one', async () => {
    const { file, run } = room();
    const real = join(directory.path, 'real.json');
    writeFileSync(
      real,
      JSON.stringify({ auths: { 'other.example': { auth: 'b3RoZXI6eA==' } }, proxies: { a: 1 } }),
    );
    mkdirSync(join(file, '..'), { recursive: true });
    symlinkSync(real, file);
    const place = `${basic.host}/team`;
    const ended = await run(['login', place, '-u', 'alice', '-p', 'secret']);
    assert.equal(ended.code, 0, ended.messages);
    assert.match(ended.stderr, /use --password-stdin/);
    const auth = Buffer.from('alice:secret').toString('base64');
    assert.deepEqual(read(real), {
      auths: { 'other.example': { auth: 'b3RoZXI6eA==' }, [place]: { auth } },
      proxies: { a: 1 },
    });
  });

  test('gives the login to the credential helper that is there for the registry', async () => {
    const helper = join(directory.path, 'docker-credential-keeper');
    const log = join(directory.path, 'helper.log');
    writeFileSync(helper, `#!/bin/sh\n{ echo "$1"; cat; echo; } >> ${log}\n`);
    chmodSync(helper, 0o755);
    const { file, run } = room({ credHelpers: { [basic.host]: 'keeper' } });
    assert.equal((await run(['login', basic.host, '-u', 'alice', '--password-stdin'])).code, 0);
    assert.equal((await run(['logout', basic.host])).code, 0);
    const [store, login, erase, host] = readFileSync(log, 'utf8').split('\n');
    assert.deepEqual([store, erase, host], ['store', 'erase', basic.host]);
    assert.deepEqual(JSON.parse(login ?? ''), { ServerURL: basic.host, Username: 'alice', Secret: 'secret' });
    assert.doesNotMatch(readFileSync(file, 'utf8'), /secret|YWxpY2U6c2VjcmV0/);
    const missing = room({ credsStore: 'nobody-has-it' });
    const ended = await missing.run(['login', basic.host, '-u', 'alice', '--password-stdin']);
    assert.equal(ended.code, 3);
    assert.match(ended.messages, /\[E_CREDENTIAL_HELPER\]/);
  });

  test('says when nothing could be tried, and what is missing', async () => {
    const { run, file } = room();
    const ended = await run(['login', open.host, '-u', 'alice', '--password-stdin']);
    assert.equal(ended.code, 0, ended.messages);
    assert.match(ended.stderr, /asks for no login/);
    assert.ok(existsSync(file));
    for (const [args, why] of [
      [['-u', 'alice'], /there is no password/],
      [['--password-stdin'], /there is no user name/],
      [['-u', 'alice', '-p', 'x', '--password-stdin'], /both --password and --password-stdin/],
    ] as const) {
      const wrong = await run(['login', basic.host, ...args]);
      assert.equal(wrong.code, 2, wrong.messages);
      assert.match(wrong.messages, why);
    }
    assert.equal((await run(['login', 'UPPER CASE', '-u', 'a', '--password-stdin'])).code, 2);
  });

  test('breaks no file that it cannot read or write', async () => {
    const damaged = room();
    mkdirSync(damaged.path, { recursive: true });
    writeFileSync(damaged.file, '{ "auths": ');
    const ended = await damaged.run(['login', basic.host, '-u', 'alice', '--password-stdin']);
    assert.equal(ended.code, 3);
    assert.match(ended.messages, /\[E_DOCKER_CONFIG\]/);
    assert.equal(readFileSync(damaged.file, 'utf8'), '{ "auths": ');
  });
});
