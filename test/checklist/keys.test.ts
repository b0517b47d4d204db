import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { type SourceQuery, treeDigest } from '../../executor/context/index.ts';
import { type CacheKey, describeKey, type KeyDefinition, stepKey } from '../../src/layercache/index.ts';
import { setTimes, setXattr } from '../../src/os/index.ts';
import { keysOf, planOf, type PlanSetting } from '../support/plan.ts';
import { plant, rawSocketCapability } from '../support/trees.ts';

/*
 * Keys as the plan makes them, before anything runs. Two definitions that make different layers must differ; two that
 * make the same should not.
 */

let scratch = '';
let context = '';
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'kiln-keys-'));
  context = join(scratch, 'context');
  mkdirSync(context);
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

const at = (...path: string[]): string => join(context, ...path);
const keys = (instructions: string, setting: PlanSetting = {}): Promise<string[]> =>
  keysOf(`FROM scratch\n${instructions}\n`, context, setting);
const lastKey = async (instructions: string, setting: PlanSetting = {}): Promise<string> =>
  (await keys(instructions, setting)).at(-1) ?? 'no step';

const queryOf = (root: string): SourceQuery => ({
  root,
  patterns: ['.'],
  ignore: [],
  where: 'Dockerfile:2',
  treeName: 'the build context',
});

/** Asserts that changing the context changes the key of the last instruction, and that changing it back restores it. */
async function changes(instructions: string, change: () => unknown, back: () => unknown): Promise<void> {
  const before = await lastKey(instructions);
  await change();
  assert.notEqual(await lastKey(instructions), before, 'the key has changed');
  await back();
  assert.equal(await lastKey(instructions), before, 'the key is as before');
}

async function changesNothing(instructions: string, change: () => unknown): Promise<void> {
  const before = await lastKey(instructions);
  await change();
  assert.equal(await lastKey(instructions), before);
}

/** Asserts that all texts have keys of their own. */
async function allDiffer(texts: readonly string[], setting: PlanSetting = {}): Promise<void> {
  const found = await Promise.all(texts.map((text) => lastKey(text, setting)));
  for (const [index, key] of found.entries())
    assert.equal(found.indexOf(key), index, `${texts[index] ?? ''} has the key of another`);
}

describe('parts of a key do not run together:', () => {
  const parent = stepKey({ kind: 'base', chainID: null, platform: { os: 'linux', architecture: 'amd64' } });
  const run = (fields: Partial<Extract<KeyDefinition, { kind: 'run' }>>): CacheKey =>
    stepKey({ kind: 'run', parent, argv: ['x'], env: {}, user: '', workingDirectory: '/', ...fields });

  test('names and values of variables (O873)', async () => {
    const texts = ['A=x-B=z B=y', 'A=x B=z-B=y', 'A=x B=y', 'A=xB B=y', 'A="x B=y"', 'A= xB=y', 'B=x A=y'];
    await allDiffer(texts.map((variables) => `ENV ${variables}\nRUN x`));
    assert.notEqual(run({ env: { A: 'x\nB=y' } }), run({ env: { A: 'x', B: 'y' } }));
    assert.notEqual(run({ env: { 'A=x': '' } }), run({ env: { A: 'x=' } }));
  });

  test('arguments of a command, user and directory', () => {
    const found = [
      run({ argv: ['a b'] }),
      run({ argv: ['a', 'b'] }),
      run({ argv: ['a', '', 'b'] }),
      run({ argv: ['a","b'] }),
      run({ user: 'a', workingDirectory: '/b' }),
      run({ user: 'a/', workingDirectory: 'b' }),
      run({ user: '', workingDirectory: 'a/b' }),
    ];
    assert.equal(new Set(found).size, found.length);
  });

  test('sources of a copy, and here-documents', async () => {
    plant(context, { a: '', b: '', 'a b': '' });
    await allDiffer([
      'COPY a b /to/',
      'COPY ["a b", "/to/"]',
      'COPY a /to/',
      'COPY b a /to/',
      'COPY <<a <<b /to/\n1\na\n2\nb',
      'COPY <<a <<b /to/\n1\n2\na\nb',
      'COPY <<ab /to/\n1\n2\nab',
    ]);
  });

  test('paths and contents of a directory (O911)', async () => {
    const trees: Readonly<Record<string, string>>[] = [
      { ab: 'c' },
      { a: 'bc' },
      { abc: '' },
      { a: 'b', c: '' },
      { a: '', b: 'c' },
      { 'a/b': 'c' },
      { a: 'c', b: '' },
      { 'a/': '', b: 'c' },
      { 'a/b': '', c: '' },
      { 'a/b/c': '' },
    ];
    const found = [];
    for (const tree of trees) {
      rmSync(context, { recursive: true });
      plant(context, { '.dockerignore': '.dockerignore', ...tree });
      found.push(await lastKey('COPY . /'));
    }
    assert.equal(new Set(found).size, found.length);
  });

  test('what a link says and what comes after it, names and values of attributes', async () => {
    const digest = (): Promise<string> => treeDigest(queryOf(context), { owners: false, modes: true });
    symlinkSync('to', at('link'));
    plant(context, { 'zdir/': '' });
    const two = await digest();
    rmSync(context, { recursive: true });
    mkdirSync(context);
    symlinkSync('tozdirdirectory7550', at('link'));
    assert.notEqual(await digest(), two);
    plant(context, { one: '', two: '' });
    setXattr(at('one'), 'user.a', Buffer.from('bc'));
    const abc = await digest();
    execFileSync('setfattr', ['-x', 'user.a', at('one')]);
    setXattr(at('one'), 'user.ab', Buffer.from('c'));
    assert.notEqual(await digest(), abc);
  });

  test('owners and contents of a directory', async () => {
    const found = [];
    for (const [uid, gid, content] of [
      [1, 23, ''],
      [12, 3, ''],
      [1, 2, '3'],
      [1, 2, ''],
    ] as const) {
      plant(context, { file: content });
      chownSync(at('file'), uid, gid);
      found.push(await treeDigest(queryOf(context), { owners: true, modes: true }));
    }
    assert.equal(new Set(found).size, found.length);
  });
});

describe('the key of a copied directory', () => {
  const copy = 'COPY dir /to/';
  beforeEach(() => {
    plant(context, { 'dir/sub/file': 'content', 'dir/other': '' });
  });

  test('changes with a renamed file (G2241)', async () =>
    changes(
      copy,
      () => renameSync(at('dir/sub/file'), at('dir/sub/renamed')),
      () => renameSync(at('dir/sub/renamed'), at('dir/sub/file')),
    ));

  test('changes with a file or an empty directory that comes or goes', async () => {
    await changes(
      copy,
      () => plant(context, { 'dir/new': '' }),
      () => rmSync(at('dir/new')),
    );
    await changes(
      copy,
      () => mkdirSync(at('dir/empty')),
      () => rmSync(at('dir/empty'), { recursive: true }),
    );
  });

  test('changes with content of the same size and time (BK4950)', async () => {
    const write = (content: string): void => {
      writeFileSync(at('dir/sub/file'), content);
      setTimes(at('dir/sub/file'), 0n, 7n);
    };
    write('content');
    await changes(
      copy,
      () => write('CONTENT'),
      () => write('content'),
    );
  });

  test('changes with the mode of a file or a directory in it (BK7176)', async () => {
    for (const path of ['dir/sub', 'dir/sub/file'])
      await changes(
        copy,
        () => chmodSync(at(path), 0o700),
        () => chmodSync(at(path), path === 'dir/sub' ? 0o755 : 0o644),
      );
    await changes(
      copy,
      () => chmodSync(at('dir/sub/file'), 0o4644),
      () => chmodSync(at('dir/sub/file'), 0o644),
    );
  });

  test('does not change with modes where --chmod sets them (BK3821)', async () =>
    changesNothing('COPY --chmod=640 dir /to/', () => {
      chmodSync(at('dir/sub/file'), 0o777);
      chmodSync(at('dir/sub'), 0o700);
    }));

  test('does not change with the name or mode of the directory itself, of which nothing is copied', async () => {
    const before = await lastKey('COPY dir /to/');
    chmodSync(at('dir'), 0o700);
    renameSync(at('dir'), at('elsewhere'));
    assert.equal(await lastKey('COPY elsewhere /to/'), before);
  });

  test('changes with what a link says, and with what is a link', async () => {
    symlinkSync('other', at('dir/link'));
    await changes(
      copy,
      () => {
        rmSync(at('dir/link'));
        symlinkSync('sub', at('dir/link'));
      },
      () => {
        rmSync(at('dir/link'));
        symlinkSync('other', at('dir/link'));
      },
    );
    await changes(
      copy,
      () => {
        rmSync(at('dir/link'));
        writeFileSync(at('dir/link'), 'other');
      },
      () => {
        rmSync(at('dir/link'));
        symlinkSync('other', at('dir/link'));
      },
    );
  });

  test('changes with capabilities and users’ attributes, not with SELinux’s', async () => {
    const file = at('dir/sub/file');
    const bare = await lastKey(copy);
    setXattr(file, 'security.selinux', Buffer.from('u:r:t:s0\0'));
    assert.equal(await lastKey(copy), bare);
    setXattr(file, 'security.capability', rawSocketCapability);
    const capable = await lastKey(copy);
    assert.notEqual(capable, bare);
    setXattr(file, 'user.note', Buffer.from('1'));
    const noted = await lastKey(copy);
    assert.notEqual(noted, capable);
    setXattr(file, 'user.note', Buffer.from('2'));
    assert.notEqual(await lastKey(copy), noted);
    setXattr(at('dir/sub'), 'user.note', Buffer.from('2'));
    assert.notEqual(await lastKey(copy), noted);
  });

  test('does not change with times, owners and places of the context, nor with the order of its files', async () => {
    const before = await lastKey(copy);
    setTimes(at('dir/sub/file'), 1n, 1n);
    chownSync(at('dir/sub/file'), 1234, 5678);
    renameSync(context, join(scratch, 'moved'));
    mkdirSync(at('dir'), { recursive: true });
    plant(context, { 'dir/other': '', 'dir/sub/file': 'content' });
    assert.equal(await lastKey(copy), before);
    assert.equal(
      await keysOf(`FROM scratch\n${copy}\n`, join(scratch, 'moved')).then((all) => all[0]),
      before,
    );
  });

  test('does not change with sockets, which no image has', async () => {
    const server = createServer();
    await changesNothing(
      copy,
      () => new Promise<void>((resolve) => server.listen(at('dir/socket'), resolve)),
    );
    await new Promise((resolve) => server.close(resolve));
  });

  test('does not change with what .dockerignore leaves out, but with what it no longer does', async () => {
    plant(context, { '.dockerignore': 'dir/other\n' });
    await changesNothing(copy, () => writeFileSync(at('dir/other'), 'changed'));
    await changes(
      copy,
      () => plant(context, { '.dockerignore': '' }),
      () => plant(context, { '.dockerignore': 'dir/other\n' }),
    );
  });

  test('does not change with the umask, time zone, locale and directory of the executor', async () => {
    const before = await lastKey(`${copy}\nRUN x`);
    const umask = process.umask(0o077);
    const { TZ, LC_ALL } = process.env;
    const directory = process.cwd();
    try {
      process.env.TZ = 'Pacific/Kiritimati';
      process.env.LC_ALL = 'tr_TR.UTF-8';
      process.chdir(scratch);
      assert.equal(await lastKey(`${copy}\nRUN x`), before);
    } finally {
      process.umask(umask);
      process.chdir(directory);
      for (const [name, value] of Object.entries({ TZ, LC_ALL })) {
        if (value === undefined) Reflect.deleteProperty(process.env, name);
        else process.env[name] = value;
      }
    }
  });

  test('counts names that are no UTF-8 by their bytes', async () => {
    const name = (byte: string): Buffer => Buffer.from(`${at('dir')}/caf${byte}`, 'latin1');
    writeFileSync(name('\xe9'), '');
    await changes(
      copy,
      () => renameSync(name('\xe9'), name('\xe8')),
      () => renameSync(name('\xe8'), name('\xe9')),
    );
  });

  test('is that of a directory without the file that vanishes while it is read (G391)', async () => {
    const digest = (): Promise<string> => treeDigest(queryOf(at('dir')), { owners: false, modes: true });
    // Hashing the large file takes longer than the digest goes on without a breath; then the next one is gone.
    for (const name of ['dir/aaa-large', 'dir/bbb-vanishes'])
      execFileSync('truncate', ['-s', '64M', at(name)]);
    const before = await digest();
    const reading = digest();
    rmSync(at('dir/bbb-vanishes'));
    const found = await reading;
    assert.notEqual(found, before);
    assert.equal(found, await digest());
  });
});

describe('the key of a copied file', () => {
  test('changes with its content also through links, wildcards and hard links (BK2300)', async () => {
    plant(context, { 'real/file': 'one', 'real/second': 'two' });
    symlinkSync('real/file', at('link'));
    symlinkSync('real', at('directory'));
    linkSync(at('real/file'), at('hard'));
    for (const text of ['link', 'directory', 'directory/file', 'l*', 'direct*/fi?e', 'hard', 'real/*', '.'])
      await changes(
        `COPY ${text} /to/`,
        () => writeFileSync(at('real/file'), 'ONE'),
        () => writeFileSync(at('real/file'), 'one'),
      );
  });

  test('changes with the name that a wildcard finds', async () => {
    plant(context, { file1: 'x' });
    await changes(
      'COPY file* /to/',
      () => renameSync(at('file1'), at('file2')),
      () => renameSync(at('file2'), at('file1')),
    );
  });

  test('changes with --chown, --chmod, the destination and the way (BA2729)', async () => {
    plant(context, { file: 'x' });
    await allDiffer([
      'COPY file /to',
      'COPY file /to/',
      'COPY file /two',
      'COPY --chown=1 file /to',
      'COPY --chown=1:1 file /to',
      'COPY --chown=app file /to',
      'COPY --chmod=644 file /to',
      'COPY --chmod=755 file /to',
      'COPY --chmod=4755 file /to',
      'ADD file /to',
      'COPY file file /to/',
    ]);
    assert.equal(await lastKey('COPY --chmod=0644 file /to'), await lastKey('COPY --chmod=644 file /to'));
    assert.equal(await lastKey('WORKDIR /w\nCOPY file to'), await lastKey('WORKDIR /w\nCOPY file /w/to'));
  });
});

describe('here-documents', () => {
  test('of RUN are keyed, with what reads them (O824 BA5656 BA6043)', async () => {
    await allDiffer([
      'RUN <<EOF\na\nEOF',
      'RUN <<EOF\nb\nEOF',
      'RUN <<EOF\na\n\nEOF',
      'RUN <<EOF sh\na\nEOF',
      'RUN <<EOF ${SHELL}\na\nEOF',
      'RUN <<EOF ${SHELL}\nb\nEOF',
      'RUN cat <<EOF > /x\na\nEOF',
      'RUN cat <<"EOF" > /x\na\nEOF',
      'RUN cat <<EOF > /x && cat <<EOT > /y\na\nEOF\nb\nEOT',
      'RUN cat <<EOF > /x && cat <<EOT > /y\nb\nEOF\na\nEOT',
    ]);
    await allDiffer(['ARG X=1\nRUN <<EOF\necho $X\nEOF', 'ARG X=2\nRUN <<EOF\necho $X\nEOF']);
  });

  test('of RUN that differ in tabs that are stripped are the same', async () => {
    assert.equal(await lastKey('RUN <<-EOF\n\ta\nEOF'), await lastKey('RUN <<-EOF\n\t\ta\n\tEOF'));
  });

  test('of COPY and ADD are keyed, variables expanded unless the word is quoted (O822)', async () => {
    for (const word of ['COPY', 'ADD']) {
      await allDiffer([
        `${word} <<EOF /x\na\nEOF`,
        `${word} <<EOF /x\nb\nEOF`,
        `${word} <<EOT /x\na\nEOT`,
        `${word} <<EOF /y\na\nEOF`,
        `${word} --chmod=600 <<EOF /x\na\nEOF`,
      ]);
      const document = (start: string): string => `ARG X\n${word} <<${start} /x\nvalue $X\nEOF`;
      const one = { arguments: { X: '1' } };
      const two = { arguments: { X: '2' } };
      assert.notEqual(await lastKey(document('EOF'), one), await lastKey(document('EOF'), two));
      assert.equal(await lastKey(document('"EOF"'), one), await lastKey(document('"EOF"'), two));
      assert.equal(await lastKey(document("'EOF'"), one), await lastKey(document("'EOF'"), two));
    }
  });

  test('are stored as hashes only, as are values of variables', async () => {
    const [stage] = await planOf('FROM scratch\nARG TOKEN\nRUN use\nCOPY <<EOF /x\n$TOKEN\nEOF\n', context, {
      arguments: { TOKEN: 'hunter2' },
    });
    for (const { definition } of stage?.steps ?? []) {
      assert.ok(definition);
      assert.doesNotMatch(JSON.stringify(describeKey(definition)), /hunter2/);
    }
  });
});

describe('a variable', () => {
  const set = (X: string): PlanSetting => ({ arguments: { X } });

  test('counts where only a called script can see it (G1688)', async () => {
    for (const text of [
      'ARG X\nRUN ./script',
      'ARG X\nENV Y=$X\nRUN ./script',
      'ARG X\nARG Y=$X\nRUN ./script',
    ]) {
      assert.notEqual(await lastKey(text, set('1')), await lastKey(text, set('2')), text);
      assert.equal(await lastKey(text, set('1')), await lastKey(text, set('1')), text);
    }
    await allDiffer([
      'ENV X=1\nRUN ./script',
      'ENV X=2\nRUN ./script',
      'ENV Y=1\nRUN ./script',
      'RUN ./script',
    ]);
  });

  test('counts as ENV once it was an ARG (G728), and ENV wins', async () => {
    const text = 'ARG X\nENV X=fixed\nRUN ./script';
    assert.equal(await lastKey(text, set('1')), await lastKey(text, set('2')));
    const kept = 'ARG X\nENV X=$X\nRUN ./script';
    assert.notEqual(await lastKey(kept, set('1')), await lastKey(kept, set('2')));
  });

  test('counts in the text of COPY, ADD and WORKDIR (O792), and only there', async () => {
    plant(context, { file: 'x', other: 'y', dir1: '', dir2: '' });
    for (const text of [
      'COPY file /to$X',
      'ADD file /to$X',
      'WORKDIR /to$X',
      'COPY dir$X /to',
      'COPY --chown=$X file /to',
    ])
      assert.notEqual(
        await lastKey(`ARG X\n${text}`, set('1')),
        await lastKey(`ARG X\n${text}`, set('2')),
        text,
      );
    for (const text of ['COPY file /to', 'ADD file /to', 'WORKDIR /to'])
      assert.equal(
        await lastKey(`ARG X\n${text}`, set('1')),
        await lastKey(`ARG X\n${text}`, set('2')),
        text,
      );
  });

  test('counts from the line that declares it, and an unchanged one still hits (BA2992)', async () => {
    const text = 'RUN before\nARG X=0\nRUN after\nLABEL a=$X';
    const [one, same, two] = await Promise.all([
      keys(text, set('1')),
      keys(text, set('1')),
      keys(text, set('2')),
    ]);
    assert.deepEqual(one, same);
    assert.equal(one[0], two[0]);
    assert.notEqual(one[1], two[1]);
  });

  test('does not leak into a sibling stage (O623), nor into the image', async () => {
    const dockerfile = [
      'ARG X=global',
      'FROM scratch AS one',
      'ARG X',
      'RUN ./script',
      'FROM scratch AS two',
      'RUN ./script',
      'FROM one AS three',
      'RUN ./script',
    ].join('\n');
    const of = async (target: string, value: string): Promise<string> =>
      (await keysOf(dockerfile, context, { ...set(value), target })).at(-1) ?? '';
    assert.notEqual(await of('one', '1'), await of('one', '2'));
    assert.equal(await of('two', '1'), await of('two', '2'));
    assert.notEqual(
      await of('three', '1'),
      await of('three', '2'),
      'a stage has the ARGs of what it is FROM',
    );
    const [stage] = await planOf(dockerfile, context, { target: 'one' });
    assert.deepEqual([...(stage?.interpreted.state.env.keys() ?? [])], ['PATH'], 'no image has them');
  });

  test('that is a proxy’s counts only where the Dockerfile declares it', async () => {
    for (const name of ['http_proxy', 'HTTPS_PROXY', 'no_proxy', 'FTP_PROXY', 'ALL_PROXY']) {
      const given = (value: string): PlanSetting => ({ arguments: { [name]: value } });
      assert.equal(await lastKey('RUN x', given('http://1')), await lastKey('RUN x'), name);
      const declared = `ARG ${name}\nRUN x`;
      assert.notEqual(
        await lastKey(declared, given('http://1')),
        await lastKey(declared, given('http://2')),
        name,
      );
      const [stage] = await planOf('FROM scratch\nRUN x\n', context, given('http://1'));
      const operation = stage?.steps[0]?.operation;
      assert.ok(operation?.kind === 'run' && operation.env[name] === 'http://1', 'the command sees it');
    }
  });

  test('that nothing declares is not seen', async () => {
    assert.equal(await lastKey('RUN x', set('1')), await lastKey('RUN x'));
  });
});

describe('an instruction', () => {
  test('that only sets metadata changes no key, also when it stands between steps', async () => {
    const plain = await keys('RUN a\nRUN b');
    for (const text of [
      'LABEL a=b',
      'EXPOSE 80',
      'CMD ["x"]',
      'ENTRYPOINT x',
      'STOPSIGNAL 9',
      'HEALTHCHECK CMD x',
      'VOLUME /v',
      'MAINTAINER x',
      'ONBUILD RUN x',
      '# comment',
    ])
      assert.deepEqual(await keys(`RUN a\n${text}\nRUN b`), plain, text);
  });

  test('that sets USER, WORKDIR or SHELL changes the keys of the steps that see it', async () => {
    plant(context, { file: '' });
    await allDiffer([
      'RUN b',
      'USER 1\nRUN b',
      'USER 1:2\nRUN b',
      'SHELL ["/bin/bash", "-c"]\nRUN b',
      'WORKDIR /w\nRUN b',
    ]);
    assert.equal(await lastKey('USER 1\nCOPY file /to'), await lastKey('COPY file /to'));
    assert.equal(await lastKey('SHELL ["x"]\nCOPY file /to'), await lastKey('COPY file /to'));
    assert.notEqual(await lastKey('USER 1\nWORKDIR /to'), await lastKey('WORKDIR /to'));
    assert.equal(await lastKey('SHELL ["x"]\nRUN ["b"]'), await lastKey('RUN ["b"]'));
  });

  test('of a step changes its own key and all after it, none before it', async () => {
    const one = await keys('RUN a\nRUN b\nRUN c');
    const two = await keys('RUN a\nRUN B\nRUN c');
    assert.deepEqual(
      one.map((key, index) => key === two[index]),
      [true, false, false],
    );
    assert.notEqual(
      await lastKey('RUN a\nRUN a'),
      await lastKey('RUN a'),
      'the same step again is another one',
    );
  });
});

describe('stages', () => {
  test('with the same text on different bases have different keys', async () => {
    const dockerfile = (other: string): string =>
      `FROM scratch AS a\nRUN ${other}\nFROM scratch AS b\nRUN y\nFROM a\nRUN same\nFROM b\nRUN same\n`;
    const three = await keysOf(dockerfile('x'), context, { target: '2' });
    const four = await keysOf(dockerfile('x'), context, { target: '3' });
    assert.notEqual(three[0], four[0]);
    assert.equal(
      (await keysOf(dockerfile('y'), context, { target: '2' }))[0],
      four[0],
      'and the same on the same',
    );
  });

  test('of scratch differ by platform', () => {
    const base = (architecture: string): CacheKey =>
      stepKey({ kind: 'base', chainID: null, platform: { os: 'linux', architecture } });
    assert.notEqual(base('amd64'), base('arm64'));
    const variant = { os: 'linux', architecture: 'arm', variant: 'v6' };
    assert.notEqual(stepKey({ kind: 'base', chainID: null, platform: variant }), base('arm'));
  });

  test('are copied from by number, name and capitalised name alike', async () => {
    const key = async (from: string, first = 'x'): Promise<string> =>
      (
        await keysOf(
          `FROM scratch AS Build\nRUN ${first}\nFROM scratch\nCOPY --from=${from} /a /b\nRUN z\n`,
          context,
        )
      ).join();
    assert.equal(await key('0'), await key('build'));
    assert.equal(await key('BUILD'), await key('build'));
    assert.notEqual(await key('build', 'y'), await key('build'), 'a changed source changes it (G870 G845)');
  });

  test('that are copied from change the copy and what follows, nothing before (G1600)', async () => {
    plant(context, { file: '1' });
    const dockerfile =
      'FROM scratch AS a\nCOPY file /\nFROM scratch\nRUN first\nCOPY --from=a /file /\nRUN last\n';
    const before = await keysOf(dockerfile, context);
    writeFileSync(at('file'), '2');
    const after = await keysOf(dockerfile, context);
    assert.deepEqual(
      before.map((key, index) => key === after[index]),
      [true, false, false],
    );
  });
});
