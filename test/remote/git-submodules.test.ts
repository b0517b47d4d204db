import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { GitTrees } from '../../executor/remote/git-trees.ts';
import { type GitSource } from '../../executor/remote/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { type GitServer, startGitServer, TestRepository } from '../support/git-server.ts';

/*
 * Submodules as Kiln checks them out, beside what git's own commands say of the result.
 */

describe('a repository with submodules', () => {
  let directory = '';
  let served = '';
  let server: GitServer;
  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'kiln-submodules-'));
    served = join(directory, 'served');
    mkdirSync(served);
    server = await startGitServer(served, 'me:geheim');
  });
  after(async () => {
    await server[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  /** Makes a repository that has another one at a path. */
  function withSubmodule(
    name: string,
    other: string,
    path: string,
    url: string,
    more: (repository: TestRepository) => void = () => undefined,
  ): TestRepository {
    const repository = new TestRepository(served, name);
    repository.commit({ [`${name}-file`]: name });
    const allow = ['-c', 'protocol.file.allow=always'];
    repository.git(
      ...allow,
      'submodule',
      'add',
      '--quiet',
      '--name',
      'inner',
      join(served, `${other}.git`),
      path,
    );
    repository.git('config', '-f', '.gitmodules', 'submodule.inner.url', url);
    more(repository);
    repository.commit({});
    return repository;
  }

  async function checkOut(name: string, options: Partial<GitSource> = {}): Promise<string> {
    const remote = server.url(name).replace('//', '//me:geheim@');
    const source: GitSource = {
      ...{ kind: 'git', remote, ref: undefined, directory: '', checksum: undefined },
      ...{ keepGitDir: true, submodules: true, commitTimes: false, ...options },
    };
    await using client = new RegistryClient();
    const trees = new GitTrees(client, directory);
    return await trees.checkOut(source, await trees.identify(source, 'here'), 'here');
  }

  const git = (tree: string, ...args: string[]): string =>
    execFileSync('git', ['-c', 'safe.directory=*', '-C', tree, ...args], { encoding: 'utf8' });

  test('has them and theirs where git would have put them, with addresses relative to their own', async () => {
    const leaf = new TestRepository(served, 'leaf');
    const old = leaf.commit({ leaf: 'old' });
    const middle = withSubmodule('middle', 'leaf', 'deep/leaf', '../leaf.git');
    leaf.commit({ leaf: 'new' });
    const commit = middle.git('rev-parse', 'HEAD');
    withSubmodule('whole', 'middle', 'sub/middle', './../middle.git/');
    const tree = await checkOut('whole');
    assert.equal(readFileSync(join(tree, 'sub/middle/deep/leaf/leaf'), 'utf8'), 'old');
    const status = git(tree, 'submodule', 'status', '--recursive').replaceAll(/ \(.*\)/g, '');
    assert.equal(status, ` ${commit} sub/middle\n ${old} sub/middle/deep/leaf\n`);
    for (const path of ['', 'sub/middle', 'sub/middle/deep/leaf'])
      assert.equal(git(join(tree, path), 'status', '--porcelain', '--ignored'), '', path);
    assert.equal(git(join(tree, 'sub/middle'), 'remote', 'get-url', 'origin').trim(), server.url('middle'));
    assert.equal(git(tree, 'config', 'submodule.inner.url').trim(), server.url('middle'));
    assert.equal(execFileSync('sh', ['-c', `grep -rl geheim ${tree} || true`], { encoding: 'utf8' }), '');
    const bare = await checkOut('whole', { keepGitDir: false });
    assert.equal(execFileSync('find', [bare, '-name', '.git'], { encoding: 'utf8' }), '');
    assert.equal(readFileSync(join(bare, 'sub/middle/middle-file'), 'utf8'), 'middle');
  });

  test('leaves out those that say so, and names those that it cannot find', async () => {
    withSubmodule('none', 'leaf', 'sub', '../missing.git', (repository) =>
      repository.git('config', '-f', '.gitmodules', 'submodule.inner.update', 'none'),
    );
    assert.equal(execFileSync('ls', [join(await checkOut('none'), 'sub')], { encoding: 'utf8' }), '');
    withSubmodule('lost', 'leaf', 'sub', '../missing.git');
    await assert.rejects(checkOut('lost'), { code: 'E_GIT_FAILED', message: /missing\.git/ });
    withSubmodule('unnamed', 'leaf', 'sub', '../leaf.git', (repository) =>
      repository.git('rm', '--quiet', '--cached', '-f', '.gitmodules'),
    );
    rmSync(join(served, 'unnamed.git/.gitmodules'));
    new TestRepository(served, 'unnamed').commit({});
    await assert.rejects(checkOut('unnamed'), {
      code: 'E_GIT_FAILED',
      remedy: /does not say where .* sub is from/,
    });
  });

  test('cannot put them anywhere else', async () => {
    withSubmodule('outside', 'leaf', 'sub', '../leaf.git', (repository) =>
      repository.git(
        'config',
        '-f',
        '.gitmodules',
        '--rename-section',
        'submodule.inner',
        'submodule.../../../evil',
      ),
    );
    await assert.rejects(checkOut('outside'), { code: 'E_GIT_FAILED', remedy: /cannot have the name/ });
    for (const url of [
      join(served, 'leaf.git'),
      `file://${served}/leaf.git`,
      `ext::sh -c true`,
      '--upload-pack=true',
    ]) {
      const name = `local-${Buffer.from(url).toString('hex').slice(0, 20)}`;
      withSubmodule(name, 'leaf', 'sub', url);
      await assert.rejects(checkOut(name), { code: 'E_GIT_FAILED' }, url);
    }
  });
});
