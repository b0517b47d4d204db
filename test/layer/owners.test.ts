import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, lstatSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { extractTar, unpackLayer } from '../../src/layer/index.ts';
import { temporaryDirectory } from '../support/programs.ts';

/** `mode uid:gid` of a path itself. */
function attributes(path: string): string {
  const { mode, uid, gid } = lstatSync(path);
  return `${(mode & 0o7777).toString(8)} ${uid}:${gid}`;
}

describe('an unpacked layer', () => {
  test('has the owners of its archive in directories that give their group to what is made in them', async () => {
    await using scratch = await temporaryDirectory();
    const tree = join(scratch.path, 'tree');
    mkdirSync(join(tree, 'local/sub'), { recursive: true });
    writeFileSync(join(tree, 'local/file'), 'x');
    writeFileSync(join(tree, 'local/other'), 'x');
    symlinkSync('file', join(tree, 'local/link'));
    chownSync(join(tree, 'local'), 0, 50);
    chmodSync(join(tree, 'local'), 0o2775);
    chownSync(join(tree, 'local/other'), 0, 77);
    chmodSync(join(tree, 'local/other'), 0o2755);
    const file = join(scratch.path, 'layer.tar.gz');
    execFileSync('tar', ['-C', tree, '--numeric-owner', '-czf', file, '.']);
    const out = join(scratch.path, 'out');
    mkdirSync(out);
    await unpackLayer({ file, compression: 'gzip' }, out);
    for (const path of ['local', 'local/sub', 'local/file', 'local/other', 'local/link'])
      assert.equal(attributes(join(out, path)), attributes(join(tree, path)), path);
    assert.equal(attributes(join(out, 'local')), '2775 0:50');
    assert.equal(attributes(join(out, 'local/file')), '644 0:0');
  });

  test("has root's directories where its archive describes none, whatever umask and group are", async () => {
    await using scratch = await temporaryDirectory();
    mkdirSync(join(scratch.path, 'tree/srv/made/up'), { recursive: true });
    writeFileSync(join(scratch.path, 'tree/srv/made/up/file'), 'x');
    const file = join(scratch.path, 'add.tar');
    execFileSync('tar', ['-C', join(scratch.path, 'tree'), '-cf', file, 'srv/made/up/file']);
    const root = join(scratch.path, 'root');
    mkdirSync(join(root, 'srv'), { recursive: true });
    chownSync(join(root, 'srv'), 0, 50);
    chmodSync(join(root, 'srv'), 0o2775);
    const before = process.umask(0o077);
    try {
      await extractTar(file, root, '/');
    } finally {
      process.umask(before);
    }
    for (const path of ['srv/made', 'srv/made/up'])
      assert.equal(attributes(join(root, path)), '755 0:0', path);
    assert.equal(attributes(join(root, 'srv/made/up/file')), '644 0:0');
    assert.equal(attributes(join(root, 'srv')), '2775 0:50');
  });
});
