import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { matchSources, openContext } from '../../executor/context/index.ts';
import { Ignore, parseDockerignore } from '../../executor/context/dockerignore.ts';
import { plant } from '../support/trees.ts';

const excludes = (lines: string, path: string): boolean =>
  new Ignore(parseDockerignore(lines, '.dockerignore')).excludes(path);

describe('a pattern of .dockerignore', () => {
  // What Docker's own matcher says of each (github.com/moby/patternmatcher).
  const cases: readonly (readonly [pattern: string, excluded: string, kept: string])[] = [
    ['*', 'file', ''],
    ['*.txt', 'a.txt', 'dir/a.txt'],
    ['docs', 'docs/deep/file', 'docs2'],
    ['/docs', 'docs', 'other/docs'],
    ['docs/', 'docs/file', 'doc'],
    ['./docs/./x/..', 'docs/file', 'x'],
    ['*/temp*', 'a/temporary.txt', 'temporary.txt'],
    ['*/*/temp*', 'a/b/temporary/deep', 'a/temporary'],
    ['temp?', 'tempa', 'temp'],
    ['a[b-d]e', 'ace', 'aae'],
    ['a[^b-d]e', 'aze', 'ace'],
    ['a\\*b', 'a*b', 'axb'],
    ['abc.def', 'abc.def', 'abcZdef'],
    ['a.|)$(}+{bc', 'a.|)$(}+{bc', 'bc'],
    ['a?b', 'a☺b', 'a/b'],
    ['[a-ζ]*', 'α', 'ω'],
    ['a?b', 'a𝄞b', 'ab'],
    ['**', 'dir/file', ''],
    ['dir/**', 'dir/deep/file', 'dir'],
    ['**/dir', 'x/y/dir/file', 'xdir'],
    ['**/*.txt', 'x/y/a.txt', 'x/y/a.txt2'],
    ['**/**/*.txt', 'a.txt', 'a.text'],
    ['**file', 'deep/afile', 'filed'],
    ['**/.foo', '.foo', 'bar.foo'],
    ['a**/*.txt', 'a/x/y/file.txt', 'b/file.txt'],
    ['a**b', 'a/x/b', 'axb'],
    ['abc**', 'abcdef/ghi', 'ab'],
    ['x/**/y', 'x/y', 'xy'],
    ['# no comment', '', '# no comment'],
    ['  spaced  ', 'spaced', ''],
  ];
  for (const [pattern, excluded, kept] of cases)
    test(JSON.stringify(pattern), () => {
      if (excluded !== '') assert.equal(excludes(pattern, excluded), true, `${excluded} is excluded`);
      if (kept !== '') assert.equal(excludes(pattern, kept), false, `${kept} is kept`);
    });

  test('takes back with ! what an earlier line excluded; the last line that matches decides', () => {
    const lines = '*.md\n!README*.md\nREADME-secret.md\n';
    assert.deepEqual(
      ['a.md', 'README.md', 'README-secret.md', 'x.txt'].map((path) => excludes(lines, path)),
      [true, false, true, false],
    );
    assert.equal(excludes('!a\n*', 'a'), true, 'an exception before the rule has no effect');
    assert.equal(excludes('**\n!util/web', 'util/web/foo'), false);
    assert.equal(excludes('**\n!util/web\nutil/web/foo', 'util/web/foo'), true);
    assert.equal(excludes('docs\n  ! docs/README.md  ', 'docs/README.md'), false);
  });

  test('may come after a byte order mark, a comment, an empty line or a carriage return', () => {
    assert.equal(excludes('\uFEFFfirst\n#second\n\n.\n/\nthird\r\n', 'first'), true);
    assert.equal(excludes('\uFEFFfirst\n#second\n\n.\n/\nthird\r\n', 'second'), false);
    assert.equal(excludes('\uFEFFfirst\n#second\n\n.\n/\nthird\r\n', 'third'), true);
    assert.equal(excludes('.\n/', 'anything'), false);
  });

  for (const pattern of ['!', '[', 'a[', '[]a]', '[x-]', '[-x]', 'a\\', '[^'])
    test(`${JSON.stringify(pattern)} is an error with its line`, () =>
      assert.throws(() => parseDockerignore(`ok\n\n${pattern}\n`, 'app.dockerignore'), {
        code: 'E_DOCKERIGNORE_SYNTAX',
        where: 'app.dockerignore:3',
      }));
});

describe('a context with .dockerignore', () => {
  let directory = '';
  beforeEach(() => (directory = mkdtempSync(join(tmpdir(), 'kiln-ignore-'))));
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  async function taken(pattern = '.'): Promise<string[]> {
    const { directory: root, ignore } = await openContext(directory, join(directory, 'Dockerfile'));
    const query = { root, patterns: [pattern], ignore, where: 'Dockerfile:2', treeName: 'the build context' };
    return matchSources(query).flatMap(({ name, below }) => (below.length === 0 ? [name] : below));
  }

  test('has no excluded directory, but the parents of what an exception brings back', async () => {
    plant(directory, {
      '.dockerignore': 'node_modules\n**/*.log\n!node_modules/kept/deep/file\n.dockerignore\n',
      'node_modules/gone/x': '',
      'node_modules/kept/deep/file': '',
      'node_modules/kept/other': '',
      'src/a.log': '',
      'src/a.c': '',
    });
    assert.deepEqual(await taken(), [
      'node_modules',
      'node_modules/kept',
      'node_modules/kept/deep',
      'node_modules/kept/deep/file',
      'src',
      'src/a.c',
    ]);
    assert.deepEqual(await taken('node_modules/kept'), ['deep', 'deep/file']);
    assert.deepEqual(await taken('src/a.*'), ['src/a.c']);
  });

  test('says that .dockerignore leaves a file out, and how to have it', async () => {
    plant(directory, { '.dockerignore': 'secret\n', secret: '' });
    await assert.rejects(taken('secret'), {
      code: 'E_COPY_SOURCE_NOT_FOUND',
      message: /\.dockerignore leaves it out/,
      remedy: /!secret/,
    });
  });

  test('prefers the one beside the Dockerfile that has its name', async () => {
    plant(directory, {
      '.dockerignore': 'a\n',
      'Dockerfile.dockerignore': 'b\n*.dockerignore\n.d*',
      a: '',
      b: '',
    });
    assert.deepEqual(await taken(), ['a']);
  });
});
