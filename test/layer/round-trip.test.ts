import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { unpackLayer, writeLayer } from '../../src/layer/index.ts';
import { getXattr, makeNode, setTimes, setXattr } from '../../src/os/index.ts';
import { plant } from '../support/trees.ts';

let scratch = '';
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'kiln-layer-'));
  for (const name of ['upper', 'lower', 'out']) mkdirSync(join(scratch, name));
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

const upper = (path: string): string => join(scratch, 'upper', path);
const lower = (path: string): string => join(scratch, 'lower', path);
const write = (options: { clampTime?: number; mountPoints?: string[]; compression?: 'gzip' | 'zstd' } = {}) =>
  writeLayer({
    upper: upper(''),
    lowers: [lower('')],
    output: join(scratch, 'layer'),
    compression: 'gzip',
    ...options,
  });
const list = (): string[] =>
  execFileSync('tar', ['-tzf', join(scratch, 'layer')], { encoding: 'utf8' })
    .trim()
    .split('\n');

const bindSocket = 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])';

describe('a layer written from an overlayfs upper directory', () => {
  test('unpacks to the same tree, links, modes, times and attributes', async () => {
    mkdirSync(upper('dir/long'.repeat(12).slice(0, 90)), { recursive: true });
    const long = upper(`dir/${'n'.repeat(200)}`);
    mkdirSync(upper('dir'), { recursive: true });
    writeFileSync(long, 'long');
    writeFileSync(upper('dir/file'), 'content');
    chownSync(upper('dir/file'), 1234, 5678);
    chmodSync(upper('dir/file'), 0o4755);
    setXattr(
      upper('dir/file'),
      'security.capability',
      Buffer.from('0100000200040000000000000000000000000000', 'hex'),
    );
    setTimes(upper('dir/file'), 0n, 1_700_000_000_123_456_789n);
    linkSync(upper('dir/file'), upper('zlink'));
    symlinkSync('../nowhere', upper('dangling'));
    makeNode(upper('fifo'), 0o10640, 0, 0);
    makeNode(upper('null'), 0o20666, 1, 3);
    chmodSync(upper('dir'), 0o1777);
    setTimes(upper('dir'), 0n, 1_600_000_000_000_000_001n);

    for (const compression of ['gzip', 'zstd'] as const) {
      const facts = await write({ compression });
      assert.ok(facts);
      const target = join(scratch, 'out');
      const result = await unpackLayer({ file: join(scratch, 'layer'), compression }, target, {
        expectedDiffID: facts.diffID,
      });
      assert.equal(result.diffID, facts.diffID);
      const describeTree = (root: string): string =>
        execFileSync('find', [root, '-mindepth', '1', '-printf', '%P %y %m %U %G %l %T@ %n\n'], {
          encoding: 'utf8',
        })
          .split('\n')
          .sort()
          .join('\n');
      assert.equal(describeTree(target), describeTree(upper('')));
      assert.ok(getXattr(join(target, 'zlink'), 'security.capability'));
      assert.equal(lstatSync(join(target, 'dir/file')).ino, lstatSync(join(target, 'zlink')).ino);
      rmSync(target, { recursive: true });
      mkdirSync(target);
      rmSync(join(scratch, 'layer'));
    }
  });

  test('is the same bytes whatever the order of creation', async () => {
    writeFileSync(upper('b'), 'b');
    writeFileSync(upper('a'), 'a');
    for (const name of ['a', 'b']) setTimes(upper(name), 0n, 5n);
    const first = await write();
    rmSync(join(scratch, 'layer'));
    rmSync(upper('a'));
    writeFileSync(upper('a'), 'a');
    setTimes(upper('a'), 9n, 5n);
    assert.deepEqual(await write(), first);
  });

  test('leaves out what was only copied up, and keeps a same-size rewrite with a restored time', async () => {
    for (const root of [lower, upper]) {
      mkdirSync(root('kept'));
      writeFileSync(root('kept/same'), 'one');
      setTimes(root('kept/same'), 0n, 7n);
      writeFileSync(root('rewritten'), root === lower ? 'one' : 'two');
      setTimes(root('rewritten'), 0n, 7n);
      setTimes(root('kept'), 0n, 7n);
    }
    await write();
    assert.deepEqual(list(), ['rewritten']);
  });

  test('is none when nothing changed', async () => {
    assert.equal(await write(), undefined);
    mkdirSync(lower('dir'));
    setTimes(lower('dir'), 0n, 3n);
    mkdirSync(upper('dir'));
    setTimes(upper('dir'), 0n, 3n);
    assert.equal(await write(), undefined);
  });

  test('has whiteouts only for names that the layers below have', async () => {
    writeFileSync(lower('gone'), '');
    for (const name of ['gone', 'never']) makeNode(upper(name), 0o20000, 0, 0);
    await write();
    assert.deepEqual(list(), ['.wh.gone']);
  });

  test('has no sockets, but a whiteout where one stands in place of a file', async () => {
    plant(lower(''), { replaced: '' });
    for (const name of ['new', 'replaced']) execFileSync('python3', ['-c', bindSocket, upper(name)]);
    await write();
    assert.deepEqual(list(), ['.wh.replaced']);
  });

  test('has the root directory when its mode or owner changed, and only then', async () => {
    writeFileSync(upper('file'), '');
    chmodSync(upper(''), 0o700);
    await write();
    assert.deepEqual(list(), ['./', 'file']);
    await unpackLayer({ file: join(scratch, 'layer'), compression: 'gzip' }, join(scratch, 'out'));
    assert.equal(lstatSync(join(scratch, 'out')).mode & 0o7777, 0o700);
    rmSync(join(scratch, 'layer'));
    chmodSync(lower(''), 0o700);
    await write();
    assert.deepEqual(list(), ['file']);
  });

  test('marks a replaced directory as opaque, and unpacks the mark for overlayfs', async () => {
    mkdirSync(lower('dir'));
    writeFileSync(lower('dir/old'), '');
    mkdirSync(upper('dir'));
    writeFileSync(upper('dir/new'), '');
    setXattr(upper('dir'), 'trusted.overlay.opaque', Buffer.from('y'));
    await write();
    assert.deepEqual(list(), ['dir/', 'dir/.wh..wh..opq', 'dir/new']);
    await unpackLayer({ file: join(scratch, 'layer'), compression: 'gzip' }, join(scratch, 'out'));
    assert.deepEqual(readdirSync(join(scratch, 'out/dir')), ['new']);
    assert.equal(getXattr(join(scratch, 'out/dir'), 'trusted.overlay.opaque')?.toString(), 'y');
  });

  test('leaves out empty mount points but keeps those with content', async () => {
    for (const name of ['proc', 'sys']) mkdirSync(upper(name));
    writeFileSync(upper('sys/file'), '');
    await write({ mountPoints: ['/proc', '/sys'] });
    assert.deepEqual(list(), ['sys/', 'sys/file']);
  });

  test('refuses a file whose name is a whiteout', async () => {
    writeFileSync(upper('.wh.x'), '');
    await assert.rejects(write(), { code: 'E_RESERVED_NAME' });
    assert.deepEqual(readdirSync(scratch).includes('layer'), false);
  });

  test('has no time later than asked for', async () => {
    writeFileSync(upper('new'), '');
    await write({ clampTime: 1000 });
    assert.match(
      execFileSync('tar', ['--utc', '-tvzf', join(scratch, 'layer')], { encoding: 'utf8' }),
      /1970-01-01 00:16 new/,
    );
  });
});
