import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { unpackLayer } from '../../src/layer/index.ts';
import { tarEnd, tarHeader } from '../../src/layer/tar-writer.ts';
import type { TarEntry } from '../../src/layer/tar-reader.ts';

let scratch = '';
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'kiln-hostile-'));
  mkdirSync(join(scratch, 'root'));
  writeFileSync(join(scratch, 'outside'), 'untouched');
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

function entry(path: string, type: TarEntry['type'] = 'file', link = ''): Buffer {
  return tarHeader({
    path: Buffer.from(path),
    link: Buffer.from(link),
    type,
    mode: 0o644,
    uid: 0,
    gid: 0,
    size: 0,
    modified: 0n,
    major: 0,
    minor: 0,
    xattrs: new Map(),
  });
}

async function unpack(...entries: Buffer[]): Promise<void> {
  writeFileSync(join(scratch, 'layer.tar'), Buffer.concat([...entries, tarEnd]));
  await unpackLayer({ file: join(scratch, 'layer.tar'), compression: 'none' }, join(scratch, 'root'));
}

describe('a hostile layer', () => {
  for (const path of ['../outside2', 'a/../../outside2', '/../outside2'])
    test(`cannot write to ${path}`, async () => {
      await assert.rejects(unpack(entry(path)), { code: 'E_TAR_UNSAFE' });
      assert.equal(existsSync(join(scratch, 'outside2')), false);
    });

  test('with an absolute path stays inside', async () => {
    await unpack(entry('/etc/kiln-hostile'));
    assert.ok(existsSync(join(scratch, 'root/etc/kiln-hostile')));
    assert.equal(existsSync('/etc/kiln-hostile'), false);
  });

  test('cannot write through a link that leads out', async () => {
    await unpack(
      entry('link', 'symlink', '../'),
      entry('link/made'),
      entry('abs', 'symlink', scratch),
      entry('abs/made2'),
    );
    assert.equal(existsSync(join(scratch, 'made')), false);
    assert.equal(existsSync(join(scratch, 'made2')), false);
    assert.ok(existsSync(join(scratch, 'root/made')));
  });

  test('cannot write through a link in place of a file', async () => {
    await unpack(entry('link', 'symlink', '../outside'), entry('link'));
    assert.deepEqual(readdirSync(scratch).sort(), ['layer.tar', 'outside', 'root']);
  });

  test('cannot hard-link a file from outside', async () => {
    await assert.rejects(unpack(entry('hard', 'hardlink', '../outside')), { code: 'E_TAR_UNSAFE' });
    await assert.rejects(unpack(entry('d', 'symlink', '..'), entry('hard', 'hardlink', 'd/outside')), {
      code: 'E_TAR_UNSAFE',
    });
  });

  test('cannot loop through links for ever', async () => {
    await assert.rejects(unpack(entry('a', 'symlink', 'b'), entry('b', 'symlink', 'a'), entry('a/x')), {
      code: 'E_TAR_UNSAFE',
    });
  });

  test('cannot forge an overlayfs whiteout', async () => {
    await assert.rejects(unpack(entry('x', 'character')), { code: 'E_TAR_UNSAFE' });
  });

  test('cannot stand for a file of any size', async () => {
    execFileSync('truncate', ['-s', '1T', join(scratch, 'huge')]);
    for (const format of ['--format=gnu', '--format=pax']) {
      execFileSync('tar', ['-C', scratch, '--sparse', format, '-cf', join(scratch, 'layer.tar'), 'huge']);
      await assert.rejects(
        unpackLayer({ file: join(scratch, 'layer.tar'), compression: 'none' }, join(scratch, 'root')),
        { code: 'E_TAR_MALFORMED', message: /sparse/ },
      );
    }
  });

  test('that is cut, or damaged, is malformed', async () => {
    const good = entry('x');
    for (const bytes of [
      good.subarray(0, 300),
      Buffer.concat([good.subarray(0, 10), Buffer.from('!'), good.subarray(11)]),
    ]) {
      writeFileSync(join(scratch, 'bad.tar'), bytes);
      await assert.rejects(
        unpackLayer({ file: join(scratch, 'bad.tar'), compression: 'none' }, join(scratch, 'root')),
        { code: 'E_TAR_MALFORMED' },
      );
    }
  });

  test('whose content is not what the image says is refused', async () => {
    writeFileSync(join(scratch, 'layer.tar'), Buffer.concat([entry('x'), tarEnd]));
    const expectedDiffID = `sha256:${'0'.repeat(64)}` as never;
    await assert.rejects(
      unpackLayer({ file: join(scratch, 'layer.tar'), compression: 'none' }, join(scratch, 'root'), {
        expectedDiffID,
      }),
      { code: 'E_LAYER_CORRUPT' },
    );
  });
});
