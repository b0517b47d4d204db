import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { copyInto, ModeChange, parseExcludes } from '../../executor/context/index.ts';
import { type Copy, copyRequest } from '../support/copies.ts';
import { SeededRandom } from '../support/random.ts';
import { listTree, plant } from '../support/trees.ts';

/*
 * --parents, --exclude and --chmod of COPY and ADD on a directory. Measures are BuildKit's Dockerfile reference and its own
 * tests, and for modes chmod(1).
 */

let scratch = '';
let source = '';
let root = '';
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'kiln-copy-flags-'));
  source = join(scratch, 'source');
  root = join(scratch, 'root');
  for (const directory of [source, root]) mkdirSync(directory);
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

/** The paths that a copy to /out makes there. */
async function copied(request: Omit<Copy, 'to'>): Promise<string[]> {
  rmSync(join(root, 'out'), { recursive: true, force: true });
  await copyInto(root, copyRequest(source, { to: '/out/', ...request }));
  return listTree(root, '%P')
    .filter((path) => path.startsWith('out/'))
    .map((path) => path.slice('out/'.length));
}

describe('COPY --parents', () => {
  beforeEach(() =>
    plant(source, {
      'a/b/c/d/foo': '',
      'a/b/c/d/e/bay': '',
      'a/b2/c/d/e/bar': '',
      'a/b/c2/d/e/baz': '',
      'a/b/c2/d/e2/baz': '',
    }),
  );
  const parents = (...from: string[]): Promise<string[]> => copied({ from, parents: true });

  test('keeps the directories that lead to a source, and no others', async () => {
    assert.deepEqual(await parents('a/b/c/d/foo'), ['a', 'a/b', 'a/b/c', 'a/b/c/d', 'a/b/c/d/foo']);
    assert.deepEqual(await parents('./a/b2'), [
      ...['a', 'a/b2', 'a/b2/c', 'a/b2/c/d', 'a/b2/c/d/e', 'a/b2/c/d/e/bar'],
    ]);
    assert.deepEqual(await parents('/a/b/c/d/e/.'), [
      ...['a', 'a/b', 'a/b/c', 'a/b/c/d', 'a/b/c/d/e', 'a/b/c/d/e/bay'],
    ]);
  });

  test('keeps them from the first /./ on', async () => {
    assert.deepEqual(await parents('a/b/./c/d'), ['c', 'c/d', 'c/d/e', 'c/d/e/bay', 'c/d/foo']);
    assert.deepEqual(await parents('/a/./b2/./c'), ['b2', 'b2/c', 'b2/c/d', 'b2/c/d/e', 'b2/c/d/e/bar']);
  });

  test('takes wildcards before and after it, and ** for any number of directories', async () => {
    assert.deepEqual(
      (await parents('a/./*/c')).filter((path) => !/\/d/.test(path)),
      ['b', 'b/c', 'b2', 'b2/c'],
    );
    assert.deepEqual(await parents('a/b*/./c/**/e'), ['c', 'c/d', 'c/d/e', 'c/d/e/bar', 'c/d/e/bay']);
    assert.deepEqual(await parents('a/b/c*/./d/**/baz', 'a/b*/./c/**/bar'), [
      ...['c', 'c/d', 'c/d/e', 'c/d/e/bar', 'd', 'd/e', 'd/e/baz', 'd/e2', 'd/e2/baz'],
    ]);
    assert.deepEqual(await parents('**/foo'), ['a', 'a/b', 'a/b/c', 'a/b/c/d', 'a/b/c/d/foo']);
  });

  test('makes its destination also for a wildcard without a match, and refuses a name that is not there', async () => {
    assert.deepEqual(await parents('a/b/./c9*'), []);
    assert.ok(lstatSync(join(root, 'out')).isDirectory());
    for (const from of ['a/nowhere', 'nowhere/./a', 'a/./nowhere', '../source/a/./nowhere'])
      await assert.rejects(parents(from), { code: 'E_COPY_SOURCE_NOT_FOUND', where: 'Dockerfile:3' }, from);
  });

  test('takes everything for the root', async () => {
    assert.deepEqual(await parents('.'), await copied({ from: ['.'] }));
    assert.deepEqual(await parents('a/./'), await copied({ from: ['a'] }));
  });

  test('gives a new directory what its source has, and one that is there its mode alone', async () => {
    chmodSync(join(source, 'a'), 0o700);
    chownSync(join(source, 'a'), 5, 6);
    chmodSync(join(source, 'a/b'), 0o711);
    plant(root, { 'a/kept': '' });
    chownSync(join(root, 'a'), 7, 8);
    const request = { from: ['a/b/c/d/foo'], parents: true, keepOwners: true, to: '/' };
    await copyInto(root, copyRequest(source, request));
    await copyInto(root, copyRequest(source, { ...request, to: '/new' }));
    const lines = listTree(root).filter((line) => !/foo|c/.test(line));
    assert.deepEqual(lines, [
      'a d 700 7:8',
      'a/b d 711 0:0',
      'a/kept f 644 0:0',
      'new d 755 0:0',
      'new/a d 700 5:6',
      'new/a/b d 711 0:0',
    ]);
  });

  test('follows no link between, and leaves out what .dockerignore does', async () => {
    symlinkSync('a', join(source, 'link'));
    await assert.rejects(parents('link/b2/nowhere'), { code: 'E_COPY_SOURCE_NOT_FOUND' });
    assert.deepEqual(await parents('link'), ['link']);
    const ignored = await copied({ from: ['a/b'], parents: true, ignore: ['**/e', 'a/b/c2'] });
    assert.deepEqual(ignored, ['a', 'a/b', 'a/b/c', 'a/b/c/d', 'a/b/c/d/foo']);
  });
});

describe('--exclude', () => {
  const excluding = (excludes: readonly string[], ...from: string[]): Promise<string[]> =>
    copied({ from, excludes: parseExcludes(excludes, 'Dockerfile:3') });

  test('leaves out what a pattern matches below each source, as .dockerignore does', async () => {
    plant(source, {
      'dir1/a.1': '',
      'dir1/a.2': '',
      'dir1/sub/a.1': '',
      'dir1/sub/a.2': '',
      'dir1/gone/x': '',
    });
    assert.deepEqual(await excluding(['*.1'], 'dir1'), [
      ...['a.2', 'gone', 'gone/x', 'sub', 'sub/a.1', 'sub/a.2'],
    ]);
    assert.deepEqual(await excluding(['**/*.1', 'gone'], 'dir1'), ['a.2', 'sub', 'sub/a.2']);
    assert.deepEqual(await excluding(['*/*.1', '/gone/'], 'dir1'), ['a.1', 'a.2', 'sub', 'sub/a.2']);
    assert.deepEqual(await excluding(['*/gone', '*/*.2'], '.'), [
      ...['dir1', 'dir1/a.1', 'dir1/sub', 'dir1/sub/a.1', 'dir1/sub/a.2'],
    ]);
    assert.deepEqual(await excluding(['*', '!sub/a.2'], 'dir1'), ['sub', 'sub/a.2']);
  });

  test('leaves files out that a source names itself', async () => {
    plant(source, { 'home.txt': '', 'home.png': '', 'hom/x.txt': '' });
    assert.deepEqual(await excluding(['*.txt'], 'hom*'), ['home.png']);
    assert.deepEqual(await excluding(['*.md', '*.txt'], 'home.txt', 'home.png'), ['home.png']);
  });

  test('may leave out everything', async () => {
    plant(source, { 'dir/a': '', 'dir/sub/b': '' });
    assert.deepEqual(await excluding(['*'], 'dir'), []);
    assert.ok(lstatSync(join(root, 'out')).isDirectory());
  });

  test('counts from the pivot of --parents', async () => {
    plant(source, { 'x/y/a.txt': '', 'x/y/b.md': '', 'x/z/c.md': '' });
    const request = { from: ['x/./*/*'], parents: true, excludes: ['y/*.md'] };
    assert.deepEqual(await copied(request), ['y', 'y/a.txt', 'z', 'z/c.md']);
  });

  test('keeps hard links between what is left, and takes no whiteouts', async () => {
    plant(source, { 'dir/a': 'x', 'dir/c': '' });
    linkSync(join(source, 'dir/a'), join(source, 'dir/b'));
    writeFileSync(join(source, 'dir/.wh.c'), '');
    await assert.rejects(excluding(['c'], 'dir'), { code: 'E_RESERVED_NAME' });
    assert.deepEqual(await excluding(['.wh.*'], 'dir'), ['a', 'b', 'c']);
    assert.equal(lstatSync(join(root, 'out/a')).ino, lstatSync(join(root, 'out/b')).ino);
  });

  test('refuses a pattern that is none', () =>
    assert.throws(() => parseExcludes(['ok', 'a[b'], 'Dockerfile:3'), {
      code: 'E_DOCKERFILE_SYNTAX',
      where: 'Dockerfile:3',
      subject: 'a[b',
    }));
});

describe('symbolic --chmod', () => {
  const modes = [0o000, 0o124, 0o600, 0o644, 0o666, 0o755, 0o4711, 0o2070, 0o1777, 0o6755];

  /** What chmod(1) makes of every mode, of a file and of a directory. */
  function byProgram(change: string): number[] {
    const paths = ['f', 'd'].flatMap((kind) =>
      modes.map((mode, index) => {
        const path = join(source, `${kind}${index}`);
        rmSync(path, { recursive: true, force: true });
        if (kind === 'd') mkdirSync(path);
        else writeFileSync(path, '');
        chmodSync(path, mode);
        return path;
      }),
    );
    execFileSync('sh', ['-c', 'umask 0; exec chmod "$@"', 'sh', '--', change, ...paths]);
    return paths.map((path) => lstatSync(path).mode & 0o7777);
  }

  function byKiln(change: string): number[] {
    const parsed = ModeChange.parse(change);
    assert.ok(parsed, change);
    return [false, true].flatMap((isDirectory) => modes.map((mode) => parsed.apply(mode, isDirectory)));
  }

  /** Permissions alone: of set-id and sticky bits, GNU's chmod keeps more than BSD's, which is BuildKit's measure. */
  const octal = (list: readonly number[]): string => list.map((mode) => (mode & 0o777).toString(8)).join(' ');

  test('changes modes as chmod does', () => {
    for (const change of [
      ...['+x', 'go-w', 'u=rw,g=r,o=r', 'a+X', 'u+rw,g+r,o-x,o+w', 'u=rwX,go=rX', 'g=u', 'o=g-w', 'u-s'],
      ...['a=', '=r', '+t', 'u+s,g+s', 'go=u-w', 'ug+x,o=', '-X', 'u=g,g=o', 'a+rwxst'],
    ])
      assert.equal(octal(byKiln(change)), octal(byProgram(change)), change);
  });

  test('changes modes as chmod does, whatever the change', (context) => {
    const seed = Number(process.env.KILN_TEST_SEED ?? Date.now() % 1_000_000);
    context.diagnostic(`seed ${seed}`);
    const random = new SeededRandom(seed);
    for (let round = 0; round < 40; round++) {
      const count = 1 + random.below(3);
      // X asks whether the file was executable; GNU's chmod asks that of what earlier clauses made of it.
      const permissions = [
        'r',
        'w',
        'x',
        'rw',
        'rwx',
        '',
        'u',
        'g',
        'o',
        ...(count === 1 ? ['X', 'rX'] : []),
      ];
      const clause = (): string =>
        random.pick(['u', 'g', 'o', 'a', 'ug', 'go', 'uo', 'ugo']) +
        random.pick(['+', '-', '=']) +
        random.pick(permissions);
      const change = Array.from({ length: count }, clause).join(',');
      assert.equal(octal(byKiln(change)), octal(byProgram(change)), `${change} (seed ${seed})`);
    }
  });

  test('sets and clears set-id and sticky bits with their class', () => {
    for (const [change, before, after] of [
      ['u+s', 0o755, 0o4755],
      ['g+s', 0o755, 0o2755],
      ['+s', 0o755, 0o6755],
      ['o+s', 0o755, 0o755],
      ['u=rwx', 0o6755, 0o2755],
      ['g=rx', 0o6755, 0o4755],
      ['a=rx', 0o7755, 0o1555],
      ['-s', 0o7755, 0o1755],
      ['+t', 0o755, 0o1755],
      ['o+t', 0o755, 0o755],
      ['-t', 0o1755, 0o755],
      ['go-w', 0o7777, 0o7755],
    ] as const)
      assert.equal(ModeChange.parse(change)?.apply(before, true), after, change);
  });

  test('refuses what chmod refuses', () => {
    for (const change of ['', 'u', 'x', 'u+rw,', ',u+r', 'z+r', 'u+q', '64a', 'u r'])
      assert.equal(ModeChange.parse(change), undefined, change);
  });

  test('counts for everything copied, and not for the directories made for it', async () => {
    plant(source, { 'tree/plain': '', 'tree/program': '', 'tree/sub/x': '' });
    chmodSync(join(source, 'tree/program'), 0o700);
    chmodSync(join(source, 'tree/sub'), 0o2700);
    const files = [{ name: 'doc', content: '' }];
    const request = copyRequest(source, { from: ['tree'], files, to: '/a/b/', chmod: 'u=rwX,go=rX' });
    await copyInto(root, request);
    assert.deepEqual(listTree(root, '%P %m'), [
      ...[
        'a 755',
        'a/b 755',
        'a/b/doc 644',
        'a/b/plain 644',
        'a/b/program 755',
        'a/b/sub 755',
        'a/b/sub/x 644',
      ],
    ]);
  });
});
