import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { GitFlags } from '../../executor/context/kinds/index.ts';
import { TestAuthority } from '../support/certificates.ts';
import { fetchHere } from '../support/contexts.ts';
import { type GitServer, startGitServer, TestRepository } from '../support/git-server.ts';
import { accepts, bodyOf, listen, serve } from '../support/http.ts';
import { kiln, temporaryDirectory } from '../support/programs.ts';
import { freePort } from '../support/registry.ts';
import { startSshServer } from '../support/ssh-server.ts';
import { listTree } from '../support/trees.ts';

/*
 * Contexts that are git repositories, by git's own servers: http-backend, daemon, and sshd.
 */

let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
let served = '';
let server: GitServer;
let repository: TestRepository;
let first = '';
let pulled = '';
before(async () => {
  scratch = await temporaryDirectory();
  served = join(scratch.path, 'served');
  mkdirSync(served);
  server = await startGitServer(served);
  repository = new TestRepository(served, 'app');
  first = repository.commit({ Dockerfile: 'FROM scratch\nCOPY . /\n', one: '1' });
  repository.git('tag', '-a', 'v1', '-m', 'first');
  repository.commit({ 'service/two': '2' });
  repository.git('checkout', '--quiet', '-b', 'side');
  repository.commit({ three: '3' });
  repository.git('checkout', '--quiet', '--detach');
  pulled = repository.commit({ four: '4' });
  repository.git('update-ref', 'refs/pull/7/head', pulled);
  repository.git('checkout', '--quiet', 'main');
});
after(async () => {
  await server[Symbol.asyncDispose]();
  await scratch[Symbol.asyncDispose]();
});

const plain = { GIT_PULL_METHOD: 'http' };

/** The files of a context, by kaniko's form of its address. */
async function files(address: string, git: GitFlags = {}, environment = {}): Promise<string[]> {
  await using context = await fetchHere(address, { git, environment: { ...plain, ...environment } });
  return listTree(context.directory, '%P').filter((path) => !path.startsWith('.git'));
}

const main = ['Dockerfile', 'one', 'service', 'service/two'];

describe('a context of a repository', () => {
  test('has what a branch, tag, commit, pull request or directory of it has', async () => {
    const address = `git://${server.host}/app.git`;
    assert.deepEqual(await files(address), main);
    assert.deepEqual(
      await files(`${address}#refs/heads/side`),
      [...main.slice(0, 3), 'service/two', 'three'].sort(),
    );
    assert.deepEqual(await files(`${address}#refs/tags/v1`), ['Dockerfile', 'one']);
    assert.deepEqual(await files(`${address}#${first}`), ['Dockerfile', 'one']);
    assert.deepEqual(await files(`${address}#refs/heads/main#${first}`), ['Dockerfile', 'one']);
    assert.ok((await files(`${address}#refs/pull/7/head`)).includes('four'));
    assert.ok((await files(`${address}#refs/pull/7/head#${pulled}`)).includes('four'));
    assert.deepEqual(await files(`${address}#main:service`), ['two']);
    assert.ok((await files(address, { branch: 'side' })).includes('three'));
    assert.deepEqual(await files(address, { branch: 'v1' }), ['Dockerfile', 'one']);
    assert.deepEqual(await files(`http://${server.host}/app.git?subdir=service`), ['two']);
    await assert.rejects(files(`${address}#nowhere`), { code: 'E_GIT_REF_NOT_FOUND' });
    await assert.rejects(files(`${address}#main:nowhere`), { code: 'E_GIT_DIRECTORY' });
    await assert.rejects(files(`git://${server.host}/nothing.git`), { code: 'E_GIT_FAILED' });
  });

  test('has so much of the history as is wanted, and its .git only if that is wanted', async () => {
    const commits = async (git: GitFlags): Promise<string> => {
      await using context = await fetchHere(`git://${server.host}/app.git`, { git, environment: plain });
      if (!existsSync(join(context.directory, '.git'))) return 'none';
      return execFileSync('git', ['-C', context.directory, 'log', '--format=%s %D'], { encoding: 'utf8' });
    };
    assert.equal(await commits({}), 'none');
    assert.equal((await commits({ keepGitDir: true })).trim().split('\n').length, 1);
    assert.match(await commits({ keepGitDir: true, depth: 0 }), /main.*\n.*tag: v1/);
  });

  test('has its submodules, if they are wanted', async () => {
    const parent = new TestRepository(served, 'parent');
    parent.git('-c', 'protocol.file.allow=always', 'submodule', 'add', '--quiet', '../app.git', 'sub');
    parent.git('config', '-f', '.gitmodules', 'submodule.sub.url', server.url('app'));
    parent.commit({ file: '' });
    const address = `git://${server.host}/parent.git`;
    assert.deepEqual(await files(address), ['file', 'sub']);
    assert.ok((await files(address, { recurseSubmodules: true })).includes('sub/one'));
    assert.ok((await files(`http://${server.host}/parent.git`)).includes('sub/one'));
  });

  test('is read with the credentials of the environment, which are nowhere afterwards', async () => {
    await using locked = await startGitServer(served, 'secret-token:');
    const address = `git://${locked.host}/app.git`;
    const git = { keepGitDir: true };
    await using context = await fetchHere(address, {
      git,
      environment: { ...plain, GIT_TOKEN: 'secret-token' },
    });
    assert.throws(() => execFileSync('grep', ['-r', 'secret-token', context.directory]), { status: 1 });
    assert.doesNotMatch(context.messages.join(), /secret-token/);
    await using byPassword = await startGitServer(served, 'someone:p@ss');
    const login = { GIT_USERNAME: 'someone', GIT_PASSWORD: 'p@ss' };
    assert.deepEqual(await files(`git://${byPassword.host}/app.git`, {}, login), main);
    for (const environment of [{ GIT_TOKEN: 'expired-token' }, {}] as const)
      await assert.rejects(files(address, {}, environment), (error: Error & { code: string }) => {
        assert.equal(error.code, 'E_GIT_FAILED');
        assert.match(error.message, /answered 401|could not read Username/);
        assert.doesNotMatch(error.message, /expired-token/);
        return true;
      });
  });

  test('that has moved is followed, but credentials stay with their server', async () => {
    await using moved = await serve((request, response) => {
      response.writeHead(302, { location: `http://${server.host}${request.url ?? ''}` }).end();
    });
    const before = server.requests.length;
    assert.deepEqual(await files(`git://${moved.host}/app.git`, {}, { GIT_TOKEN: 'secret-token' }), main);
    const asked = server.requests.slice(before);
    assert.ok(asked.some(({ method }) => method === 'POST'));
    assert.deepEqual(
      asked.filter(({ headers }) => headers.authorization !== undefined),
      [],
    );
    // As GitLab does, whose repositories all end in .git.
    await using locked = await startGitServer(served, 'secret-token:');
    await using renamed = await serve((request, response) => {
      const url = request.url ?? '';
      if (!url.startsWith('/app/')) return locked.forward(request, response);
      response.writeHead(301, { location: url.replace('/app/', '/app.git/') }).end();
    });
    assert.deepEqual(await files(`git://${renamed.host}/app`, {}, { GIT_TOKEN: 'secret-token' }), main);
  });

  test('is read by HTTPS whose certificate is trusted, or need not be', async () => {
    const authority = await TestAuthority.create(scratch.path);
    const pair = await authority.issue('server');
    const options = { key: readFileSync(pair.key), cert: readFileSync(pair.certificate) };
    await using locked = await startGitServer(served, 'secret-token:');
    await using secure = await listen(createServer(options, locked.forward));
    const address = `git://${secure.host}/app.git`;
    for (const environment of [{ GIT_TOKEN: 'secret-token' }, {}] as const)
      await assert.rejects(fetchHere(address, { environment, pullRetries: 0 }), /certificate/);
    const environment = { GIT_TOKEN: 'secret-token' };
    const registries = new Map([[secure.host, { certificate: authority.certificate }]]);
    for (const more of [{ registries }, { git: { insecureSkipTls: true } }]) {
      await using context = await fetchHere(address, { environment, ...more });
      assert.ok(existsSync(join(context.directory, 'one')));
    }
  });

  test("is read by git's own protocol", async () => {
    const port = await freePort();
    const options = [
      '--reuseaddr',
      '--export-all',
      `--base-path=${served}`,
      '--listen=127.0.0.1',
      `--port=${port}`,
    ];
    const config = { GIT_CONFIG_COUNT: '1', GIT_CONFIG_KEY_0: 'safe.directory', GIT_CONFIG_VALUE_0: '*' };
    const daemon = spawn('git', ['daemon', ...options], {
      stdio: 'ignore',
      env: { ...process.env, ...config },
      detached: true,
    });
    const ended = new Promise((resolve) => daemon.once('exit', resolve));
    try {
      while (!(await accepts(port))) await new Promise((resolve) => setTimeout(resolve, 20));
      assert.deepEqual(await files(`git://127.0.0.1:${port}/app.git`, {}, { GIT_PULL_METHOD: 'git' }), main);
    } finally {
      process.kill(-(daemon.pid ?? 0), 'SIGKILL');
      await ended;
    }
  });

  test('is read by ssh from a server whose key is known, and from no other', async () => {
    await using ssh = await startSshServer(join(scratch.path, 'ssh'));
    const write = (name: string, text: string): string => {
      writeFileSync(join(scratch.path, name), text);
      return join(scratch.path, name);
    };
    const address = `ssh://root@127.0.0.1:${ssh.port}${served}/app.git`;
    const sshKnownHosts = write('known hosts', ssh.knownHost);
    const git = { sshKey: ssh.key, sshKnownHosts };
    assert.deepEqual(await files(address, git), main);
    const remedyOf = async (flags: GitFlags): Promise<string> => {
      try {
        await files(address, flags);
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'E_GIT_FAILED');
        return (error as { remedy: string }).remedy;
      }
      return 'nothing is wrong';
    };
    assert.match(
      await remedyOf({ ...git, sshKnownHosts: write('empty', '') }),
      /is not known: .*ssh-keyscan/,
    );
    const other = ssh.knownHost.replace(
      / [^ ]+\n$/,
      ` ${readFileSync(`${ssh.key}.pub`, 'utf8').split(' ')[1] ?? ''}\n`,
    );
    assert.match(
      await remedyOf({ ...git, sshKnownHosts: write('other', other) }),
      /another machine may answer/,
    );
    const stranger = join(scratch.path, 'stranger');
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', stranger]);
    assert.match(await remedyOf({ ...git, sshKey: stranger }), /a key that the server knows/);
    chmodSync(ssh.key, 0o644);
    assert.match(await remedyOf(git), /mode 0600/);
  });

  test('has its large files, where there is git-lfs', async () => {
    const large = 'large '.repeat(1000);
    const oid = createHash('sha256').update(large).digest('hex');
    await using store = await serve((request, response) => {
      void bodyOf(request).then(() => {
        if (request.method === 'GET') return response.end(large);
        response.writeHead(200, { 'content-type': 'application/vnd.git-lfs+json' });
        const actions = { download: { href: `http://${store.host}/object` } };
        return response.end(JSON.stringify({ objects: [{ oid, size: large.length, actions }] }));
      });
    });
    const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${oid}\nsize ${large.length}\n`;
    new TestRepository(served, 'large').commit({
      '.gitattributes': '*.bin filter=lfs diff=lfs merge=lfs -text\n',
      '.lfsconfig': `[lfs]\n\turl = http://${store.host}/lfs\n`,
      'large.bin': pointer,
    });
    await using context = await fetchHere(`git://${server.host}/large.git`, { environment: plain });
    assert.equal(readFileSync(join(context.directory, 'large.bin'), 'utf8'), large);
  });

  test('is built, and a token appears neither in what is said nor in the image', async () => {
    await using locked = await startGitServer(served, 'secret-token:');
    const layout = join(scratch.path, 'image');
    const volume = join(scratch.path, 'volume');
    const args = [
      '--context',
      `git://${locked.host}/app.git`,
      '--git',
      'keep-git-dir=true',
      '--cache-dir',
      volume,
    ];
    const env = { ...plain, GIT_TOKEN: 'secret-token' };
    const built = await kiln('executor', [...args, '--oci-layout-path', layout, '--log-format', 'json'], {
      env,
    });
    assert.equal(built.code, 0, built.stderr);
    assert.doesNotMatch(built.stderr + built.stdout, /secret-token/);
    assert.throws(() => execFileSync('grep', ['-r', 'secret-token', layout, volume]), { status: 1 });
    assert.deepEqual(readdirSync(join(volume, 'ingest')), []);
  });
});
