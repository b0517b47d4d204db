import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import {
  captureLayer,
  clearUnchanged,
  type LayerSource,
  Territory,
  TreeChanges,
  TreeState,
  waitForLaterChanges,
  writeLayer,
} from '../../src/layer/index.ts';
import type { DiffID } from '../../src/oci/index.ts';
import { mount, unmount } from '../../src/os/index.ts';

/** A tree with something of every kind. Times are whole seconds of long ago, so that what is new shows. */
const baseScript = `
mkdir -p dir/sub empty sticky links 'non-utf8' full/deep
echo one > file; echo two > dir/two; echo three > dir/sub/three; echo deep > full/deep/file
ln -s dir link; ln -s nowhere dangling; ln -s file filelink
echo shared > links/a; ln links/a links/b; ln links/a links/c
mkfifo fifo; mknod null c 1 3
printf 'x' > "non-utf8/$(printf 'caf\\351')"
chmod 1777 sticky; chmod 4755 file; chown 1000:1000 dir/two
cp /bin/true tool; setcap cap_net_raw+ep tool
find . -depth -exec touch -h -d '2020-01-01T00:00:00' {} +
`;

/** What a step may do, and the names in its layer when it is one that a person can check. */
const steps: readonly (readonly [what: string, script: string, names?: readonly string[]])[] = [
  ['nothing', 'true', []],
  ['changes the mode of the root', 'chmod 700 .; touch x', ['./', 'x']],
  ['adds a file', 'echo new > dir/new', ['dir/', 'dir/new']],
  ['changes a file', 'echo more >> dir/sub/three', ['dir/', 'dir/sub/', 'dir/sub/three']],
  ['removes a file', 'rm dir/two', ['dir/', 'dir/.wh.two']],
  ['removes a directory', 'rm -r dir', ['.wh.dir']],
  ['removes a link and a fifo', 'rm link fifo', ['.wh.fifo', '.wh.link']],
  ['adds, removes and adds again', 'echo 1 > new; rm new; echo 2 > new', ['new']],
  ['adds and removes', 'echo 1 > empty/new; rm empty/new; touch -d 2020-01-01T00:00:00 empty', []],
  [
    'rewrites with the same size and time',
    'printf two > file; printf "\\n" >> file; chmod 4755 file; touch -d 2020-01-01T00:00:00 file',
    ['file'],
  ],
  [
    'rewrites with the same content',
    'cat file > /dev/null; echo one > file; chmod 4755 file; touch -d 2020-01-01T00:00:00 file',
    [],
  ],
  ['only changes a mode', 'chmod 600 dir/two', ['dir/', 'dir/two']],
  ['only changes an owner', 'chown 5:6 dir/two', ['dir/', 'dir/two']],
  ['only changes the owner of a link', 'chown -h 5:6 link', ['link']],
  ['only changes the mode of a directory', 'chmod 700 empty', ['empty/']],
  ['only sets a capability', 'setcap cap_chown+ep dir/sub/three', ['dir/', 'dir/sub/', 'dir/sub/three']],
  ['only takes a capability away', 'setcap -r tool', ['tool']],
  ['only changes a capability', 'setcap cap_chown+ep tool', ['tool']],
  ['only sets an attribute of a directory', 'setfattr -n user.note -v x empty', ['empty/']],
  ['only changes a time', 'touch -d 2021-01-01T00:00:00.123456789 dir/two', ['dir/', 'dir/two']],
  [
    'gives everything the owner and mode that it has',
    'chown -h --no-dereference -R 0:0 full empty; chmod 644 full/deep/file; chmod 755 empty',
    [],
  ],
  ['makes a directory a link', 'rm -r dir; ln -s full dir', ['dir']],
  ['makes a link a directory', 'rm link; mkdir link; echo x > link/x', ['link/', 'link/x']],
  ['makes a file a directory', 'rm file; mkdir file; echo x > file/x', ['file/', 'file/x']],
  ['makes a directory a file', 'rm -r full; echo x > full', ['full']],
  [
    'makes a directory again',
    'rm -r dir; mkdir dir; echo x > dir/new',
    ['dir/', 'dir/.wh..wh..opq', 'dir/new'],
  ],
  ['makes an empty directory again', 'rm -r dir; mkdir dir', ['dir/', 'dir/.wh..wh..opq']],
  [
    'makes a directory again within one that stays',
    'rm -r full/deep; mkdir full/deep',
    ['full/', 'full/deep/', 'full/deep/.wh..wh..opq'],
  ],
  ['points a link elsewhere', 'ln -sfn full link; ln -sfn ../x filelink', ['filelink', 'link']],
  [
    'points a link elsewhere at the same time and length',
    'ln -sfn rid link; touch -h -d 2020-01-01T00:00:00 link',
    ['link'],
  ],
  ['adds hard links', 'echo x > x; ln x y; ln x dir/z', ['dir/', 'dir/z', 'x', 'y']],
  ['adds a hard link to an old file', 'ln dir/two dir/also', ['dir/', 'dir/also', 'dir/two']],
  ['removes one name of several', 'rm links/b', ['links/', 'links/.wh.b']],
  ['removes all names but one', 'rm links/b links/c', ['links/', 'links/.wh.b', 'links/.wh.c']],
  ['renames a file', 'mv dir/two dir/2', ['dir/', 'dir/.wh.two', 'dir/2']],
  [
    'renames one file over another',
    'mv dir/two dir/sub/three',
    ['dir/', 'dir/sub/', 'dir/sub/three', 'dir/.wh.two'],
  ],
  [
    'swaps two files of one size and time',
    'echo 2wo > dir/x; chown 1000:1000 dir/x; touch -d 2020-01-01T00:00:00 dir/x; mv dir/x dir/two',
    ['dir/', 'dir/two'],
  ],
  ['moves a file away and back', 'mv file dir/f; mv dir/f file; touch -d 2020-01-01T00:00:00 dir', []],
  [
    'makes devices, fifos and sockets',
    'mknod zero c 1 5; mkfifo p; python3 -c "import socket; socket.socket(socket.AF_UNIX).bind(\'s\')"',
    ['p', 'zero'],
  ],
  [
    'makes a socket in the place of a file',
    'rm file; python3 -c "import socket; socket.socket(socket.AF_UNIX).bind(\'file\')"',
    ['.wh.file'],
  ],
  ['makes another device', 'rm null; mknod null c 1 5', ['null']],
  [
    'uses sticky, setuid and setgid bits',
    'chmod 2755 tool; touch sticky/x; chmod 6711 sticky/x',
    ['sticky/', 'sticky/x', 'tool'],
  ],
  ['uses names that are no UTF-8', 'cd non-utf8; mv caf* "$(printf \'caf\\352\')"'],
  ['writes a sparse file', 'truncate -s 3000000 sparse; printf end >> sparse', ['sparse']],
];

let scratch = '';
before(() => {
  scratch = mkdtempSync(join(tmpdir(), 'kiln-tree-'));
  for (const name of ['base', 'empty']) mkdirSync(join(scratch, name));
  sh(join(scratch, 'base'), baseScript);
  execFileSync('tar', [
    '-C',
    join(scratch, 'base'),
    '--xattrs',
    '--xattrs-include=*',
    '-czf',
    join(scratch, 'base.tar.gz'),
    '.',
  ]);
});
after(() => rmSync(scratch, { recursive: true, force: true }));

function sh(directory: string, script: string): void {
  execFileSync('sh', ['-euc', script], { cwd: directory, stdio: ['ignore', 'ignore', 'inherit'] });
}

const diffID = `sha256:${'0'.repeat(64)}` as DiffID;

/** The base as a layer: unpacked, and packed. */
const baseLayers = (): LayerSource[] => [
  { kind: 'directory', diffID, path: join(scratch, 'base'), opaque: [], implied: [] },
  { kind: 'archive', diffID, file: join(scratch, 'base.tar.gz'), compression: 'gzip' },
];

/** The tar of what a script changes in a copy of the base, found by looking at the tree before and after. */
async function byWalk(script: string): Promise<Buffer | undefined> {
  const tree = mkdtempSync(join(scratch, 'tree-'));
  execFileSync('cp', ['-a', `${join(scratch, 'base')}/.`, tree]);
  const territory = new Territory({ root: tree });
  const before = TreeState.read(territory);
  waitForLaterChanges(scratch, before.newestChange);
  sh(tree, script);
  const after = TreeState.read(territory, { previous: before });
  assert.deepEqual(differences(after, TreeState.read(territory)), []);
  const tars: (Buffer | undefined)[] = [];
  for (const layer of baseLayers()) {
    const changes = new TreeChanges(before, after);
    await clearUnchanged(changes, territory, [layer]);
    const output = `${tree}-${layer.kind}.tar`;
    const captured = captureLayer(changes.entries(territory, 0), output);
    tars.push(captured === undefined ? undefined : readFileSync(output));
  }
  assert.deepEqual(tars[0], tars[1]);
  return tars[0];
}

/** Paths that two looks at a tree that did not change in between say differently. */
function differences(a: TreeState, b: TreeState): string[] {
  return [...new TreeChanges(a, b).touched(), ...new TreeChanges(b, a).touched()];
}

/** The same as an overlay file system records it. */
async function byOverlay(script: string): Promise<Buffer | undefined> {
  const space = mkdtempSync(join(scratch, 'overlay-'));
  const [upper, work, merged] = ['upper', 'work', 'merged'].map((name) => join(space, name)) as [
    string,
    string,
    string,
  ];
  for (const name of [upper, work, merged]) mkdirSync(name);
  const data = `lowerdir=${join(scratch, 'base')},upperdir=${upper},workdir=${work},redirect_dir=off,metacopy=off,index=off`;
  mount('overlay', merged, 'overlay', 0, data);
  try {
    sh(merged, script);
  } finally {
    unmount(merged, { detach: true });
  }
  const output = join(space, 'layer');
  const facts = await writeLayer({
    upper,
    lowers: [join(scratch, 'base')],
    output,
    compression: 'gzip',
    clampTime: 0,
  });
  return facts === undefined ? undefined : execFileSync('gzip', ['-dc', output], { maxBuffer: 1 << 28 });
}

function names(tar: Buffer | undefined): string[] {
  if (tar === undefined) return [];
  const listed = execFileSync('tar', ['-tf', '-', '--quoting-style=literal'], {
    input: tar,
    encoding: 'utf8',
  });
  return listed.trim().split('\n');
}

describe('what changed between two looks at a tree', () => {
  for (const [what, script, expected] of steps)
    test(`is what an overlay records when a step ${what}`, async () => {
      const overlay = await byOverlay(script);
      if (expected !== undefined) assert.deepEqual(names(overlay).sort(), [...expected].sort());
      const walk = await byWalk(script);
      assert.deepEqual(names(walk), names(overlay));
      assert.ok(walk === undefined ? overlay === undefined : overlay?.equals(walk), 'the bytes differ');
    });

  // An overlay gives each changed name of an old file a copy of its own.
  for (const [what, script, expected] of [
    ['changed through one of them', 'echo changed > links/b', ['links/', 'links/a', 'links/b', 'links/c']],
    ['got another', 'ln -f links/a file', ['file', 'links/', 'links/a', 'links/b', 'links/c']],
    ['got the owner it had', 'chown 0:0 links/a', []],
  ] as const)
    test(`has all names of a file that ${what}`, async () => {
      const tar = await byWalk(script);
      assert.deepEqual(names(tar), expected);
      const files =
        tar === undefined ? '' : execFileSync('tar', ['-tvf', '-'], { input: tar, encoding: 'utf8' });
      assert.equal(files.match(/ link to /g)?.length ?? 0, Math.max(0, expected.length - 2));
    });

  test('has what was moved along with its directory', async () => {
    const tar = await byWalk('mv full other');
    assert.deepEqual(names(tar), ['.wh.full', 'other/', 'other/deep/', 'other/deep/file']);
  });

  test('names the reserved name of a file that no layer can hold', async () => {
    await assert.rejects(byWalk('touch .wh.x'), {
      code: 'E_RESERVED_NAME',
    });
  });

  test('never misses a change directly after the look', () => {
    const tree = mkdtempSync(join(scratch, 'clock-'));
    const file = join(tree, 'file');
    const territory = new Territory({ root: tree });
    for (let round = 0; round < 100; round++) {
      writeFileSync(file, 'before');
      utimesSync(file, 5, 5);
      const state = TreeState.read(territory);
      waitForLaterChanges(scratch, state.newestChange);
      writeFileSync(file, 'behind');
      utimesSync(file, 5, 5);
      const changes = new TreeChanges(state, TreeState.read(territory));
      assert.equal([...changes.uncertain()].length, 1, `round ${round}`);
    }
  });
});

describe('a look that builds on an earlier one', () => {
  /** What changes the tree, one thing at a time, in the directory `d` and beside it. */
  const changes = [
    'echo 1 > d/new',
    'echo longer > d/new',
    'chmod 600 d/a/b/deep',
    'mkdir -p d/x/y; touch d/x/y/z',
    'mv d/x/y/z d/x/z',
    'rm d/new',
    'ln d/a/b/deep d/a/again',
    'mv d/a d/c',
    'mkdir d/a; touch d/a/b',
    'rm -r d/c/b; touch d/c/b',
    'ln -sfn c d/link; rm -r d/x',
    'python3 -c "import socket; socket.socket(socket.AF_UNIX).bind(\'d/socket\')"',
    'echo x > d/beside; chown 1:1 d/many/500',
    'rm d/socket; touch d/socket',
    'touch d/many/0500; rm d/many/17',
    'rm -r d',
    'mkdir d; touch d/a',
  ];

  test('finds what one that starts anew finds, whatever happens in between', () => {
    const tree = mkdtempSync(join(scratch, 'looks-'));
    sh(tree, 'mkdir -p d/a/b d/many; touch d/a/b/deep; cd d/many; seq 1000 | xargs touch');
    const territory = new Territory({ root: tree });
    let spare: TreeState | undefined;
    let previous = TreeState.read(territory);
    for (const change of changes) {
      waitForLaterChanges(scratch, previous.newestChange);
      sh(tree, change);
      const anew = TreeState.read(territory);
      const state = TreeState.read(territory, { previous, spare });
      assert.deepEqual(differences(state, anew), [], change);
      assert.deepEqual(
        [...new TreeChanges(previous, state).touched()],
        [...new TreeChanges(previous, anew).touched()],
        change,
      );
      assert.notEqual([...new TreeChanges(previous, state).touched()].length, 0, change);
      [spare, previous] = [previous, state];
    }
  });

  test('takes no names from one at which other paths were the container’s', () => {
    const tree = mkdtempSync(join(scratch, 'other-paths-'));
    sh(tree, 'mkdir -p root/d shadow/d; touch root/d/container root/d/x shadow/d/container');
    const territory = new Territory({
      root: join(tree, 'root'),
      exclusions: ['/d/container'],
      shadow: join(tree, 'shadow'),
    });
    const previous = TreeState.read(new Territory({ root: join(tree, 'root') }));
    sh(tree, 'rm shadow/d/container');
    assert.deepEqual(differences(TreeState.read(territory, { previous }), TreeState.read(territory)), []);
    assert.equal(TreeState.read(territory, { previous }).count, 2);
  });
});

describe('a tree with paths that are not its own', () => {
  let tree = '';
  let territory: Territory;
  beforeEach(() => {
    tree = mkdtempSync(join(scratch, 'territory-'));
    sh(
      tree,
      'mkdir -p root/etc root/mnt/volume root/kiln/shadow/etc; echo container > root/etc/hosts; echo x > root/mnt/volume/x; echo image > root/etc/passwd',
    );
    territory = new Territory({
      root: join(tree, 'root'),
      exclusions: ['/etc/hosts', '/mnt/volume', '/kiln'],
      shadow: join(tree, 'root/kiln/shadow'),
    });
    territory.prepare();
  });
  afterEach(() => rmSync(tree, { recursive: true }));

  test('shows what the tree has there from the shadow, and nothing else', () => {
    const before = TreeState.read(territory);
    sh(
      tree,
      'echo changed > root/etc/hosts; rm root/mnt/volume/x; touch root/mnt/volume/y; mkdir -p root/kiln/shadow/mnt/volume; echo image > root/kiln/shadow/etc/hosts; echo image > root/kiln/shadow/mnt/volume/z',
    );
    const changes = new TreeChanges(before, TreeState.read(territory));
    const entries = [...changes.entries(territory)].map(({ entry }) => entry.path.toString());
    assert.deepEqual(entries, ['etc/', 'etc/hosts', 'mnt/', 'mnt/volume/', 'mnt/volume/z']);
    const hosts = [...changes.entries(territory)].find(({ entry }) => entry.path.toString() === 'etc/hosts');
    assert.equal(readFileSync(hosts?.content ?? '', 'utf8'), 'image\n');
  });
});
