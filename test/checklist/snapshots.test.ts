import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { inspectConfig, unpackWithOtherTools } from '../support/check-image.ts';
import { busyboxLayer, pushTestImage } from '../support/images.ts';
import { type LayerEntry, type ListedLayer, listLayers } from '../support/layers.ts';
import { type Ended, stepsThat } from '../support/programs.ts';
import { listTree, plant, rawSocketCapability } from '../support/trees.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';
import { getXattr, setTimes } from '../../src/os/index.ts';

/*
 * What steps leave in layers. One Dockerfile does all the things that went wrong for somebody; its image is read by
 * skopeo, Python's tarfile and umoci, layer by layer.
 */

const long = 'n'.repeat(120);
const steps = [
  'RUN rm /data/gone && rm -r /tree/b',
  'RUN echo 1 > /data/cycle',
  'RUN rm /data/cycle',
  'RUN echo 2 > /data/cycle',
  `RUN cd /kinds && rm -r dir-to-link link-to-dir file-to-dir dir-to-file opaque && ln -s ../data dir-to-link && mkdir link-to-dir file-to-dir opaque && echo > dir-to-file && for d in link-to-dir file-to-dir opaque; do echo > $d/new; done`,
  `RUN cd /meta && chmod 700 mode && chown 12:34 owner && setcap cap_net_raw=ep capable && setfattr -n user.note -v x noted && chmod 644 same && touch -r same same && cp -p rewritten /dev/shm/t && printf BBBB > rewritten && touch -r /dev/shm/t rewritten`,
  'RUN true',
  'RUN echo nameserver > /etc/resolv.conf; echo x >> /etc/hosts; echo x > /etc/hostname; echo > /dev/shm/y; mkdir /dev/z',
  'RUN mkdir -p /links/sub && cd /links && head -c 1000000 /dev/urandom > a && ln a b && ln a sub/c && ln -s nowhere dangling && ln /data/keep across',
  `RUN mkdir /names && cd /names && touch "$(printf 'caf\\351')" 'ünï' && mkdir -p ${long}/${long} && touch ${long}/${long}/${long} && ln -s /${long}/${long} link`,
  'RUN mkdir /nodes && cd /nodes && mkfifo -m 640 fifo && mknod -m 666 null c 1 3 && mknod -m 600 block b 7 200 && mkdir -m 3777 sticky && echo > tool && chmod 6755 tool && truncate -s 5M sparse && printf x | dd of=sparse bs=1M seek=4 conv=notrunc',
  'RUN mkdir -p /var/run/app && echo 1 > /var/run/app/pid',
  'USER app:team',
  'RUN id -un > /tmp/id; id -gn >> /tmp/id; id -G >> /tmp/id; cp /bin/busybox /tmp/mine',
  'WORKDIR /work/dir',
  'USER 77',
  'RUN touch /tmp/number; id -g > /tmp/group',
  'USER root',
  'COPY timed /implicit/parent/',
  'RUN chmod 711 /',
  'LABEL last=step',
];

const dockerfile = [
  'FROM %BASE% AS snap',
  ...steps,
  'FROM %BASE% AS one',
  'RUN echo one > /shared && rm /data/keep',
  'FROM %BASE% AS two',
  'RUN echo two > /shared && mkdir /data/dir',
  'FROM %BASE% AS copied',
  'COPY --from=snap /data /data',
  'COPY --from=snap /kinds/opaque /kinds/opaque',
  'COPY --from=snap /kinds /new/kinds',
  'COPY --from=snap /meta /new/meta',
  'COPY --from=snap /links /new/links',
  'COPY --from=snap /names /new/names',
  'COPY --from=snap /nodes /new/nodes',
  'COPY --from=%GHOST% / /data',
  'COPY --from=one /shared /new/one',
  'COPY --from=one /data /new/data-one',
  'COPY --from=two /shared /new/two',
  'COPY --from=two /data /new/data-two',
  'FROM snap AS view',
  // What the build sees of its own layers; what is mounted there is none of them.
  `RUN cd / && find . -xdev \\( -path ./proc -o -path ./sys -o -path ./dev -o -path './etc/*host*' -o -path ./etc/resolv.conf -o -path ./run/stub \\) -prune -o -exec stat -c '%n|%F|%a|%u:%g|%h|%s|%Y' {} + && find . -xdev -name '.wh.*'`,
].join('\n');

describe('layers of steps', () => {
  let workshop: Workshop;
  let context: string;
  let image: string;
  let base: string;
  let first: Ended;
  let history: ReturnType<typeof inspectConfig>['history'];
  let layers: ListedLayer[];
  let baseLayers: ListedLayer[];
  let root: string;

  before(async () => {
    workshop = await openWorkshop();
    base = `${workshop.registry.host}/lower:1`;
    const ghost = `${workshop.registry.host}/ghost:1`;
    const scratch = workshop.directory;
    const asOci = `${base}-oci`;
    await pushTestImage(scratch, asOci, {
      layers: [await busyboxLayer(scratch), toolsLayer(scratch), lowerLayer(scratch), upperLayer(scratch)],
    });
    const options = ['--quiet', '--src-tls-verify=false', '--dest-tls-verify=false', '--format', 'v2s2'];
    execFileSync('skopeo', ['copy', ...options, `docker://${asOci}`, `docker://${base}`]);
    // An image whose lowest layer deletes what was never there.
    await pushTestImage(scratch, ghost, { layers: [ghostLayer(scratch)] });
    context = await workshop.context({
      Dockerfile: dockerfile.replaceAll('%BASE%', base).replaceAll('%GHOST%', ghost),
      timed: 'x',
    });
    setTimes(join(context, 'timed'), 0n, 1_700_000_000_123_456_789n);
    image = `${workshop.registry.host}/snapshots/snap:1`;
    first = await build('snap', image);
    ({ history } = inspectConfig(image));
    layers = listLayers(scratch, image);
    baseLayers = listLayers(scratch, base);
    root = join(unpackWithOtherTools(scratch, image), 'rootfs');
  });
  after(() => workshop[Symbol.asyncDispose]());

  async function build(target: string, destination: string, ...more: string[]): Promise<Ended> {
    const cache = ['--cache', '--cache-repo', `${workshop.registry.host}/snapshots/cache`];
    const ended = await workshop.build(context, [
      ...cache,
      ...['--target', target, '--destination', destination, ...more],
    ]);
    assert.equal(ended.code, 0, ended.messages);
    return ended;
  }

  /** The layer that an instruction made, found through the history of the image; undefined when it made none. */
  function layerOf(instruction: string): ListedLayer | undefined {
    let position = 0;
    for (const entry of history) {
      const layer = entry.empty_layer === true ? undefined : layers[position++];
      const text = entry.created_by?.replace('RUN /bin/sh -c ', 'RUN ').replace(/ # buildkit$/, '');
      if (text === instruction) return layer;
    }
    throw new Error(`no history for ${instruction}`);
  }
  function entriesOf(start: string): readonly LayerEntry[] {
    const instruction = steps.find((step) => step.startsWith(start));
    return layerOf(instruction ?? start)?.entries ?? [];
  }
  const namesOf = (start: string): string[] => entriesOf(start).map(({ name }) => name);
  function entry(start: string, name: string): LayerEntry {
    const found = entriesOf(start).find((candidate) => candidate.name === name);
    assert.ok(found, `${name} is in the layer of ${start}`);
    return found;
  }
  const inRoot = (path: string): string => join(root, path);

  test('have whiteouts for what was deleted, and only for that', () => {
    assert.deepEqual(namesOf('RUN rm /data/gone'), ['data/', 'data/.wh.gone', 'tree/', 'tree/.wh.b']);
    assert.ok(!existsSync(inRoot('data/gone')));
    assert.deepEqual(readdirSync(inRoot('tree')), ['a']);
  });

  test('add, remove and add again (G1637)', () => {
    assert.deepEqual(namesOf('RUN echo 1'), ['data/', 'data/cycle']);
    assert.deepEqual(namesOf('RUN rm /data/cycle'), ['data/', 'data/.wh.cycle']);
    assert.deepEqual(namesOf('RUN echo 2'), ['data/', 'data/cycle']);
    assert.equal(readFileSync(inRoot('data/cycle'), 'utf8'), '2\n');
  });

  test('have no whiteout below what is no directory any more, and an opaque mark where one was replaced (G2308 G952)', () => {
    assert.deepEqual(namesOf('RUN cd /kinds'), [
      'kinds/',
      'kinds/dir-to-file',
      'kinds/dir-to-link',
      'kinds/file-to-dir/',
      'kinds/file-to-dir/new',
      'kinds/link-to-dir/',
      'kinds/link-to-dir/new',
      'kinds/opaque/',
      'kinds/opaque/.wh..wh..opq',
      'kinds/opaque/new',
    ]);
    assert.deepEqual(listTree(inRoot('kinds'), '%P %y %l'), [
      'dir-to-file f ',
      'dir-to-link l ../data',
      'file-to-dir d ',
      'file-to-dir/new f ',
      'link-to-dir d ',
      'link-to-dir/new f ',
      'opaque d ',
      'opaque/new f ',
    ]);
  });

  test('have what changed only in mode, owner, capability, attribute, or content of the same size and time', () => {
    assert.deepEqual(namesOf('RUN cd /meta'), [
      'meta/',
      'meta/capable',
      'meta/mode',
      'meta/noted',
      'meta/owner',
      'meta/rewritten',
    ]);
    assert.equal(entry('RUN cd /meta', 'meta/mode').mode, '700');
    assert.equal(entry('RUN cd /meta', 'meta/owner').owner, '12:34');
    assert.equal(entry('RUN cd /meta', 'meta/noted').pax['SCHILY.xattr.user.note'], 'x');
    assert.deepEqual(getXattr(inRoot('meta/capable'), 'security.capability'), rawSocketCapability);
    assert.equal(readFileSync(inRoot('meta/rewritten'), 'utf8'), 'BBBB');
  });

  test('are none for a step that changes nothing, or only what is mounted there (G2157)', () => {
    assert.deepEqual(namesOf('RUN true'), []);
    assert.deepEqual(namesOf('RUN echo nameserver'), []);
    assert.deepEqual(readdirSync(root).sort(), [
      ...[
        'bin',
        'data',
        'etc',
        'implicit',
        'kinds',
        'lib',
        'lib64',
        'links',
        'meta',
        'names',
        'nodes',
        'root',
      ],
      ...['run', 'tmp', 'tree', 'usr', 'var', 'work'],
    ]);
    assert.deepEqual(readdirSync(inRoot('etc')).sort(), ['group', 'passwd', 'resolv.conf']);
    assert.equal(readlinkSync(inRoot('etc/resolv.conf')), '../run/stub/resolv.conf');
  });

  test('have hard links, within them and to lower layers, with relative targets (G282 G342 O947)', () => {
    assert.deepEqual(
      entriesOf('RUN mkdir -p /links').map(({ name, type, link }) => `${name} ${type} ${link}`.trim()),
      [
        'data/ directory',
        'data/keep file',
        'links/ directory',
        'links/a file',
        'links/across hardlink data/keep',
        'links/b hardlink links/a',
        'links/dangling symlink nowhere',
        'links/sub/ directory',
        'links/sub/c hardlink links/a',
      ],
    );
    assert.equal(lstatSync(inRoot('links/across')).ino, lstatSync(inRoot('data/keep')).ino);
  });

  test('have names that are long or no UTF-8, and long links', () => {
    const names = listTree(inRoot('names'), '%P %l');
    assert.deepEqual(
      names.filter((name) => !name.startsWith(long)),
      ['caf\\351 ', `link /${long}/${long}`, '\\303\\274n\\303\\257 '].sort(),
    );
    assert.ok(existsSync(inRoot(`names/${long}/${long}/${long}`)));
    assert.ok(namesOf('RUN mkdir /names').includes(`names/${long}/${long}/${long}`));
  });

  test('have device nodes, FIFOs, sparse files, and sticky, setuid and setgid bits', () => {
    const has = (name: string): string => {
      const { type, mode } = entry('RUN mkdir /nodes', name);
      return `${type} ${mode}`;
    };
    assert.equal(has('nodes/fifo'), 'fifo 640');
    assert.equal(has('nodes/null'), 'character device 666');
    assert.equal(has('nodes/block'), 'block device 600');
    assert.equal(has('nodes/sticky/'), 'directory 3777');
    assert.equal(has('nodes/tool'), 'file 6755');
    const expected = Buffer.alloc(5 << 20);
    expected.write('x', 4 << 20);
    assert.ok(readFileSync(inRoot('nodes/sparse')).equals(expected));
    assert.ok(
      (layerOf(steps.find((step) => step.startsWith('RUN mkdir /nodes')) ?? '')?.size ?? 0) < 100_000,
    );
  });

  test('have /var/run, which is no place that anything is mounted on (G506)', () => {
    assert.deepEqual(namesOf('RUN mkdir -p /var/run'), [
      'var/',
      'var/run/',
      'var/run/app/',
      'var/run/app/pid',
    ]);
  });

  test('have the owners that USER gives, with its group alone (O840), and WORKDIR’s (O867)', () => {
    assert.equal(readFileSync(inRoot('tmp/id'), 'utf8'), 'app\nteam\n56\n');
    assert.equal(entry('RUN id -un', 'tmp/mine').owner, '12:56');
    assert.deepEqual(
      entriesOf('WORKDIR').map(({ name, owner, mode }) => `${name} ${owner} ${mode}`),
      ['work/ 12:56 755', 'work/dir/ 12:56 755'],
    );
    assert.equal(entry('RUN touch /tmp/number', 'tmp/number').owner, '77:0');
    assert.equal(readFileSync(inRoot('tmp/group'), 'utf8'), '0\n');
  });

  test('have times with their nanoseconds (G1808), parents that a copy made, and no names of users', () => {
    const { entries } = layerOf('COPY timed /implicit/parent/') ?? { entries: [] };
    assert.deepEqual(
      entries.map(({ name, owner, mode }) => `${name} ${owner} ${mode}`),
      ['implicit/ 0:0 755', 'implicit/parent/ 0:0 755', 'implicit/parent/timed 0:0 644'],
    );
    assert.equal(entries.at(-1)?.pax.mtime, '1700000000.123456789');
    for (const layer of layers.slice(4))
      assert.deepEqual(
        layer.entries.filter(({ names }) => names !== ''),
        [],
      );
  });

  test('have the root directory itself when only it changed', () => {
    assert.deepEqual(
      entriesOf('RUN chmod 711 /').map(({ name, mode }) => `${name} ${mode}`),
      ['./ 711'],
    );
    assert.equal((lstatSync(root).mode & 0o7777).toString(8), '711');
  });

  test('have no path twice, none absolute, and each parent before what is in it (G1138 G1162)', () => {
    for (const { digest, entries } of layers.slice(4)) {
      const names = entries.map(({ name }) => name);
      assert.equal(new Set(names).size, names.length, digest);
      assert.deepEqual(
        names.filter((name) => name.startsWith('/') || name.includes('//') || name.includes('../')),
        [],
      );
      const seen = new Set(['./']);
      for (const name of names) {
        assert.ok(seen.has(`${dirname(name)}/`), `${name} comes after its directory`);
        seen.add(name);
      }
    }
  });

  test('and the manifest have OCI’s media types, also on a base with Docker’s (O858)', () => {
    assert.match(baseLayers[0]?.mediaType ?? '', /docker/);
    const types = new Set(layers.map(({ mediaType }) => mediaType));
    assert.deepEqual([...types], ['application/vnd.oci.image.layer.v1.tar+gzip']);
    const raw = execFileSync('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${image}`]);
    assert.doesNotMatch(raw.toString(), /docker/);
  });

  test('of the base stay byte for byte, and a last instruction of metadata keeps all (O731 O1000)', () => {
    const lower = baseLayers.map(({ digest }) => digest);
    assert.deepEqual(
      layers.slice(0, 4).map(({ digest }) => digest),
      lower,
    );
    // Every instruction but USER, LABEL and the two that change nothing.
    assert.equal(
      layers.length,
      4 + steps.filter((step) => !/^(?:USER|LABEL|RUN true|RUN echo n)/.test(step)).length,
    );
  });

  test('give the same image and the same files when all of them come from the cache (G704)', async () => {
    const again = `${workshop.registry.host}/snapshots/again:1`;
    const digestFile = join(workshop.directory, 'digest');
    const fresh = ['--cache-dir', join(workshop.directory, 'fresh')];
    const second = await build('snap', again, ...fresh, '--digest-file', digestFile);
    assert.deepEqual(stepsThat('ran', second), []);
    assert.equal(stepsThat('cached', second).length, stepsThat('ran', first).length);
    const raw = execFileSync('skopeo', [
      ...['inspect', '--tls-verify=false', '--format', '{{.Digest}}'],
      `docker://${image}`,
    ]);
    assert.equal(readFileSync(digestFile, 'utf8'), raw.toString().trim());

    const view = await build('view', `${workshop.registry.host}/snapshots/view:1`, ...fresh);
    assert.equal(stepsThat('ran', view).length, 1);
    const seen = view.events.map((event) => (event.type === 'output' ? String(event.data) : '')).join('');
    const command = `cd / && find . \\( -path './etc/*host*' -o -path ./etc/resolv.conf -o -path ./run/stub \\) -prune -o -exec stat -c '%n|%F|%a|%u:%g|%h|%s|%Y' {} +`;
    const unpacked = execFileSync('chroot', [root, '/bin/sh', '-c', command], { encoding: 'utf8' });
    assert.deepEqual(comparable(seen), comparable(unpacked));
    assert.doesNotMatch(seen, /\.wh\./);
  });

  test('that copy from a stage delete nothing and have no marks (O774), and keep links, capabilities and bits', async () => {
    const copied = `${workshop.registry.host}/snapshots/copied:1`;
    await build('copied', copied);
    const made = listLayers(workshop.directory, copied).slice(4);
    for (const { entries } of made)
      assert.deepEqual(
        entries.filter(({ name, type }) => name.includes('.wh.') || type === 'other'),
        [],
      );
    const target = join(unpackWithOtherTools(workshop.directory, copied), 'rootfs');
    const has = (path: string): string => join(target, path);
    assert.deepEqual(readdirSync(has('data')).sort(), ['below', 'cycle', 'gone', 'keep', 'seen']);
    assert.deepEqual(readdirSync(has('kinds/opaque')).sort(), ['new', 'old']);
    assert.deepEqual(readdirSync(has('new/kinds/opaque')), ['new']);
    // Two stages on one base, at the same time (O876).
    assert.deepEqual(
      ['one', 'two'].map((name) => readFileSync(has(`new/${name}`), 'utf8')),
      ['one\n', 'two\n'],
    );
    assert.deepEqual(readdirSync(has('new/data-one')).sort(), ['below', 'gone', 'seen']);
    assert.deepEqual(readdirSync(has('new/data-two')).sort(), ['below', 'dir', 'gone', 'keep', 'seen']);
    assert.equal(readlinkSync(has('new/links/dangling')), 'nowhere');
    assert.deepEqual(getXattr(has('new/meta/capable'), 'security.capability'), rawSocketCapability);
    assert.equal(lstatSync(has('new/meta/owner')).uid, 12);
    assert.equal((lstatSync(has('new/nodes/tool')).mode & 0o7777).toString(8), '6755');
    assert.ok(lstatSync(has('new/nodes/null')).isCharacterDevice());
    assert.ok(listTree(has('new/names'), '%P').includes('caf\\351'));
    const links = made.find(({ entries }) => entries.some(({ name }) => name === 'new/links/a'));
    assert.ok((links?.size ?? Infinity) < 1_500_000, 'three names are one file (G1743 G2594)');
    assert.equal(lstatSync(has('new/links/a')).ino, lstatSync(has('new/links/sub/c')).ino);
  });
});

/** Lines of `stat`, sorted, without what depends on the file system: sizes and link counts of directories, and the root. */
function comparable(text: string): string[] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('./'))
    .map((line) => {
      const [name = '', type = '', mode, owner, links, size, modified] = line.split('|');
      return [name, type, mode, owner, ...(type === 'directory' ? [] : [links, size]), modified].join('|');
    })
    .sort();
}

function packed(scratch: string, name: string, fill: (directory: string) => void): string {
  const directory = join(scratch, `fill-${name}`);
  mkdirSync(directory);
  fill(directory);
  const file = join(scratch, `${name}.tar.gz`);
  execFileSync('tar', [
    ...['-C', directory, '--numeric-owner', '--xattrs', '--xattrs-include=*', '--sort=name'],
    ...['--mtime=@1700000000', '-czf', file, '.'],
  ]);
  return file;
}

/** Programs that busybox lacks, with their libraries. */
function toolsLayer(scratch: string): string {
  return packed(scratch, 'tools', (directory) => {
    for (const program of ['/sbin/setcap', '/usr/bin/setfattr']) {
      const libraries = execFileSync('ldd', [program], { encoding: 'utf8' }).match(/\/\S+/g) ?? [];
      for (const file of libraries.filter((path) => !path.endsWith(':'))) {
        mkdirSync(join(directory, dirname(file)), { recursive: true });
        copyFileSync(file, join(directory, file));
      }
      mkdirSync(join(directory, 'bin'), { recursive: true });
      copyFileSync(program, join(directory, 'bin', program.replace(/.*\//, '')));
    }
    execFileSync('chmod', ['-R', 'a+rx', directory]);
  });
}

function lowerLayer(scratch: string): string {
  return packed(scratch, 'lower', (directory) => {
    plant(directory, {
      'data/keep': 'keep',
      'data/gone': 'gone',
      'data/below': 'below',
      'tree/a': '',
      'tree/b/c': '',
      'kinds/dir-to-link/x': '',
      'kinds/dir-to-file/x': '',
      'kinds/file-to-dir': '',
      'kinds/opaque/hidden-by-the-next-layer': '',
      'meta/mode': '',
      'meta/owner': '',
      'meta/capable': '',
      'meta/noted': '',
      'meta/same': 'same',
      'meta/rewritten': 'AAAA',
      'run/lock/': '',
      'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\napp:x:12:34::/:/bin/sh\n',
      'etc/group': 'root:x:0:\nown:x:34:\nteam:x:56:\nother:x:78:app\n',
    });
    symlinkSync('../data', join(directory, 'kinds/link-to-dir'));
    // As systemd has it: what is mounted there must not leave its directory behind.
    symlinkSync('../run/stub/resolv.conf', join(directory, 'etc/resolv.conf'));
  });
}

/** Deletes and hides what the layer below has, as OCI layers say it. */
function upperLayer(scratch: string): string {
  return packed(scratch, 'upper', (directory) => {
    plant(directory, {
      'data/.wh.never-there': '',
      'data/seen': '',
      'kinds/opaque/.wh..wh..opq': '',
      'kinds/opaque/old': '',
    });
  });
}

function ghostLayer(scratch: string): string {
  return packed(scratch, 'ghost', (directory) =>
    plant(directory, { '.wh.below': '', '.wh.keep': '', seen: '' }),
  );
}
