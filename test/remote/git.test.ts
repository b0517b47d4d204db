import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type GitServer, startGitServer, TestRepository } from '../support/git-server.ts';
import { type LocalBuild, type LocalBuilds, openLocalBuilds } from '../support/local-builds.ts';
import { stepsThat } from '../support/programs.ts';

/*
 * ADD of git repositories, in builds, against git's own server over HTTP on this machine.
 */

let builds: LocalBuilds;
let served = '';
let server: GitServer;
before(async () => {
  builds = await openLocalBuilds();
  served = join(builds.directory, 'served');
  mkdirSync(served);
  server = await startGitServer(served);
});
after(async () => {
  await server[Symbol.asyncDispose]();
  await builds[Symbol.asyncDispose]();
});

async function succeed(
  dockerfile: string,
  options?: Parameters<LocalBuilds['build']>[1],
): Promise<LocalBuild> {
  const built = await builds.build(dockerfile, options);
  assert.equal(built.code, 0, built.stderr);
  return built;
}

const add = (source: string, flags = ''): Promise<LocalBuild> =>
  builds.build(`FROM scratch\nADD ${flags} ${source} /to/\n`);
/** What an ADD makes below its destination. */
async function added(source: string, flags = '', format = '%P'): Promise<string[]> {
  const built = await succeed(`FROM scratch\nADD ${flags} ${source} /to/\n`);
  return built
    .tree(format)
    .filter((line) => line.startsWith('to/'))
    .map((line) => line.slice('to/'.length));
}

describe('ADD of a git repository', () => {
  test('has what a branch, a tag or a commit holds, without its history', async () => {
    const repository = new TestRepository(served, 'refs');
    const first = repository.commit({ one: '1' });
    repository.git('tag', '-a', 'v1', '-m', 'first');
    repository.git('branch', 'release/1.0');
    repository.commit({ two: '2' });
    repository.git('checkout', '--quiet', '-b', 'side');
    repository.commit({ three: '3' });
    repository.git('checkout', '--quiet', 'main');
    const url = server.url('refs');
    assert.deepEqual(await added(url), ['one', 'two']);
    assert.deepEqual(await added(`${url}#side`), ['one', 'three', 'two']);
    assert.deepEqual(await added(`${url}#release/1.0`), ['one']);
    assert.deepEqual(await added(`${url}?tag=v1`), ['one']);
    assert.deepEqual(await added(`${url}#${first}`), ['one']);
    assert.deepEqual(await added(`${url}#refs/heads/side`), ['one', 'three', 'two']);
    const missing = await add(`${url}#nowhere`);
    assert.equal(missing.code, 1);
    assert.match(missing.messages, /Dockerfile:2: .*no branch or tag nowhere \[E_GIT_REF_NOT_FOUND\]/);
  });

  test('has files of root with the modes 644 and 755, and links', async () => {
    const repository = new TestRepository(served, 'modes');
    writeFileSync(join(repository.directory, 'program'), '', { mode: 0o700 });
    symlinkSync('program', join(repository.directory, 'link'));
    repository.commit({ 'dir/file': '' });
    assert.deepEqual(await added(server.url('modes'), '', '%P %y %m %U:%G'), [
      'dir d 755 0:0',
      'dir/file f 644 0:0',
      'link l 777 0:0',
      'program f 755 0:0',
    ]);
    assert.deepEqual(
      await added(server.url('modes'), '--chown=7:8 --chmod=u=rwX,go= --exclude=li*', '%P %m %U:%G'),
      ['dir 700 7:8', 'dir/file 600 7:8', 'program 700 7:8'],
    );
  });

  test('may be a directory of it, to which no link leads', async () => {
    const repository = new TestRepository(served, 'directories');
    symlinkSync('docs', join(repository.directory, 'link'));
    repository.commit({ 'docs/a/page': '', 'docs/index': '', other: '' });
    const url = server.url('directories');
    assert.deepEqual(await added(`${url}#main:docs`), ['a', 'a/page', 'index']);
    assert.deepEqual(await added(`${url}?subdir=docs/a`, '--keep-git-dir'), ['page']);
    for (const directory of ['nowhere', 'other', 'link', '../..'])
      assert.match((await add(`${url}#:${directory}`)).messages, /E_GIT_DIRECTORY/, directory);
  });

  test('is a hit while its ref names the same commit, and a miss when it moves', async () => {
    const repository = new TestRepository(served, 'moving');
    repository.commit({ file: 'one' });
    const dockerfile = `FROM scratch\nADD ${server.url('moving')} /moving/\n`;
    assert.equal(stepsThat('ran', await succeed(dockerfile)).length, 1);
    const before = server.requests.length;
    assert.equal(stepsThat('cached', await succeed(dockerfile)).length, 1);
    const asked = server.requests.slice(before).filter(({ method }) => method === 'POST');
    assert.ok(asked.length <= 2, 'only refs are listed');
    repository.commit({ file: 'two' });
    const moved = await succeed(dockerfile);
    assert.equal(readFileSync(join(moved.root(), 'moving/file'), 'utf8'), 'two');
    // A tag of the commit is the same content.
    repository.git('tag', 'now');
    const tagged = await succeed(`FROM scratch\nADD ${server.url('moving')}#now /moving/\n`);
    assert.equal(stepsThat('cached', tagged).length, 1);
  });

  test('with --checksum is that commit, or fails', async () => {
    const repository = new TestRepository(served, 'checked');
    const commit = repository.commit({ file: '' });
    repository.git('tag', '-a', 'v1', '-m', 'tag');
    const url = server.url('checked');
    assert.deepEqual(await added(url, `--checksum=${commit}`), ['file']);
    assert.deepEqual(await added(`${url}#v1`, `--checksum=${commit.slice(0, 8)}`), ['file']);
    assert.deepEqual(await added(`${url}?checksum=${commit}&fetch-by-commit`), ['file']);
    const wrong = await add(url, '--checksum=0123456');
    assert.equal(wrong.code, 1);
    assert.match(wrong.messages, new RegExp(`${commit}.*not 0123456.*E_ADD_CHECKSUM`));
  });

  test('is fetched by its commit also from a server that gives only what refs name', async () => {
    const repository = new TestRepository(served, 'strict');
    const old = repository.commit({ one: '1' });
    repository.commit({ two: '2' });
    repository.git('config', 'uploadpack.allowReachableSHA1InWant', 'false');
    assert.deepEqual(await added(`${server.url('strict')}#${old}`), ['one']);
  });

  test('keeps its .git when that is asked for, and knows where it is from', async () => {
    const repository = new TestRepository(served, 'kept');
    const commit = repository.commit({ file: '' });
    const url = server.url('kept').replace('//', '//me:geheim@');
    const built = await succeed(`FROM scratch\nADD --keep-git-dir=true ${url} /to/\n`);
    const root = join(built.root(), 'to');
    const git = (...args: string[]): string =>
      execFileSync('git', ['-c', 'safe.directory=*', '-C', root, ...args], { encoding: 'utf8' }).trim();
    assert.deepEqual(
      [git('rev-parse', 'HEAD'), git('branch', '--show-current'), git('status', '--porcelain')],
      [commit, 'main', ''],
    );
    assert.equal(git('remote', 'get-url', 'origin'), server.url('kept'));
    assert.equal(execFileSync('sh', ['-c', `grep -rl geheim ${root} || true`], { encoding: 'utf8' }), '');
    assert.ok(!existsSync(join(root, '.git/hooks')));
  });

  test('has its submodules, unless they are not wanted', async () => {
    new TestRepository(served, 'part').commit({ inside: '' });
    const repository = new TestRepository(served, 'whole');
    repository.commit({ file: '' });
    repository.git(
      '-c',
      'protocol.file.allow=always',
      'submodule',
      'add',
      '--quiet',
      '../part.git',
      'sub/part',
    );
    repository.git('config', '-f', '.gitmodules', 'submodule.sub/part.url', '../part.git');
    repository.commit({});
    const url = server.url('whole');
    assert.deepEqual(await added(url), ['.gitmodules', 'file', 'sub', 'sub/part', 'sub/part/inside']);
    assert.deepEqual(await added(`${url}?submodules=0`), ['.gitmodules', 'file', 'sub', 'sub/part']);
  });

  test('takes nothing from the machine, whatever its submodules or attributes say', async () => {
    new TestRepository(served, 'local').commit({ secret: '' });
    const repository = new TestRepository(served, 'sneaky');
    repository.commit({
      '.gitattributes': '* filter=evil\n',
      file: 'plain\n',
    });
    repository.git(
      '-c',
      'protocol.file.allow=always',
      'submodule',
      'add',
      '--quiet',
      '../local.git',
      'stolen',
    );
    repository.git('config', '-f', '.gitmodules', 'submodule.stolen.url', join(served, 'local.git'));
    repository.commit({});
    const built = await add(server.url('sneaky'));
    assert.equal(built.code, 1);
    assert.match(built.messages, /transport 'file' not allowed.*E_GIT_FAILED/s);
    assert.deepEqual(
      (await added(`${server.url('sneaky')}?submodules=false`)).filter((path) => path === 'file'),
      ['file'],
    );
  });

  test('asks for no password, and uses that of its address without showing it', async () => {
    new TestRepository(served, 'private').commit({ file: '' });
    await using guarded = await startGitServer(served, 'me:geheim');
    const asked = await add(guarded.url('private'));
    assert.equal(asked.code, 1);
    assert.match(asked.messages, /E_GIT_FAILED/);
    const url = guarded.url('private').replace('//', '//me:geheim@');
    const built = await succeed(`FROM scratch\nADD ${url} /private\n`);
    assert.ok(!built.stderr.includes('geheim'));
    const wrong = await add(guarded.url('private').replace('//', '//me:falsch@'));
    assert.ok(!wrong.stderr.includes('falsch') && wrong.code === 1, wrong.stderr);
  });

  test('may have the times of its commit', async () => {
    const repository = new TestRepository(served, 'timed');
    repository.commit({ 'dir/file': '' });
    const time = repository.git('log', '-1', '--format=%ct');
    const lines = await added(`${server.url('timed')}?mtime=commit`, '', '%P %T@');
    assert.deepEqual(lines, [`dir ${time}.0000000000`, `dir/file ${time}.0000000000`]);
  });

  test('says at its line what git says', async () => {
    const built = await add(server.url('not-there'));
    assert.equal(built.code, 1);
    assert.match(built.messages, /Dockerfile:2: git cannot read http:.*not-there\.git: .*E_GIT_FAILED/s);
    const without = await builds.build(`FROM scratch\nADD ${server.url('refs')} /\n`, {
      env: { PATH: '/nonexistent' },
    });
    assert.match(without.messages, /E_GIT_MISSING|ENOENT/);
    assert.equal(without.code, 3);
  });
});
