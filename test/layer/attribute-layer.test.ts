import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import {
  applyLayer,
  type LayerSource,
  makeAttributeLayer,
  Territory,
  unpackLayer,
  type UnpackedTree,
  writeLayer,
} from '../../src/layer/index.ts';
import { digestOf, type DiffID } from '../../src/oci/index.ts';
import { mount, unmount } from '../../src/os/index.ts';
import { listTree } from '../support/tree-lines.ts';

/** What each layer has: a script that makes it, and the names that are put into its archive, in order. */
const layers: readonly (readonly [script: string, names: string])[] = [
  [
    `mkdir -p sticky deep/er/est gone again opaque noted; echo x > gone/x; echo x > again/x; echo x > opaque/x
     chmod 1777 sticky; chown 12:34 deep/er; chmod 2750 deep/er; chmod 700 . again opaque; setfattr -n user.note -v x noted`,
    '.',
  ],
  // None of the directories is among the names.
  [
    `mkdir -p sticky/made deep/er noted; echo 1 > sticky/made/one; echo 1 > deep/er/one; echo 1 > noted/one`,
    'sticky/made/one deep/er/one noted/one',
  ],
  ['mkdir sticky deep; chmod 711 deep; echo 2 > sticky/two', 'deep sticky/two'],
  [
    'touch .wh.gone .wh.again; mkdir opaque again; touch opaque/.wh..wh..opq again/new; mkdir -p sticky/made; touch sticky/made/.wh.one',
    '.wh.gone .wh.again opaque/.wh..wh..opq again/new sticky/made/.wh.one',
  ],
];

describe('a layer that has things in directories which it does not describe', () => {
  let scratch = '';
  const archives: LayerSource[] = [];
  const trees: LayerSource[] = [];
  before(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'kiln-attributes-'));
    for (const [index, [script, names]] of layers.entries()) {
      const root = join(scratch, `source-${index}`);
      mkdirSync(root);
      execFileSync('sh', ['-ec', script], { cwd: root });
      const times = 'find . -exec touch -h -d 2020-01-01T00:00:00 {} +';
      const file = join(scratch, `${index}.tar`);
      const archive = `tar --no-recursion --numeric-owner --xattrs --xattrs-include='user.*' -cf ${file}`;
      const all = names === '.' ? '$(find .)' : names;
      execFileSync('sh', ['-ec', `${times}; ${archive} ${all}`], { cwd: root });
      const source = {
        kind: 'archive',
        diffID: digestOf(readFileSync(file)) as string as DiffID,
        file,
        compression: 'none',
      } as const;
      archives.push(source);
      const path = join(scratch, `tree-${index}`);
      mkdirSync(path, { mode: 0o755 });
      const { opaque, implied } = await unpackLayer(source, path);
      trees.push({ kind: 'directory', diffID: source.diffID, path, opaque, implied });
    }
  });
  after(() => rmSync(scratch, { recursive: true, force: true }));

  /** Directories with their modes, owners and attributes; of those that the first layer describes also the times. */
  const listed = (root: string): string[] => {
    const known = /^\/(?:sticky|deep|deep\/er|deep\/er\/est|noted|opaque) /;
    const { mode, uid } = JSON.parse(
      execFileSync('stat', ['-c', '{"mode":"%a","uid":%u}', root], { encoding: 'utf8' }),
    ) as { mode: string; uid: number };
    return [
      `/ ${mode} ${uid}`,
      ...listTree(root).map((line) => (known.test(line) ? line : line.replace(/ [0-9]+$/, ''))),
    ];
  };

  async function applied(sources: readonly LayerSource[]): Promise<string[]> {
    const territory = new Territory({ root: mkdtempSync(join(scratch, 'applied-')) });
    for (const source of sources) await applyLayer(territory, source);
    return listed(territory.root);
  }

  const stack = (): UnpackedTree[] =>
    trees.map((tree) => {
      assert.ok(tree.kind === 'directory');
      return tree;
    });

  /** Does something in an overlay of directories, lowest first. @returns its upper directory. */
  function onOverlay(lowers: readonly string[], action: (merged: string) => void): string {
    const space = mkdtempSync(join(scratch, 'overlay-'));
    const [upper, work, merged] = ['upper', 'work', 'merged'].map((name) => join(space, name)) as [
      ...[string, string, string],
    ];
    for (const name of [upper, work, merged]) mkdirSync(name);
    // The root has the attributes of the upper directory, as the executor makes it.
    execFileSync('chmod', ['--reference', lowers.at(-1) ?? '', upper]);
    const data = `lowerdir=${[...lowers].reverse().join(':')},upperdir=${upper},workdir=${work},redirect_dir=off,metacopy=off,index=off`;
    mount('overlay', merged, 'overlay', 0, data);
    try {
      action(merged);
    } finally {
      unmount(merged, { detach: true });
    }
    return upper;
  }

  /** What umoci makes of the layers. */
  function byUmoci(): string[] {
    const layout = join(scratch, 'layout');
    const umoci = (...args: string[]): Buffer => execFileSync('umoci', args, { stdio: 'pipe' });
    umoci('init', '--layout', layout);
    umoci('new', '--image', `${layout}:x`);
    for (const source of archives) {
      assert.ok(source.kind === 'archive');
      umoci('raw', 'add-layer', '--image', `${layout}:x`, source.file);
    }
    umoci('raw', 'unpack', '--image', `${layout}:x`, join(scratch, 'by-umoci'));
    return listed(join(scratch, 'by-umoci'));
  }

  test('leaves them as the layers below have them, however it is applied', async () => {
    const expected = byUmoci();
    assert.ok(expected.some((line) => line.startsWith('/sticky 41777 0:0 ')));
    assert.ok(expected.some((line) => line.startsWith('/deep/er 42750 12:34 ')));
    // umoci gives a directory back its time when it makes a file in it, but not when it makes a directory for one.
    const sticky = '/sticky 41777 0:0 1577836800000000000';
    expected[expected.findIndex((line) => line.startsWith('/sticky '))] = sticky;
    assert.deepEqual(await applied(archives), expected);
    assert.deepEqual(await applied(trees), expected);
    const attributes = join(scratch, 'attributes');
    assert.equal(makeAttributeLayer(stack(), attributes), true);
    onOverlay([...stack().map(({ path }) => path), attributes], (merged) => {
      assert.deepEqual(listed(merged), expected);
    });
  });

  test('does not make these attributes a change of a step', async () => {
    const attributes = join(scratch, 'attributes-again');
    makeAttributeLayer(stack(), attributes);
    const lowers = [...stack().map(({ path }) => path), attributes];
    // Copied up, and as they were.
    const upper = onOverlay(lowers, (merged) =>
      execFileSync('sh', ['-ec', 'chmod 1777 sticky; chown 12:34 deep/er; chmod 2750 deep/er; chmod 700 .'], {
        cwd: merged,
      }),
    );
    const output = join(scratch, 'step.tar.gz');
    const request = { upper, lowers: lowers.toReversed(), output, compression: 'gzip' } as const;
    assert.equal(await writeLayer(request), undefined);
  });

  test('needs no further directory where nothing is hidden', () => {
    const [lowest, second, third] = stack();
    assert.ok(lowest !== undefined && second !== undefined && third !== undefined);
    const target = join(scratch, 'none');
    assert.equal(makeAttributeLayer([lowest], target), false);
    assert.equal(makeAttributeLayer([second, { ...third, implied: [''] }], target), false);
    assert.deepEqual(second.implied, ['', 'deep', 'deep/er', 'noted', 'sticky', 'sticky/made']);
    assert.deepEqual(third.implied, ['', 'sticky']);
  });
});
