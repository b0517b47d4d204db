import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { keyOfTag } from '../../src/layercache/index.ts';
import { unpackWithOtherTools } from '../support/check-image.ts';
import { busyboxLayer, pushTestImage } from '../support/images.ts';
import { keysOf } from '../support/plan.ts';
import { type Ended, stepsThat } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

let workshop: Workshop;
before(async () => {
  workshop = await openWorkshop();
});
after(() => workshop[Symbol.asyncDispose]());

async function succeed(context: string, args: readonly string[]): Promise<Ended> {
  const ended = await workshop.build(context, args);
  assert.equal(ended.code, 0, ended.stderr);
  return ended;
}

/** The keys that a build asked for, in order. */
function askedFor({ events }: Ended): string[] {
  return events.flatMap((event) => (event.type === 'cache' ? [event.key] : []));
}

/** Where the registry keeps the entries of `NAME/cache`, a directory for each key. */
function entriesOf(name: string): string {
  return join(workshop.registry.storage, `docker/registry/v2/repositories/${name}/cache/_manifests/tags`);
}

describe('the base of a stage', () => {
  test('counts by content, Env, User, WorkingDir and Shell, not by its documents or compression', async () => {
    const { host } = workshop.registry;
    const busybox = await busyboxLayer(join(workshop.directory, 'layer'));
    const other = join(workshop.directory, 'other.tar.gz');
    mkdirSync(join(workshop.directory, 'other'));
    execFileSync('tar', ['-C', join(workshop.directory, 'other'), '-czf', other, '.']);
    const config = { Env: ['PATH=/bin'], Cmd: ['sh'] };
    const push = async (name: string, more: object, layers = [busybox]): Promise<void> =>
      pushTestImage(workshop.directory, `${host}/bases:${name}`, { layers, config: { ...config, ...more } });
    await push('plain', {});
    await push('metadata', { Labels: { a: 'b' }, ExposedPorts: { '80/tcp': {} }, Cmd: ['other'] });
    await push('env', { Env: ['PATH=/bin', 'X=1'] });
    await push('user', { User: '1' });
    await push('directory', { WorkingDir: '/w' });
    await push('shell', { Shell: ['/bin/ash', '-c'] });
    await push('content', {}, [busybox, other]);
    const copy = (tag: string, ...options: string[]): void =>
      void execFileSync('skopeo', [
        ...['copy', '--quiet', '--src-tls-verify=false', '--dest-tls-verify=false', ...options],
        ...[`docker://${host}/bases:plain`, `docker://${host}/bases:${tag}`],
      ]);
    copy('zstd', '--dest-compress-format', 'zstd', '--format', 'oci');
    copy('docker', '--format', 'v2s2');

    const context = await workshop.context({ file: '' });
    const instructions = 'RUN a\nCOPY file to\nRUN ["b"]';
    const keys = async (tag: string): Promise<string[]> =>
      keysOf(`FROM ${host}/bases:${tag}\n${instructions}\n`, context);
    const plain = await keys('plain');
    for (const tag of ['metadata', 'zstd', 'docker']) assert.deepEqual(await keys(tag), plain, tag);
    for (const tag of ['env', 'user', 'directory', 'shell', 'content'])
      assert.notEqual((await keys(tag))[0], plain[0], tag);
    const copied = async (tag: string): Promise<string> =>
      (await keysOf(`FROM ${host}/bases:${tag}\nCOPY file /to\n`, context)).join();
    assert.equal(await copied('env'), await copied('plain'), 'a copy does not see Env');
    assert.equal(await copied('user'), await copied('plain'), 'nor User');
    assert.notEqual(await copied('content'), await copied('plain'));
    const external = async (tag: string): Promise<string> =>
      (await keysOf(`FROM scratch\nCOPY --from=${host}/bases:${tag} /bin/sh /sh\n`, context)).join();
    assert.equal(await external('zstd'), await external('plain'));
    assert.notEqual(await external('content'), await external('plain'));
  });
});

describe('keys of a build', () => {
  test('that are asked for are those that were stored, also after a cached COPY (G899 G410)', async () => {
    const name = workshop.unique('same');
    const context = await workshop.context({
      Dockerfile: [
        'FROM %BASE% AS tools',
        'RUN echo tool > /tool',
        'FROM %BASE%',
        'COPY file /file',
        'RUN cat /file > /copy',
        'COPY --from=tools /tool /tool',
        'RUN cat /tool > /last',
      ].join('\n'),
      file: 'content',
    });
    const args = ['--cache', '--destination', `${workshop.registry.host}/${name}:1`];
    const first = await succeed(context, args);
    const stored = readdirSync(entriesOf(name)).filter((tag) => keyOfTag(tag) !== undefined);
    for (const key of askedFor(first)) assert.ok(stored.includes(`k1-${key}`), key);
    // One more than the steps: the copy from the stage is stored by content too.
    assert.equal(stored.length, new Set(askedFor(first)).size + 1);

    const dockerfile = readFileSync(join(context, 'Dockerfile'), 'utf8');
    await writeFile(join(context, 'Dockerfile'), `${dockerfile}\nRUN echo > /new\n`);
    const second = await succeed(context, [...args, '--cache-dir', join(workshop.directory, 'fresh')]);
    assert.deepEqual(stepsThat('ran', second), ['RUN echo > /new']);
    assert.deepEqual(askedFor(second).slice(0, -1), askedFor(first).slice(-4));
    assert.ok(existsSync(join(entriesOf(name), `k1-${askedFor(second).at(-1) ?? ''}`)));
  });

  test('do not depend on who builds, in which directory, or with which umask', async () => {
    const name = workshop.unique('who');
    const args = ['--cache', '--destination', `${workshop.registry.host}/${name}:1`];
    const context = await workshop.context({
      Dockerfile: 'FROM %BASE%\nCOPY . /to/\nWORKDIR /w/d\nRUN umask > umask; echo > /file\n',
      'dir/file': 'x',
    });
    const umask = process.umask(0o077);
    try {
      await succeed(context, args);
    } finally {
      process.umask(umask);
    }
    const root = join(
      unpackWithOtherTools(workshop.directory, `${workshop.registry.host}/${name}:1`),
      'rootfs',
    );
    const modes = execFileSync('stat', ['-c', '%a', 'to', 'to/dir/file', 'w', 'w/d', 'file'], {
      cwd: root,
      encoding: 'utf8',
    });
    assert.equal(modes, '755\n644\n755\n755\n644\n');
    assert.equal(readFileSync(join(root, 'w/d/umask'), 'utf8'), '0022\n');
    const moved = await workshop.context({ Dockerfile: '' });
    for (const file of ['Dockerfile']) copyFileSync(join(context, file), join(moved, file));
    mkdirSync(join(moved, 'dir'), { mode: 0o755 });
    writeFileSync(join(moved, 'dir/file'), 'x');
    const again = await workshop.build(moved, args, {
      cwd: moved,
      env: { TZ: 'Asia/Tokyo', LC_ALL: 'C', USER: 'somebody' },
    });
    assert.equal(again.code, 0, again.stderr);
    assert.deepEqual(stepsThat('ran', again), []);
  });
});

describe('a copy from a context that changes while it is built', () => {
  test('is not kept under the key of what it was, and says so', async () => {
    const name = workshop.unique('changing');
    const image = `${workshop.registry.host}/${name}:1`;
    const context = await workshop.context({
      Dockerfile: 'FROM %BASE%\nRUN echo ready; sleep 2\nCOPY dir /dir\nRUN cat /dir/file > /copy\n',
      'dir/file': 'before',
    });
    const args = ['--cache', '--destination', image];
    const written = (): string =>
      readFileSync(join(unpackWithOtherTools(workshop.directory, image), 'rootfs/copy'), 'utf8');
    const first = await workshop.build(context, args, {
      onStart: (child) => {
        child.stderr?.on('data', (text: string) => {
          if (text.includes('ready')) writeFileSync(join(context, 'dir/file'), 'meanwhile');
        });
      },
    });
    assert.equal(first.code, 0, first.messages);
    assert.equal(written(), 'meanwhile');
    const warnings = first.events.flatMap((event) =>
      event.type === 'log' && event.level === 'warn' ? [event.message] : [],
    );
    assert.equal(warnings.length, 1);
    assert.match(warnings[0] ?? '', /changed while it was built/);
    await writeFile(join(context, 'dir/file'), 'before');
    await succeed(context, args);
    assert.equal(written(), 'before');
    // Now that nothing changed, it is kept.
    assert.deepEqual(stepsThat('ran', await succeed(context, args)), []);
  });
});

describe('a copy from a stage', () => {
  const output = ({ events }: Ended): string =>
    events.map((event) => (event.type === 'output' ? String(event.data) : '')).join('');
  const rootOf = (image: string): string => join(unpackWithOtherTools(workshop.directory, image), 'rootfs');
  const random = 'RUN head -c 16 /dev/urandom | md5sum | tee /one > /two; cat /one';

  test('hits by content when its source was built anew and gave the same files', async () => {
    const name = workshop.unique('content');
    const args = ['--cache', '--destination', `${workshop.registry.host}/${name}:1`];
    const dockerfile = (comment: string): string =>
      `FROM %BASE% AS made\nRUN : ${comment}; echo same > /file\nFROM %BASE%\nCOPY --from=made /file /file\n`;
    await succeed(await workshop.context({ Dockerfile: dockerfile('one') }), args);
    const again = await succeed(await workshop.context({ Dockerfile: dockerfile('two') }), args);
    assert.deepEqual(stepsThat('ran', again), ['RUN : two; echo same > /file']);
    // And the next one finds it without the source.
    const third = await succeed(await workshop.context({ Dockerfile: dockerfile('two') }), args);
    assert.deepEqual(stepsThat('cached', third), ['COPY --from=made /file /file']);
    // A change of owner or mode alone is another content (BK3291).
    for (const command of ['chown 5 /file', 'chmod 600 /file']) {
      const context = await workshop.context({
        Dockerfile: `FROM %BASE% AS made\nRUN echo same > /file; ${command}\nFROM %BASE%\nCOPY --from=made /file /file\n`,
      });
      assert.equal(stepsThat('ran', await succeed(context, args)).length, 2, command);
    }
  });

  test('misses cleanly when the source gives something else each time and is not cached (O896 G1262)', async () => {
    const name = workshop.unique('random');
    const image = `${workshop.registry.host}/${name}:1`;
    const context = await workshop.context({
      Dockerfile: `FROM %BASE% AS made\n${random}\nFROM %BASE%\nCOPY --from=made /one /one\n`,
    });
    const args = ['--cache', '--cache-run-layers=false', '--destination', image];
    const found = [];
    for (let round = 0; round < 2; round++) {
      const ended = await succeed(context, args);
      const made = output(ended);
      assert.equal(
        readFileSync(join(rootOf(image), 'one'), 'utf8'),
        made,
        'the image has what this build made',
      );
      found.push(made);
    }
    assert.notEqual(found[0], found[1]);
  });

  test('never gives files of two builds of a stage to one image', async () => {
    const name = workshop.unique('torn');
    const image = `${workshop.registry.host}/${name}:1`;
    const context = await workshop.context({
      Dockerfile: [
        'FROM %BASE% AS made',
        random,
        'FROM %BASE%',
        'COPY --from=made /one /one',
        'RUN head -c 16 /dev/urandom > /between',
        'COPY --from=made /two /two',
      ].join('\n'),
    });
    const args = ['--cache', '--destination', image];
    const [made, one, between, two] = askedFor(await succeed(context, args));
    assert.ok(made !== undefined && one !== undefined && between !== undefined && two !== undefined);
    // As if a registry's clean-up had taken the stage, and then the second copy or what is before it.
    for (const gone of [
      [made, two],
      [made, between],
    ]) {
      for (const key of gone) await rm(join(entriesOf(name), `k1-${key}`), { recursive: true });
      await succeed(context, args);
      const root = rootOf(image);
      assert.equal(readFileSync(join(root, 'one'), 'utf8'), readFileSync(join(root, 'two'), 'utf8'));
    }
  });
});
