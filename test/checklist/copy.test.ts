import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { copyInto } from '../../executor/context/index.ts';
import { getXattr, makeNode, setTimes, setXattr } from '../../src/os/index.ts';
import { type Copy, copyRequest } from '../support/copies.ts';
import { listTree, plant, rawSocketCapability } from '../support/trees.ts';

/*
 * COPY and ADD on a directory, without a build around them. What BuildKit does is the measure: its Dockerfile reference
 * ("COPY", "ADD") and its own tests.
 */

let scratch = '';
let source = '';
let root = '';
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'kiln-copy-'));
  source = join(scratch, 'source');
  root = join(scratch, 'root');
  for (const directory of [source, root]) mkdirSync(directory);
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

const copy = (request: Copy): Promise<string> => copyInto(root, copyRequest(source, request));
const add = (request: Copy): Promise<string> => copy({ ...request, add: true });
const inRoot = (path: string): string => join(root, path);
const inSource = (path: string): string => join(source, path);
const read = (path: string): string => readFileSync(inRoot(path), 'utf8');
const mode = (path: string): string => (lstatSync(inRoot(path)).mode & 0o7777).toString(8);

describe('directories that a copy makes', () => {
  test('as its destination belong to root with mode 755, whatever the source directory is', async () => {
    plant(source, { 'dir/sub/file': '' });
    chmodSync(inSource('dir'), 0o700);
    chownSync(inSource('dir'), 100, 200);
    chmodSync(inSource('dir/sub'), 0o711);
    chownSync(inSource('dir/sub'), 101, 201);
    await copy({ from: ['dir'], to: '/new', keepOwners: true });
    assert.deepEqual(listTree(root), ['new d 755 0:0', 'new/sub d 711 101:201', 'new/sub/file f 644 0:0']);
  });

  test('as its destination have the owner of --chown and the mode of --chmod', async () => {
    plant(source, { 'dir/file': '' });
    await copy({ from: ['dir'], to: '/a/b', chown: '7:8', chmod: 0o750 });
    assert.deepEqual(listTree(root), ['a d 750 7:8', 'a/b d 750 7:8', 'a/b/file f 750 7:8']);
  });

  test('as parents of a file are like those of a directory', async () => {
    plant(source, { file: '' });
    await copy({ from: ['file'], to: '/plain/sub/file' });
    await copy({ from: ['file'], to: '/owned/sub/', chown: '7:8' });
    await copy({ from: ['file'], to: '/modes/sub/file', chmod: 0o777 });
    await copy({
      from: [],
      files: [{ name: 'EOF', content: 'x' }],
      to: '/here/doc',
      chown: '7:8',
      chmod: 0o700,
    });
    assert.deepEqual(listTree(root), [
      'here d 700 7:8',
      'here/doc f 700 7:8',
      'modes d 777 0:0',
      'modes/sub d 777 0:0',
      'modes/sub/file f 777 0:0',
      'owned d 755 7:8',
      'owned/sub d 755 7:8',
      'owned/sub/file f 644 7:8',
      'plain d 755 0:0',
      'plain/sub d 755 0:0',
      'plain/sub/file f 644 0:0',
    ]);
  });

  test('do not depend on the umask', async () => {
    plant(source, { 'dir/sub/file': '', other: '' });
    const before = process.umask(0o077);
    try {
      await copy({ from: ['dir'], to: '/a/b' });
      await copy({ from: ['other'], to: '/c/d/' });
      await copy({ from: [], files: [{ name: 'doc', content: '' }], to: '/e/' });
    } finally {
      process.umask(before);
    }
    const modes = listTree(root, '%y %m');
    assert.deepEqual([...new Set(modes)], ['d 755', 'f 644']);
  });

  test('that were there keep mode and owner; those below the destination take them from the source', async () => {
    plant(source, { 'dir/sub/new': '' });
    chmodSync(inSource('dir'), 0o700);
    chmodSync(inSource('dir/sub'), 0o750);
    plant(root, { 'there/sub/old': '', 'there/other/': '' });
    for (const [path, owner] of [
      ['there', 5],
      ['there/sub', 6],
      ['there/other', 7],
    ] as const) {
      chmodSync(inRoot(path), 0o1777);
      chownSync(inRoot(path), owner, owner);
    }
    await copy({ from: ['dir'], to: '/there' });
    assert.deepEqual(listTree(root), [
      'there d 1777 5:5',
      'there/other d 1777 7:7',
      'there/sub d 750 0:0',
      'there/sub/new f 644 0:0',
      'there/sub/old f 644 0:0',
    ]);
  });
});

describe('a copy onto something else', () => {
  for (const [what, make] of [
    ['a file', () => writeFileSync(inRoot('lib'), 'kept')],
    ['a link to a directory', () => symlinkSync('usr', inRoot('lib'))],
  ] as const)
    test(`is an error for a directory onto ${what}, which stays`, async () => {
      plant(source, { 'tree/lib/new': '' });
      plant(root, { 'usr/old': '' });
      make();
      const before = listTree(root);
      await assert.rejects(copy({ from: ['tree'], to: '/' }), {
        code: 'E_COPY_CONFLICT',
        where: 'Dockerfile:3',
        message: /\/lib/,
      });
      assert.deepEqual(listTree(root), before);
    });

  test('is an error for a file onto a directory of its name', async () => {
    plant(source, { 'tree/name': '' });
    plant(root, { 'name/kept': '' });
    await assert.rejects(copy({ from: ['tree'], to: '/' }), { code: 'E_COPY_CONFLICT', message: /\/name/ });
    assert.ok(existsSync(inRoot('name/kept')));
  });

  test('replaces files and links below a directory', async () => {
    plant(source, { 'tree/a': 'new', 'tree/b': 'new' });
    plant(root, { a: 'old', target: 'untouched' });
    symlinkSync('target', inRoot('b'));
    await copy({ from: ['tree'], to: '/' });
    assert.deepEqual([read('a'), read('b'), read('target')], ['new', 'new', 'untouched']);
    assert.ok(lstatSync(inRoot('b')).isFile());
  });

  test('writes through a link that is the destination itself, and never out of the tree', async () => {
    plant(source, { file: 'new' });
    plant(root, { 'real/file': 'old' });
    symlinkSync('real/file', inRoot('link'));
    symlinkSync('/made/here', inRoot('dangling'));
    symlinkSync('../../../../escape/dir', inRoot('outwards'));
    await copy({ from: ['file'], to: '/link' });
    await copy({ from: ['file'], to: '/dangling' });
    await copy({ from: ['file'], to: '/outwards/' });
    assert.deepEqual([read('real/file'), read('made/here'), read('escape/dir/file')], ['new', 'new', 'new']);
    assert.equal(readlinkSync(inRoot('link')), 'real/file');
    assert.deepEqual(existsSync(join(scratch, 'escape')), false);
  });
});

describe('links that a copy meets', () => {
  test('are followed where they are named, keep their own name, and are kept below a directory', async () => {
    plant(source, { bar: 'bar', 'sub/file': 'file', 'sub/second': 'second' });
    symlinkSync('bar', inSource('foo'));
    symlinkSync('second', inSource('sub/link'));
    symlinkSync('link', inSource('sub/lonk'));
    symlinkSync('sub', inSource('directory'));
    await copy({ from: ['foo'], to: '/' });
    await copy({ from: ['sub/l*'], to: '/wild/' });
    await copy({ from: ['directory/file'], to: '/through' });
    await copy({ from: ['sub'], to: '/kept' });
    assert.deepEqual(listTree(root, '%P %y %l'), [
      'foo f ',
      'kept d ',
      'kept/file f ',
      'kept/link l second',
      'kept/lonk l link',
      'kept/second f ',
      'through f ',
      'wild d ',
      'wild/link f ',
      'wild/lonk f ',
    ]);
    assert.deepEqual([read('foo'), read('wild/lonk'), read('through')], ['bar', 'second', 'file']);
  });

  test('stay as they are when they dangle, lead out, or are copied again (O926)', async () => {
    plant(source, { 'tree/': '' });
    symlinkSync('../nowhere', inSource('tree/dangling'));
    symlinkSync('/etc/passwd', inSource('tree/absolute'));
    for (let round = 0; round < 3; round++) await copy({ from: ['tree'], to: '/to/' });
    assert.deepEqual(listTree(root, '%P %y %l'), [
      'to d ',
      'to/absolute l /etc/passwd',
      'to/dangling l ../nowhere',
    ]);
  });

  test('that are hard stay hard (G1743 G2594)', async () => {
    plant(source, { 'tree/a': 'shared', 'tree/sub/z': '' });
    rmSync(inSource('tree/sub/z'));
    linkSync(inSource('tree/a'), inSource('tree/sub/b'));
    linkSync(inSource('tree/a'), inSource('c'));
    await copy({ from: ['tree', 'c'], to: '/to/', chown: '7:8' });
    const inodes = ['to/a', 'to/sub/b', 'to/c'].map((path) => lstatSync(inRoot(path)).ino);
    assert.equal(new Set(inodes).size, 1);
    assert.equal(lstatSync(inRoot('to/a')).uid, 7);
  });

  test('that are hard are not made to a file that has replaced their target meanwhile', async () => {
    plant(source, { 'one/name': 'first', 'two/name': 'second' });
    linkSync(inSource('one/name'), inSource('three'));
    await copy({ from: ['one/name', 'two/name', 'three'], to: '/to/' });
    assert.deepEqual([read('to/name'), read('to/three')], ['second', 'first']);
  });
});

describe('owners, modes and attributes', () => {
  test('of the context are root’s; those of a stage are kept', async () => {
    plant(source, { 'tree/file': '' });
    chownSync(inSource('tree/file'), 12, 34);
    symlinkSync('file', inSource('tree/link'));
    execFileSync('chown', ['-h', '56:78', inSource('tree/link')]);
    await copy({ from: ['tree'], to: '/context' });
    await copy({ from: ['tree'], to: '/stage', keepOwners: true });
    assert.deepEqual(listTree(root, '%P %U:%G'), [
      'context 0:0',
      'context/file 0:0',
      'context/link 0:0',
      'stage 0:0',
      'stage/file 12:34',
      'stage/link 56:78',
    ]);
  });

  test('survive --chown: capabilities (G1851 BA3294), setuid, setgid and sticky bits', async () => {
    plant(source, { 'tree/tool': '', 'tree/sticky/': '' });
    chmodSync(inSource('tree/tool'), 0o6755);
    chmodSync(inSource('tree/sticky'), 0o3777);
    setXattr(inSource('tree/tool'), 'security.capability', rawSocketCapability);
    for (const [to, chown] of [
      ['/owned', '7:8'],
      ['/plain', undefined],
    ] as const) {
      await copy({ from: ['tree'], to, ...(chown === undefined ? {} : { chown }) });
      assert.equal(mode(`${to}/tool`), '6755');
      assert.equal(mode(`${to}/sticky`), '3777');
      assert.deepEqual(getXattr(inRoot(`${to}/tool`), 'security.capability'), rawSocketCapability);
    }
  });

  test('of a here-document are those of --chown and --chmod, setuid included', async () => {
    await copy({
      from: [],
      files: [
        { name: 'one', content: '1\n' },
        { name: 'two', content: '2\n' },
      ],
      to: '/to/',
      chown: '7:8',
      chmod: 0o4755,
    });
    assert.deepEqual(listTree(root).slice(1), ['to/one f 4755 7:8', 'to/two f 4755 7:8']);
    assert.equal(read('to/two'), '2\n');
  });

  test('of users: own attributes are kept, SELinux’s and overlayfs’ are not', async () => {
    plant(source, { file: '' });
    setXattr(inSource('file'), 'user.note', Buffer.from('kept'));
    setXattr(inSource('file'), 'user.overlay.opaque', Buffer.from('y'));
    setXattr(inSource('file'), 'security.selinux', Buffer.from('u:r:t:s0\0'));
    await copy({ from: ['file'], to: '/' });
    assert.equal(getXattr(inRoot('file'), 'user.note')?.toString(), 'kept');
    assert.equal(getXattr(inRoot('file'), 'user.overlay.opaque'), undefined);
    assert.equal(getXattr(inRoot('file'), 'security.selinux'), undefined);
  });

  test('names that --chown does not find are an error', async () => {
    plant(source, { file: '' });
    plant(root, { 'etc/passwd': 'app:x:12:34::/:/bin/sh\n', 'etc/group': 'team:x:56:\n' });
    await copy({ from: ['file'], to: '/name', chown: 'app' });
    await copy({ from: ['file'], to: '/both', chown: 'app:team' });
    await copy({ from: ['file'], to: '/number', chown: '99' });
    assert.deepEqual(
      ['name', 'both', 'number'].map((path) => [lstatSync(inRoot(path)).uid, lstatSync(inRoot(path)).gid]),
      [
        [12, 34],
        [12, 56],
        [99, 99],
      ],
    );
    for (const [chown, name] of [
      ['nobody-there', 'nobody-there'],
      ['app:no-team', 'no-team'],
    ] as const)
      await assert.rejects(copy({ from: ['file'], to: '/x', chown }), {
        code: 'E_USER_NOT_FOUND',
        where: 'Dockerfile:3',
        message: new RegExp(name),
      });
  });

  test('times have their nanoseconds', async () => {
    plant(source, { 'tree/file': '' });
    setTimes(inSource('tree/file'), 0n, 1_700_000_000_123_456_789n);
    await copy({ from: ['tree'], to: '/to' });
    assert.equal(lstatSync(inRoot('to/file'), { bigint: true }).mtimeNs, 1_700_000_000_123_456_789n);
  });
});

describe('what a copy takes', () => {
  test('has names that are no UTF-8, in directories and by wildcard', async () => {
    mkdirSync(inSource('tree'));
    for (const name of ['caf\xe9', 'plain'])
      writeFileSync(Buffer.from(`${source}/tree/${name}`, 'latin1'), name);
    symlinkSync(Buffer.from('caf\xe9', 'latin1'), Buffer.from(`${source}/tree/l\xefnk`, 'latin1'));
    await copy({ from: ['tree'], to: '/to' });
    await copy({ from: ['tree/ca*'], to: '/wild/' });
    assert.deepEqual(listTree(root, '%P %y %s %l'), [
      'to d 4096 ',
      'to/caf\\351 f 5 ',
      'to/l\\357nk l 4 caf\\351',
      'to/plain f 5 ',
      'wild d 4096 ',
      'wild/caf\\351 f 5 ',
    ]);
  });

  test('leaves out sockets, and has FIFOs and devices', async () => {
    plant(source, { 'tree/': '' });
    makeNode(inSource('tree/fifo'), 0o10640, 0, 0);
    makeNode(inSource('tree/null'), 0o20000, 1, 3);
    chmodSync(inSource('tree/null'), 0o666);
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(inSource('tree/socket'), resolve));
    await copy({ from: ['tree'], to: '/to' });
    await new Promise((resolve) => server.close(resolve));
    assert.deepEqual(listTree(root, '%P %y %m'), ['to d 755', 'to/fifo p 640', 'to/null c 666']);
  });

  test('may be nothing for a wildcard, but not for a name', async () => {
    plant(source, { foo: 'foo' });
    await copy({ from: ['foo', 'nomatch*'], to: '/to/' });
    await copy({ from: ['no/such/*', 'n?'], to: '/to/' });
    assert.deepEqual(listTree(root, '%P'), ['to', 'to/foo']);
    await assert.rejects(copy({ from: ['foo', 'bar'], to: '/to/' }), {
      code: 'E_COPY_SOURCE_NOT_FOUND',
      where: 'Dockerfile:3',
      message: /"bar"/,
    });
  });

  test('follows the rules of filepath.Match', async () => {
    plant(source, {
      'a.go': '',
      'b.go': '',
      'arr[0].txt': '',
      'sub/x/deep/f': '',
      'sub/y/f': '',
      '.hidden': '',
    });
    const matches = async (...patterns: string[]): Promise<string[]> => {
      rmSync(inRoot('to'), { recursive: true, force: true });
      await copy({ from: patterns, to: '/to/' });
      return listTree(root, '%P').slice(1);
    };
    assert.deepEqual(await matches('*.go'), ['to/a.go', 'to/b.go']);
    assert.deepEqual(await matches('[^a].go'), ['to/b.go']);
    assert.deepEqual(await matches('arr[[]0].txt'), ['to/arr[0].txt']);
    assert.deepEqual(await matches('sub/*'), ['to/deep', 'to/deep/f', 'to/f']);
    assert.deepEqual(await matches('sub/*/deep/f'), ['to/f']);
    assert.deepEqual(await matches('?.go', '.*'), ['to/.hidden', 'to/a.go', 'to/b.go']);
  });

  test('is never outside the context', async () => {
    writeFileSync(join(scratch, 'secret'), 'secret');
    symlinkSync('../secret', inSource('out'));
    symlinkSync(join(scratch, 'secret'), inSource('absolute'));
    for (const from of ['../secret', 'out', 'absolute', '/../secret'])
      await assert.rejects(copy({ from: [from], to: '/x' }), { code: 'E_COPY_SOURCE_NOT_FOUND' }, from);
    assert.deepEqual(listTree(root), []);
  });

  test('has no whiteout: a name that begins with .wh. is refused', async () => {
    plant(source, { 'tree/ok': '', 'tree/sub/.wh.gone': '', '.wh.dir/file': '', '.wh.file': '' });
    for (const request of [
      { from: ['tree'], to: '/to' },
      { from: ['.wh.file'], to: '/to/' },
      { from: ['.'], to: '/to' },
      { from: ['tree/ok'], to: '/.wh.renamed' },
      { from: ['tree/ok'], to: '/.wh.made/ok' },
      { from: [], files: [{ name: '.wh.doc', content: '' }], to: '/to/' },
    ])
      await assert.rejects(copy(request), {
        code: 'E_RESERVED_NAME',
        where: 'Dockerfile:3',
        message: /\.wh\./,
      });
  });

  test('may vanish while it is copied (G391)', async () => {
    plant(source, { 'packed/x': '', 'dir/a': '', 'dir/gone/deep': '', 'dir/z': '' });
    execFileSync('tar', ['-C', inSource('packed'), '-cf', inSource('t.tar'), '.']);
    // Unpacking the archive takes a while, after it is known what is to be copied.
    const copying = add({ from: ['t.tar', 'dir'], to: '/to/' });
    rmSync(inSource('dir/gone'), { recursive: true });
    await copying;
    assert.deepEqual(listTree(root, '%P'), ['to', 'to/a', 'to/x', 'to/z']);
  });

  test('is written whole over a longer file', async () => {
    plant(source, { file: 'short' });
    plant(root, { file: 'much longer than before' });
    await copy({ from: ['file'], to: '/file' });
    assert.equal(read('file'), 'short');
  });
});

describe('ADD of an archive', () => {
  const pack = (name: string, ...options: string[]): void =>
    void execFileSync('tar', [
      '-C',
      inSource('tree'),
      '--numeric-owner',
      ...options,
      '-cf',
      inSource(name),
      '.',
    ]);

  beforeEach(() => {
    plant(source, { 'tree/file': 'packed', 'tree/sub/deep': '' });
    chmodSync(inSource('tree'), 0o700);
    chownSync(inSource('tree/file'), 12, 34);
    chmodSync(inSource('tree/file'), 0o4711);
  });

  test('unpacks every compression, by content and not by name', async () => {
    for (const [name, ...options] of [
      ['plain.tar'],
      ['gzip.tgz', '-z'],
      ['bzip2.bin', '-j'],
      ['xz.tar.xz', '-J'],
      ['zstd', '--zstd'],
    ] as const) {
      pack(name, ...options);
      await add({ from: [name], to: `/${name}` });
      assert.equal(read(`${name}/file`), 'packed', name);
      assert.equal(mode(`${name}/file`), '4711', name);
      assert.equal(lstatSync(inRoot(`${name}/file`)).uid, 12, name);
    }
  });

  test('leaves the mode, owner and content of its destination alone (O842)', async () => {
    pack('t.tar');
    plant(root, { 'there/kept': '' });
    chmodSync(inRoot('there'), 0o1777);
    chownSync(inRoot('there'), 5, 6);
    chmodSync(root, 0o711);
    await add({ from: ['t.tar'], to: '/there' });
    await add({ from: ['t.tar'], to: '/' });
    assert.deepEqual([mode('there'), lstatSync(inRoot('there')).gid, mode('')], ['1777', 6, '711']);
    assert.ok(existsSync(inRoot('there/kept')));
  });

  test('gives everything in it to the user of --chown', async () => {
    pack('t.tar');
    await add({ from: ['t.tar'], to: '/to/', chown: '100:200' });
    assert.deepEqual(listTree(root), [
      'to d 755 100:200',
      'to/file f 4711 100:200',
      'to/sub d 755 100:200',
      'to/sub/deep f 644 100:200',
    ]);
  });

  test('follows links of the image without leaving it, and unpacks several', async () => {
    pack('one.tar');
    plant(source, { 'tree/two': '' });
    pack('two.tar');
    symlinkSync('/real/place', inRoot('link'));
    await add({ from: ['*.tar'], to: '/link' });
    assert.ok(existsSync(inRoot('real/place/two')));
    assert.deepEqual(statSync(inRoot('real/place/file')).size, 6);
  });

  test('copies what is none, and COPY copies what is one', async () => {
    plant(source, { text: 'just text', 'false.tar.gz': 'not gzip' });
    pack('t.tar');
    await add({ from: ['text', 'false.tar.gz'], to: '/to/' });
    await copy({ from: ['t.tar'], to: '/to/' });
    assert.deepEqual(listTree(root, '%P %y'), ['to d', 'to/false.tar.gz f', 'to/t.tar f', 'to/text f']);
  });

  test('unpacks sparse files as other tools pack them', async () => {
    const holes = inSource('tree/holes');
    execFileSync('truncate', ['-s', '9M', holes]);
    // More pieces than one header holds in any format.
    const fd = openSync(holes, 'r+');
    for (let piece = 0; piece < 40; piece++) writeSync(fd, `piece ${piece}`, piece * 200_000);
    closeSync(fd);
    execFileSync('truncate', ['-s', '1M', inSource('tree/nothing')]);
    for (const [name, ...options] of [
      ['gnu.tar', '--format=gnu'],
      ['pax-0.0.tar', '--format=pax', '--sparse-version=0.0'],
      ['pax-0.1.tar', '--format=pax', '--sparse-version=0.1'],
      ['pax-1.0.tar', '--format=pax', '--sparse-version=1.0'],
    ] as const) {
      pack(name, '--sparse', ...options);
      await add({ from: [name], to: `/${name}` });
      assert.ok(
        readFileSync(inRoot(`${name}/holes`)).equals(readFileSync(holes)),
        `${name} gives the same content`,
      );
      assert.ok(lstatSync(inRoot(`${name}/holes`)).blocks < 4000, 'and the holes stay holes');
      assert.equal(lstatSync(inRoot(`${name}/nothing`)).size, 1 << 20);
      assert.equal(read(`${name}/file`), 'packed');
    }
  });

  test('that is damaged says so', async () => {
    pack('t.tar');
    writeFileSync(inSource('cut.tar'), readFileSync(inSource('t.tar')).subarray(0, 1200));
    await assert.rejects(add({ from: ['cut.tar'], to: '/to' }), {
      code: 'E_TAR_MALFORMED',
      category: 'build',
    });
  });
});
