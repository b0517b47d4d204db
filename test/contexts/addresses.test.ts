import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type ContextAddress,
  contextName,
  type GitFlags,
  parseBuildContext,
  parseContext,
  parseGitFlags,
} from '../../executor/context/kinds/index.ts';
import { parseBuildContexts } from '../../executor/named-contexts.ts';
import { contextOptions } from '../../executor/source-flags.ts';
import { KilnError } from '../../src/support/index.ts';

const commit = 'a'.repeat(40);

/** An address of a repository, in short. */
function repository(
  text: string,
  git: GitFlags = {},
  environment: Readonly<Record<string, string>> = {},
): string {
  const address = parseBuildContext(text, git, environment);
  if (address.kind !== 'git') return address.kind;
  const { remote, ref = '', directory, submodules, depth, within, keepGitDir } = address.source;
  const more = Object.entries({ directory, submodules, depth, within, keepGitDir });
  const said = more.filter(([, value]) => value !== undefined && value !== '' && value !== false);
  return [remote, ref, ...said.map(([name, value]) => `${name}=${String(value)}`)].join(' ');
}

/** What is wrong with an address, and what to do. */
function refusal(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof KilnError)
      return `${error.category} ${error.code} ${error.message} ${error.remedy ?? ''}`;
    throw error;
  }
  return 'nothing';
}

describe('the address of a context', () => {
  test('is of the kind that its scheme says', () => {
    const cases: readonly (readonly [string, ContextAddress])[] = [
      ['.', { kind: 'directory', path: '.' }],
      ['dir:///workspace', { kind: 'directory', path: '/workspace' }],
      ['dir://not/here', { kind: 'directory', path: '/not/here' }],
      ['tar://context.tar.gz', { kind: 'file', path: 'context.tar.gz' }],
      ['tar:///a/b.tar', { kind: 'file', path: '/a/b.tar' }],
      ['tar://stdin', { kind: 'standard-input' }],
      ['-', { kind: 'standard-input' }],
      ['https://h.example/x.tar.gz#part', { kind: 'web', url: 'https://h.example/x.tar.gz' }],
      ['s3://my.bucket/a/b.tar.gz', { kind: 's3', bucket: 'my.bucket', key: 'a/b.tar.gz' }],
      ['s3://b/a%20b', { kind: 's3', bucket: 'b', key: 'a b' }],
      ['gs://b_1', { kind: 'google', bucket: 'b_1', key: 'context.tar.gz' }],
      ['gs://b/', { kind: 'google', bucket: 'b', key: 'context.tar.gz' }],
      [
        'https://account.blob.core.windows.net/c/d/e.tar?sig=x',
        { kind: 'azure', url: 'https://account.blob.core.windows.net/c/d/e.tar?sig=x' },
      ],
      [
        'https://account.blob.core.usgovcloudapi.net/c/e',
        { kind: 'azure', url: 'https://account.blob.core.usgovcloudapi.net/c/e' },
      ],
    ];
    for (const [text, address] of cases) assert.deepEqual(parseContext(text, '--context'), address, text);
  });

  test('of a kind that there is not names the one that was meant', () => {
    for (const [text, remedy] of [
      ['gti://host/x', 'Did you mean git://?'],
      ['S4://b/x', 'Did you mean s3://?'],
      ['file:///x', 'Write it as dir://DIRECTORY or tar://FILE.'],
      ['gcs://b/x', 'Write it as gs://BUCKET/OBJECT.'],
      ['git+https://host/x', 'Write it as git://HOST/REPOSITORY.'],
      ['oci-layout://x', '--build-context NAME=oci-layout://DIRECTORY'],
      ['gopher://x', 'It is a directory, or begins with dir://, tar://, git://'],
    ] as const) {
      const said = refusal(() => parseContext(text, '--context'));
      assert.ok(said.startsWith('usage E_CONTEXT_UNSUPPORTED') && said.includes(remedy), `${text}: ${said}`);
    }
    for (const text of [
      's3://',
      's3:///x',
      'gs://b/%zz',
      'dir://',
      'tar://',
      'https://a.blob.core.windows.net/c',
    ])
      assert.match(
        refusal(() => parseContext(text, '--context')),
        /^usage E_CONTEXT_ADDRESS .*--context/,
        text,
      );
    assert.match(
      refusal(() => parseContext('https://h/x.git#a..b', '--context')),
      /^usage E_CONTEXT_ADDRESS/,
    );
  });

  test('is called by a name that has no secret in it', () => {
    for (const [text, name] of [
      ['https://u:p@h.example/x.tar?token=t', 'https://h.example/x.tar'],
      ['https://a.blob.core.windows.net/c/x?sv=1&sig=s', 'https://a.blob.core.windows.net/c/x'],
      ['https://u:p@h.example/x.git#main:d', 'https://***@h.example/x.git#main:d'],
      ['git://token@h.example/x', 'https://***@h.example/x'],
      ['git@h.example:x.git', 'git@h.example:x.git'],
      ['-', 'standard input'],
    ] as const)
      assert.equal(contextName(parseBuildContext(text, {}, {})), name);
  });
});

describe('the address of a repository', () => {
  test('as kaniko writes it is fetched by HTTPS, without submodules', () => {
    for (const [text, wanted] of [
      ['git://github.com/o/r', 'https://github.com/o/r '],
      ['git://github.com/o/r.git#main', 'https://github.com/o/r.git main'],
      ['git://h/r#refs/heads/x', 'https://h/r refs/heads/x'],
      ['git://h/r#refs/pull/7/head', 'https://h/r refs/pull/7/head'],
      [`git://h/r#${commit}`, `https://h/r ${commit}`],
      [`git://h/r#refs/heads/x#${commit}`, `https://h/r ${commit} within=refs/heads/x`],
      ['git://u:p@h:8443/r#main:sub/dir', 'https://u:p@h:8443/r main directory=sub/dir'],
      ['git://h/r?tag=v1&keep-git-dir=1', 'https://h/r refs/tags/v1 keepGitDir=true'],
      ['git://h/r?submodules=1', 'https://h/r  submodules=true'],
    ] as const)
      assert.equal(repository(text), wanted, text);
    assert.equal(repository('git://h/r#x', {}, { GIT_PULL_METHOD: 'http' }), 'http://h/r x');
    assert.equal(repository('git://h/r#x', {}, { GIT_PULL_METHOD: 'git' }), 'git://h/r x');
    assert.match(
      refusal(() => repository('git://h/r#main#v1')),
      /"v1" is no commit/,
    );
    assert.match(
      refusal(() => repository('git://')),
      /E_CONTEXT_ADDRESS/,
    );
  });

  test('as BuildKit writes it is what it is for ADD', () => {
    for (const [text, wanted] of [
      ['https://h/r.git#v1:d', 'https://h/r.git v1 directory=d submodules=true'],
      ['git@h:o/r.git#main', 'git@h:o/r.git main submodules=true'],
      ['ssh://git@h:22/o/r', 'ssh://git@h:22/o/r  submodules=true'],
      ['https://h/r.git?branch=b&subdir=d&submodules=0', 'https://h/r.git refs/heads/b directory=d'],
      ['https://h/archive/r.tar.gz', 'web'],
    ] as const)
      assert.equal(repository(text), wanted, text);
  });

  test('is changed by --git as in kaniko', () => {
    const flags = parseGitFlags([
      'branch=b,depth=3',
      'recurse-submodules=true',
      'single-branch=true,keep-git-dir=1',
    ]);
    const said = 'submodules=true depth=3 keepGitDir=true';
    assert.equal(repository('git://h/r', flags), `https://h/r b ${said}`);
    assert.equal(repository('git://h/r#refs/heads/c', flags), `https://h/r b ${said}`);
    assert.equal(repository('git://h/r#refs/tags/c', flags), `https://h/r refs/tags/c ${said}`);
    assert.equal(repository(`git://h/r#${commit}`, flags), `https://h/r ${commit} ${said}`);
    assert.deepEqual(parseGitFlags(['branch=a,b']).branch, 'a,b');
    for (const wrong of ['branch', 'brunch=x', 'depth=-1', 'recurse-submodules=maybe'])
      assert.match(
        refusal(() => parseGitFlags([wrong])),
        /^usage/,
        wrong,
      );
    assert.match(
      refusal(() => parseBuildContext('.', flags, {})),
      /--context is none/,
    );
  });

  test('gets the credentials of the environment, unless it has its own or is no web address', () => {
    const both = { GIT_USERNAME: 'someone', GIT_PASSWORD: 'p@ss' };
    assert.equal(repository('git://h/r', {}, both), 'https://someone:p%40ss@h/r ');
    assert.equal(repository('git://h/r', {}, { ...both, GIT_TOKEN: 't' }), 'https://t@h/r ');
    assert.equal(repository('git://own@h/r', {}, both), 'https://own@h/r ');
    assert.equal(repository('ssh://git@h/r', {}, both), 'ssh://git@h/r  submodules=true');
  });
});

describe('flags', () => {
  const flags = { context: '.', git: [], dockerfile: 'Dockerfile' };

  test('that are deprecated in kaniko mean the same', () => {
    const addressOf = (bucket: string): ContextAddress =>
      contextOptions({ ...flags, bucket }, new Map()).context;
    assert.deepEqual(addressOf('b'), { kind: 'google', bucket: 'b', key: 'context.tar.gz' });
    assert.deepEqual(addressOf('b/x.tar'), { kind: 'google', bucket: 'b', key: 'x.tar' });
    assert.deepEqual(addressOf('s3://b/x'), { kind: 's3', bucket: 'b', key: 'x' });
    const two = refusal(() => contextOptions({ ...flags, context: 'x', bucket: 'b' }, new Map()));
    assert.match(two, /both name a context/);
  });

  test("that are BuildKit's build arguments keep the repository", () => {
    const keeps = (value: string): boolean | undefined => {
      const { context } = contextOptions(
        { ...flags, context: 'git://h/r' },
        new Map([['BUILDKIT_CONTEXT_KEEP_GIT_DIR', value]]),
      );
      return context.kind === 'git' ? context.source.keepGitDir : undefined;
    };
    assert.deepEqual([keeps('1'), keeps('0')], [true, false]);
  });

  test('name contexts of every kind but standard input', () => {
    const kinds = [
      'a=dir',
      'b=tar://x',
      'c=https://h/x.tar',
      'd=git://h/r',
      'e=s3://b/k',
      'f=git@h:r',
      'g=oci-layout://d',
    ];
    const { sources } = parseBuildContexts(kinds);
    assert.deepEqual(
      [...sources.values()].map(({ kind }) => kind),
      ['directory', 'file', 'web', 'git', 's3', 'git', 'layout'],
    );
    assert.match(
      refusal(() => parseBuildContexts(['x=-'])),
      /cannot be read from standard input/,
    );
    assert.match(
      refusal(() => parseBuildContexts(['x=gti://h'])),
      /--build-context x: .*Did you mean git/,
    );
  });
});
