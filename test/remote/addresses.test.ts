import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type GitSource, parseRemote, type RemoteSource } from '../../executor/remote/index.ts';
import { hideCredentials } from '../../src/support/index.ts';

/*
 * What ADD takes for a repository, a file or a path. BuildKit's parser of repositories is the measure.
 */

const parse = (text: string, flags: Parameters<typeof parseRemote>[1] = none): RemoteSource | undefined =>
  parseRemote(text, flags, 'Dockerfile:3');
const none = { checksum: undefined, keepGitDir: undefined };
const commit = '0123456789abcdef0123456789abcdef01234567';

function git(text: string, flags?: Parameters<typeof parseRemote>[1]): Partial<GitSource> {
  const source = parse(text, flags);
  assert.equal(source?.kind, 'git', text);
  const { remote, ref, directory, ...rest } = source;
  const said = Object.entries(rest).filter(([name, value]) => value !== plain[name as keyof typeof plain]);
  return { remote, ref, directory, ...Object.fromEntries(said) };
}
const plain = { kind: 'git', checksum: undefined, keepGitDir: false, submodules: true, commitTimes: false };

describe('a source of ADD', () => {
  test('is a path of the context unless it says otherwise', () => {
    for (const text of [
      'file',
      './x.git',
      '../git@host:x',
      'github.com/a/b',
      'ftp://host/x',
      'file:///x.git',
      'a:b',
      'C:\\x',
    ])
      assert.equal(parse(text), undefined, text);
  });

  test('is a repository for ssh and git, and for HTTP with a path that ends in .git', () => {
    const address = (text: string): [string | undefined, string | undefined, string | undefined] => {
      const { remote, ref, directory } = git(text);
      return [remote, ref, directory];
    };
    assert.deepEqual(address('git@host.example:team/app.git'), [
      'git@host.example:team/app.git',
      undefined,
      '',
    ]);
    assert.deepEqual(address('git@host:app#v1:docs/a'), ['git@host:app', 'v1', 'docs/a']);
    assert.deepEqual(address('ssh://git@host:22/app'), ['ssh://git@host:22/app', undefined, '']);
    assert.deepEqual(address('git://host/app#main'), ['git://host/app', 'main', '']);
    assert.deepEqual(address('https://host/app.git#:/docs//x/'), [
      'https://host/app.git',
      undefined,
      'docs/x',
    ]);
    assert.deepEqual(address(`http://host/app.git#${commit}`), ['http://host/app.git', commit, '']);
    assert.equal(parse('https://host/app.git/x')?.kind, 'http');
    assert.equal(parse('https://host/app')?.kind, 'http');
  });

  test('says as a query what its fragment and the flags say', () => {
    const remote = 'https://host/a.git';
    assert.deepEqual(git(`${remote}?branch=main&subdir=d`), {
      remote,
      ref: 'refs/heads/main',
      directory: 'd',
    });
    assert.deepEqual(git(`${remote}?tag=v1&submodules=false&keep-git-dir&mtime=commit`), {
      ...{ remote, ref: 'refs/tags/v1', directory: '' },
      ...{ submodules: false, keepGitDir: true, commitTimes: true },
    });
    assert.deepEqual(git(`${remote}?checksum=0123ABC#main`), {
      remote,
      ref: 'main',
      directory: '',
      checksum: '0123abc',
    });
    assert.deepEqual(git(`${remote}?fetch-by-commit=1&commit=${commit}&ref=x`), {
      ...{ remote, ref: commit, directory: '', checksum: commit },
    });
    assert.deepEqual(git(`${remote}?ref=x#x`, { checksum: commit, keepGitDir: true }), {
      ...{ remote, ref: 'x', directory: '', checksum: commit, keepGitDir: true },
    });
  });

  test('is refused when it contradicts itself or cannot be understood', () => {
    const remote = 'https://host/a.git';
    for (const [text, flags] of [
      [`${remote}?nope=1`],
      [`${remote}?ref=a&ref=b`],
      [`${remote}?ref=`],
      [`${remote}?ref=a#b`],
      [`${remote}?tag=a&branch=a`],
      [`${remote}?subdir=a#:b`],
      [`${remote}?keep-git-dir=maybe`],
      [`${remote}?mtime=now`],
      [`${remote}?fetch-by-commit`],
      [`${remote}?checksum=xyz`],
      [`${remote}?checksum=abc`, { ...none, checksum: 'abd' }],
      [`${remote}?keep-git-dir=false`, { ...none, keepGitDir: true }],
      [`${remote}#--upload-pack=evil`],
      [`${remote}#a..b`],
      [`${remote}#a b`],
      [`${remote}#HEAD@{1}`],
      [`${remote}#a:b`, { ...none, checksum: 'sha256:00' }],
      ['https://host/file', { ...none, checksum: commit }],
      ['https://host/file', { ...none, keepGitDir: true }],
    ] as const)
      assert.throws(() => parse(text, flags), { code: 'E_ADD_ADDRESS', where: 'Dockerfile:3' }, text);
  });

  test('is a file with the name of the last part of its path, if that can be one', () => {
    const nameOf = (text: string): string | undefined => {
      const source = parse(text);
      return source?.kind === 'http' ? source.name : undefined;
    };
    for (const [text, name] of [
      ['https://host/a/b.tar.gz?x=/y#z', 'b.tar.gz'],
      ['http://host/a%20b', 'a b'],
      ['http://host/a%2F..%2Fb', 'b'],
      ['https://host', '__unnamed__'],
      ['https://host/', '__unnamed__'],
      ['https://host/a/..%2f..', '__unnamed__'],
      ['https://host/%00', '__unnamed__'],
      [`https://host/${'x'.repeat(300)}`, '__unnamed__'],
      ['https://host/%zz', '%zz'],
    ] as const)
      assert.equal(nameOf(text), name, text);
  });

  test('is shown without its secrets', () => {
    assert.equal(
      hideCredentials('https://me:secret@host/x?a=1&token=abc#r'),
      'https://***@host/x?a=1&token=***#r',
    );
    assert.equal(
      hideCredentials('https://host/x?X-Amz-Signature=abc&b=2'),
      'https://host/x?X-Amz-Signature=***&b=2',
    );
    assert.equal(hideCredentials('git@host:x'), 'git@host:x');
    assert.equal(hideCredentials('path/with@sign'), 'path/with@sign');
  });
});
