import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { applyLayer, type LayerSource, Territory, unpackLayer } from '../../src/layer/index.ts';
import { tarEnd, tarHeader, tarPadding } from '../../src/layer/tar-writer.ts';
import type { TarEntry } from '../../src/layer/tar-reader.ts';
import { digestOf, type DiffID } from '../../src/oci/index.ts';
import { mount, unmount } from '../../src/os/index.ts';
import { listTree } from '../support/tree-lines.ts';

let scratch = '';
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'kiln-apply-'));
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

interface Entry extends Partial<Pick<TarEntry, 'mode' | 'uid' | 'type' | 'major' | 'minor'>> {
  readonly path: string;
  readonly link?: string;
  readonly content?: string;
}

/** A directory for a name that ends in a slash, else a file. */
function tar(entries: readonly (Entry | string)[]): Buffer {
  const blocks = entries.flatMap((given) => {
    const entry: Entry = typeof given === 'string' ? { path: given } : given;
    const content = Buffer.from(entry.content ?? '');
    const directory = entry.path.endsWith('/');
    const header = tarHeader({
      path: Buffer.from(entry.path),
      link: Buffer.from(entry.link ?? ''),
      type: entry.type ?? (directory ? 'directory' : entry.link === undefined ? 'file' : 'symlink'),
      mode: entry.mode ?? (directory ? 0o755 : 0o644),
      uid: entry.uid ?? 0,
      gid: 0,
      size: content.length,
      modified: 1_600_000_000_000_000_000n,
      major: entry.major ?? 0,
      minor: entry.minor ?? 0,
      xattrs: new Map(),
    });
    return content.length === 0 ? [header] : [header, content, tarPadding(content.length)];
  });
  return Buffer.concat([...blocks, tarEnd]);
}

function archive(entries: readonly (Entry | string)[]): LayerSource {
  const bytes = tar(entries);
  const file = join(scratch, `${digestOf(bytes).slice(7, 19)}.tar`);
  writeFileSync(file, bytes);
  return { kind: 'archive', diffID: digestOf(bytes) as string as DiffID, file, compression: 'none' };
}

async function unpacked(source: LayerSource): Promise<LayerSource> {
  assert.ok(source.kind === 'archive');
  const path = mkdtempSync(join(scratch, 'layer-'));
  const { opaque, implied } = await unpackLayer(source, path);
  return { kind: 'directory', diffID: source.diffID, path, opaque, implied };
}

function newTree(): Territory {
  return new Territory({ root: mkdtempSync(join(scratch, 'tree-')) });
}

async function applied(layers: readonly LayerSource[], territory = newTree()): Promise<string[]> {
  for (const layer of layers) await applyLayer(territory, layer);
  return listTree(territory.root, { times: false });
}

/** What an overlay of the unpacked layers shows. */
function overlaid(layers: readonly LayerSource[]): string[] {
  const merged = mkdtempSync(join(scratch, 'merged-'));
  const lower = layers.map((layer) => (layer.kind === 'directory' ? layer.path : '')).reverse();
  mount('overlay', merged, 'overlay', 1, `lowerdir=${lower.join(':')}`);
  try {
    return listTree(merged, { times: false });
  } finally {
    unmount(merged, { detach: true });
  }
}

const base: (Entry | string)[] = [
  ...['a/', 'a/one', 'a/two', 'a/sub/', 'a/sub/deep', 'b/', 'b/file', 'real/', 'real/inside'],
  { path: 'link', link: 'real' },
  { path: 'file', content: 'base', mode: 0o4755, uid: 1000 },
  { path: 'again', link: 'file', type: 'hardlink' },
  { path: 'fifo', type: 'fifo' },
  { path: 'null', type: 'character', major: 1, minor: 3 },
];

const upper: Readonly<Record<string, readonly (Entry | string)[]>> = {
  'a file is added and one is changed': [{ path: 'file', content: 'changed' }, 'b/', 'b/new'],
  'a file and a directory are deleted': ['.wh.file', '.wh.a'],
  'a name is deleted that is not there': ['.wh.nothing'],
  'a directory is opaque': ['a/', 'a/.wh..wh..opq', 'a/new'],
  'a directory is opaque, said after what is in it': ['a/', 'a/new', 'a/sub/', 'a/sub/new', 'a/.wh..wh..opq'],
  'a directory is deleted and made again': ['.wh.a', 'a/', 'a/new'],
  'a directory is made again and deleted': ['a/', 'a/new', '.wh.a'],
  'a file is deleted and made again': ['.wh.file', { path: 'file', content: 'again' }],
  'a directory becomes a file, a file a directory': [{ path: 'a', content: 'x' }, 'file/', 'file/x'],
  'a directory becomes a link, a link a directory': [{ path: 'a', link: 'b' }, 'link/', 'link/x'],
  'something lies below what was a file': ['file/', 'file/below/', 'file/below/x'],
  'names of one file are changed': [
    { path: 'file', content: 'linked' },
    { path: 'b/' },
    { path: 'b/file', link: 'file', type: 'hardlink' },
  ],
  'a mode is changed': [
    { path: 'a/', mode: 0o1777 },
    { path: 'b/', mode: 0o700, uid: 5 },
  ],
};

describe('layers applied to a tree', () => {
  for (const [what, entries] of Object.entries(upper))
    test(`are what an overlay of them shows when ${what}`, async () => {
      const packed = [archive(base), archive(entries)];
      const directories = await Promise.all(packed.map(unpacked));
      const expected = overlaid(directories);
      assert.ok(expected.length > 5);
      assert.deepEqual(await applied(packed), expected);
      assert.deepEqual(await applied(directories), expected);
    });

  test('follow no link of a layer below, and replace it', async () => {
    for (const form of [archive, (entries: readonly (Entry | string)[]) => unpacked(archive(entries))]) {
      const tree = newTree();
      await applied([await form(base), await form(['link/x'])], tree);
      assert.ok(existsSync(join(tree.root, 'link/x')));
      assert.equal(existsSync(join(tree.root, 'real/x')), false);
    }
  });

  test('are refused when they are not what their image says', async () => {
    const layer = { ...archive(base), diffID: `sha256:${'0'.repeat(64)}` as DiffID };
    await assert.rejects(applied([layer]), { code: 'E_LAYER_CORRUPT' });
  });
});

describe('layers applied to a tree with paths of others', () => {
  let tree = '';
  let territory: Territory;
  beforeEach(() => {
    tree = mkdtempSync(join(scratch, 'container-'));
    execFileSync(
      'sh',
      [
        '-ec',
        'mkdir -p etc var/run/secrets/token work kiln/shadow; echo own | tee etc/hosts var/run/secrets/token/t work/w',
      ],
      { cwd: tree },
    );
    territory = new Territory({
      root: tree,
      exclusions: ['/etc/hosts', '/var/run/secrets/token', '/work', '/kiln'],
      shadow: join(tree, 'kiln/shadow'),
    });
    territory.prepare();
  });
  const own = (path: string): string => readFileSync(join(tree, path), 'utf8');

  const image: (Entry | string)[] = [
    ...['etc/', { path: 'etc/hosts', content: 'image' }, 'etc/passwd', 'run/', 'var/'],
    { path: 'var/run', link: '/run' },
    ...['work/', { path: 'work/w', content: 'image' }, 'kiln/', { path: 'kiln/x', content: 'image' }],
  ];

  for (const form of ['packed', 'unpacked'])
    test(`keep them, and what the image has there goes to the shadow (${form})`, async () => {
      const layer = form === 'packed' ? archive(image) : await unpacked(archive(image));
      await applyLayer(territory, layer);
      assert.deepEqual([own('etc/hosts'), own('work/w')], ['own\n', 'own\n']);
      const shadow = join(tree, 'kiln/shadow');
      for (const path of ['etc/hosts', 'work/w', 'kiln/x'])
        assert.equal(readFileSync(join(shadow, path), 'utf8'), 'image');
      // What lay in a directory that becomes a link is found through the link.
      assert.equal(own('run/secrets/token/t'), 'own\n');
      assert.equal(readFileSync(join(tree, 'run/secrets/token/t'), 'utf8'), 'own\n');
      assert.deepEqual(territory.relocations, [{ from: 'var/run/secrets', to: 'run/secrets' }]);
      assert.ok(territory.isExcluded('run/secrets/token/t'));
      assert.equal(territory.isExcluded('var/run/secrets/token/t'), false);
    });

  test('delete the rest of a directory that leads to one, and what is in the shadow', async () => {
    await applyLayer(territory, archive(image));
    await applyLayer(territory, archive(['.wh.etc', '.wh.work', '.wh.kiln']));
    assert.deepEqual([own('etc/hosts'), own('work/w')], ['own\n', 'own\n']);
    assert.equal(existsSync(join(tree, 'etc/passwd')), false);
    for (const path of ['etc/hosts', 'work', 'kiln'])
      assert.equal(existsSync(join(tree, 'kiln/shadow', path)), false, path);
  });

  test('say so when one is in the way', async () => {
    await assert.rejects(applyLayer(territory, archive([{ path: 'etc', content: 'a file' }])), {
      code: 'E_INPLACE_MOUNT',
      message: /\/etc\/hosts belongs to this container, and the image has something else at \/etc/,
    });
  });
});
