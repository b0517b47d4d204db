import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { inspectManifest, unpackWithOtherTools } from '../support/check-image.ts';
import { pushTestImage } from '../support/images.ts';
import { makeOrdinaryUser, type OrdinaryUser } from '../support/ordinary-user.ts';
import { type Ended, type RunOptions } from '../support/programs.ts';
import { describeTree, treeDifferences } from '../support/tree.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';
import { everything, pushFullBase } from './everything.ts';

describe('an ordinary user with subordinate ids', () => {
  let workshop: Workshop;
  let user: OrdinaryUser;
  let base: string;
  before(async () => {
    workshop = await openWorkshop();
    user = await makeOrdinaryUser({ subordinateIds: true });
    base = await pushFullBase(workshop);
  });
  after(async () => {
    await user[Symbol.asyncDispose]();
    await workshop[Symbol.asyncDispose]();
  });
  const build = (context: string, args: readonly string[], options?: RunOptions): Promise<Ended> =>
    user.kiln('executor', ['--context', context, '--log-format', 'json', ...args], options);
  const rootsBuild = (context: string, args: readonly string[]): Promise<Ended> =>
    workshop.build(context, args);
  const contextOf = async (files: Readonly<Record<string, string>>): Promise<string> => {
    const context = await workshop.context(
      Object.fromEntries(
        Object.entries(files).map(([name, text]) => [name, text.replaceAll('%BASE%', base)]),
      ),
    );
    execFileSync('chmod', ['-R', 'a+rX', workshop.directory]);
    return context;
  };
  const treeOf = (image: string): Map<string, string> =>
    describeTree(join(unpackWithOtherTools(workshop.directory, image), 'rootfs'));

  test('warms a base on a volume of their own and builds the image that root builds', async () => {
    const context = await contextOf({ Dockerfile: everything, payload: 'payload' });
    const [mine, roots] = ['mine', 'roots'].map((name) => `${workshop.registry.host}/${name}:1`);
    assert.ok(mine !== undefined && roots !== undefined);
    const warmed = await user.kiln('warmer', ['--image', base]);
    assert.equal(warmed.code, 0, warmed.stderr);
    const built = await build(context, ['--destination', mine]);
    assert.equal(built.code, 0, built.stderr);
    assert.ok(!built.events.some((event) => event.type === 'transfer' && event.direction === 'pull'));
    assert.ok(existsSync(join(user.home, '.cache/kiln/layers')));
    const byRoot = await workshop.build(context, ['--destination', roots]);
    assert.equal(byRoot.code, 0, byRoot.stderr);
    const [ours, theirs] = [treeOf(mine), treeOf(roots)];
    assert.ok(ours.size > 40);
    assert.deepEqual(treeDifferences(ours, theirs), []);
    assert.match(ours.get('app/owned') ?? '', /^f 640 1000:1000 /);
    assert.match(ours.get('bin/pong') ?? '', /security\.capability=0x01/);
    assert.match(ours.get('copied/ping') ?? '', /security\.capability=0x01/);
  });

  test('makes layers with the digests that root’s have, where times are fixed', async () => {
    const fix = 'touch -h -d @1700000000';
    const context = await contextOf({
      Dockerfile: [
        'FROM %BASE%',
        `RUN echo 1 > /file && chown 1000:7 /file && mv /bin/ping /p && touch -d @1700000000 /bin && rm -r /opq /app/one && ${fix} /file /p /app`,
        `RUN rm -r /app && mkdir /app && echo 2 > /app/two && ${fix} /app/two /app`,
      ].join('\n'),
    });
    const digests = [];
    for (const [name, run] of [
      ['fixed-mine', build],
      ['fixed-roots', rootsBuild],
    ] as const) {
      const image = `${workshop.registry.host}/${name}:1`;
      const built = await run(context, ['--destination', image]);
      assert.equal(built.code, 0, built.stderr);
      digests.push(inspectManifest(image).layers.map(({ digest }) => digest));
    }
    assert.deepEqual(digests[0], digests[1]);
  });

  test('reads the layers that root stored in a shared cache, and root theirs', async () => {
    const context = await contextOf({
      Dockerfile: 'FROM %BASE%\nRUN chown 33:33 /app/one && rm -r /opq\nRUN echo 2 > /two\n',
    });
    const cache = `${workshop.registry.host}/shared-cache`;
    const args = (name: string): string[] => [
      ...['--cache', '--cache-repo', cache, '--destination', `${workshop.registry.host}/${name}:1`],
    ];
    const first = await build(context, args('first'));
    assert.equal(first.code, 0, first.stderr);
    const second = await workshop.build(context, args('second'));
    assert.equal(second.code, 0, second.stderr);
    assert.ok(!second.events.some((event) => event.type === 'step-end' && event.outcome === 'ran'));
  });

  test('is told when a step or a base wants what a user namespace cannot have', async () => {
    const nodes = join(workshop.directory, workshop.unique('nodes'));
    await mkdir(nodes);
    execFileSync('sh', [
      '-ec',
      `cd ${nodes} && mkdir root && mknod root/zero c 1 5 && ln root/zero root/again && tar -C root -czf layer.tar.gz .`,
    ]);
    const image = `${workshop.registry.host}/nodes:1`;
    await pushTestImage(nodes, image, { layers: [join(nodes, 'layer.tar.gz')] });
    const context = await contextOf({
      Dockerfile: 'FROM %BASE%\nCOPY --from=NODES /zero /zero\n'.replace('NODES', image),
    });
    const built = await build(context, ['--no-push']);
    // The base's node is left out of what is unpacked, so there is none to copy.
    assert.equal(built.code, 1, built.stderr);
    assert.match(built.stderr, /device nodes, which a user namespace may not make/);
    assert.match(built.messages, /E_COPY_SOURCE_NOT_FOUND/);
    const added = await contextOf({ Dockerfile: 'FROM %BASE%\nADD layer.tar.gz /\n' });
    execFileSync('cp', [join(nodes, 'layer.tar.gz'), added]);
    const refused = await build(added, ['--no-push']);
    assert.equal(refused.code, 1, refused.stderr);
    assert.match(refused.messages, /device node .*E_DEVICE_NODE/);
    const large = await contextOf({
      Dockerfile: 'FROM %BASE%\nCOPY --chown=70000 payload /\n',
      payload: 'x',
    });
    const unmapped = await build(large, ['--no-push']);
    assert.match(
      unmapped.messages,
      /owner 70000:70000 .* ids of this user namespace \(0-65536\) \[E_ID_UNMAPPED\]/,
    );
  });

  test('shares no volume with root', async () => {
    const context = await contextOf({ Dockerfile: 'FROM %BASE%\nRUN true\n' });
    const warmed = await user.kiln('warmer', ['--image', base]);
    assert.equal(warmed.code, 0, warmed.stderr);
    const theirs = await workshop.build(context, [
      '--no-push',
      '--cache-dir',
      join(user.home, '.cache/kiln'),
    ]);
    assert.equal(theirs.code, 3, theirs.stderr);
    assert.match(theirs.messages, /unpacked with other ids: .*E_VOLUME_OWNERS/);
    const roots = await workshop.build(context, ['--no-push']);
    assert.equal(roots.code, 0, roots.stderr);
    const changed = await contextOf({ Dockerfile: 'FROM %BASE%\nRUN echo changed\n' });
    const mine = await build(changed, ['--no-push', '--cache-dir', workshop.volume]);
    assert.equal(mine.code, 3, mine.stderr);
    assert.match(mine.messages, /E_VOLUME_OWNERS[^]*remedy: Give another directory with --cache-dir/);
  });

  test('has one process: the one that was started, with its exit codes, its input and its signals', async () => {
    const context = await contextOf({ Dockerfile: 'FROM %BASE%\nRUN echo ready; sleep 300\n' });
    const failing = await contextOf({ Dockerfile: 'FROM %BASE%\nRUN exit 7\n' });
    const failed = await build(failing, ['--no-push']);
    assert.equal(failed.code, 1, failed.stderr);
    assert.match(failed.messages, /exit code 7/);
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGKILL'] as const) {
      let states: string[] = [];
      let streams: string[] = [];
      let started = 0;
      const ended = await build(context, ['--no-push'], {
        onStart: (child) => {
          started = child.pid ?? 0;
          child.stderr?.on('data', (text: string) => {
            if (!text.includes('"output"')) return;
            states = childrenOf(started);
            streams = [0, 1, 2].map((fd) => readlinkSync(`/proc/${started}/fd/${fd}`));
            child.kill(signal);
          });
        },
      });
      const expected = { SIGINT: 130, SIGTERM: 143, SIGKILL: null }[signal];
      assert.equal(ended.code, expected, ended.stderr);
      // The step's init and its command, children of the executor itself; none that has ended and is not waited for.
      assert.ok(states.length > 0);
      assert.ok(!states.includes('Z'), states.join());
      assert.ok(streams.every((stream) => stream.startsWith('socket:') || stream.startsWith('pipe:')));
      assert.equal(new Set(streams).size, 3);
      for (let attempt = 0; attempt < 100 && processesOf(user.uid).length > 0; attempt++) await sleep(50);
      assert.deepEqual(processesOf(user.uid), []);
    }
  });

  test('keeps what steps must not see from them', async () => {
    const secret = workshop.unique('secret');
    const home = join(user.home, '.docker');
    execFileSync('sh', [
      '-ec',
      `mkdir -p ${home} && echo '{}' > ${home}/config.json && chown -R ${user.uid} ${home}`,
    ]);
    const attempts = [
      `cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n' | grep ^REGISTRY_PASSWORD=`,
      `ls ${user.home}`,
      `cat ${home}/config.json`,
      `ls /proc/1/root/${user.home}`,
      'mount -t tmpfs none /tmp',
      'mount -o remount,rw /sys',
      'mknod /tmp/disk b 8 0',
      'ls /sys/fs/cgroup | grep .',
      'echo 1 > /proc/sys/kernel/panic',
      'cat /proc/1/environ | grep .',
      'keyctl search @s user of-the-session',
    ];
    const context = await contextOf({
      Dockerfile: [
        'FROM %BASE%',
        'RUN keyctl add user of-the-step value @s && keyctl search @s user of-the-step',
        ...attempts.map((attempt) => `RUN ! { ${attempt}; }`),
      ].join('\n'),
    });
    const session = 'keyctl add user of-the-session value @s && exec "$@"';
    const built = await build(context, ['--no-push'], {
      env: { REGISTRY_PASSWORD: secret },
      under: [...user.under, 'keyctl', 'session', '-', 'sh', '-c', session, 'sh'],
    });
    assert.equal(built.code, 0, built.stderr);
  });
});

describe('an ordinary user without subordinate ids', () => {
  let workshop: Workshop;
  let user: OrdinaryUser;
  let base: string;
  before(async () => {
    workshop = await openWorkshop();
    user = await makeOrdinaryUser({ subordinateIds: false });
    base = await pushFullBase(workshop);
    execFileSync('chmod', ['-R', 'a+rX', workshop.directory]);
  });
  after(async () => {
    await user[Symbol.asyncDispose]();
    await workshop[Symbol.asyncDispose]();
  });
  const build = async (dockerfile: string, ...args: string[]): Promise<Ended> => {
    const files = { Dockerfile: dockerfile.replaceAll('%BASE%', base), payload: 'payload' };
    const context = await workshop.context(files);
    execFileSync('chmod', ['-R', 'a+rX', context]);
    return user.kiln('executor', ['--context', context, '--log-format', 'json', ...args]);
  };

  test('is told in one line why and what will not work', async () => {
    const built = await build('FROM %BASE%\nRUN true\n', '--no-push');
    assert.equal(built.code, 0, built.stderr);
    const told = built.events.filter((event) => event.type === 'log' && event.level === 'warn');
    assert.equal(told.length, 1);
    assert.match(
      JSON.stringify(told[0]),
      new RegExp(`no id but root's here \\(/etc/subuid has no line for ${user.name}\\): RUN as another user`),
    );
  });

  test('is what a user becomes whose programs may gain no rights', async () => {
    await using other = await makeOrdinaryUser({ subordinateIds: true });
    const context = await workshop.context({ Dockerfile: `FROM ${base}\nRUN true\n` });
    execFileSync('chmod', ['-R', 'a+rX', context]);
    const under = [...other.under.slice(0, -1), '--no-new-privs', '--'];
    const built = await other.kiln('executor', ['--context', context, '--no-push'], { under });
    assert.equal(built.code, 0, built.stderr);
    assert.match(built.stderr, /no id but root's here \(this process may gain no rights \(no_new_privs\)/);
  });

  test('builds what root alone can, and owners of files that no step touches stay', async () => {
    const image = `${workshop.registry.host}/single:1`;
    const built = await build(
      'FROM %BASE% AS made\nCOPY --chown=1000:5 payload /p\nFROM %BASE%\nRUN echo more >> /app/owned\nCOPY --from=made /p /q\nCOPY payload /r\nRUN test ! -e /opq/hidden && echo x > /x\n',
      ...['--destination', image],
    );
    assert.equal(built.code, 0, built.stderr);
    const tree = describeTree(join(unpackWithOtherTools(workshop.directory, image), 'rootfs'));
    assert.match(tree.get('app/owned') ?? '', /^f 640 1000:1000 1 [0-9a-f]+$/);
    assert.match(tree.get('q') ?? '', /^f 644 1000:5 1 [0-9a-f]+$/);
    assert.match(tree.get('r') ?? '', /^f 644 0:0 /);
    assert.match(tree.get('x') ?? '', /^f 644 0:0 /);
    assert.match(tree.get('bin/ping') ?? '', /security\.capability=0x01/);
  });

  test('fails where another id is needed', async () => {
    const run = await build('FROM %BASE%\nUSER app\nRUN true\n', '--no-push');
    assert.equal(run.code, 3, run.stderr);
    assert.match(
      run.messages,
      /Dockerfile:3: user 1000 is not among the ids .*E_ID_UNMAPPED[^]*remedy: .*subordinate ids/,
    );
    const chown = await build('FROM %BASE%\nRUN chown app /app\n', '--no-push');
    assert.equal(chown.code, 1, chown.stderr);
  });

  test('stores nothing in a cache that others read', async () => {
    const repository = `${workshop.registry.host}/never`;
    const args = ['--cache', '--cache-repo', repository, '--no-push'];
    const built = await build('FROM %BASE%\nRUN echo 1 > /one\n', ...args);
    assert.equal(built.code, 0, built.stderr);
    const stored = (await workshop.registry.accessLog()).filter((line) => /^P\S+ \/v2\/never\//.test(line));
    assert.deepEqual(stored, []);
  });

  test('has a volume of a kind of its own', async () => {
    execFileSync('usermod', ['--add-subuids', '300000-365535', '--add-subgids', '300000-365535', user.name]);
    try {
      const built = await build('FROM %BASE%\nRUN true\n', '--no-push');
      assert.equal(built.code, 3, built.stderr);
      assert.match(built.messages, /unpacked in a user namespace with a single id .*E_VOLUME_OWNERS/);
    } finally {
      execFileSync('usermod', [
        '--del-subuids',
        '300000-365535',
        '--del-subgids',
        '300000-365535',
        user.name,
      ]);
    }
  });
});

describe('a place without user namespaces', () => {
  test('is told by its reason and remedy', async () => {
    await using user = await makeOrdinaryUser({ subordinateIds: true });
    // A user namespace with limits of its own, in which the user is one of many.
    const holder = spawn('unshare', ['--user', 'cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
    try {
      holder.stdin.write('x');
      await once(holder.stdout, 'data');
      for (const kind of ['uid', 'gid'])
        writeFileSync(`/proc/${String(holder.pid)}/${kind}_map`, '0 0 100000');
      const script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"';
      const inside = ['nsenter', `--user=/proc/${String(holder.pid)}/ns/user`, 'sh', '-c', script, 'sh'];
      const under = [...inside, ...user.under];
      const ended = await user.kiln('warmer', ['--image', 'registry.invalid/x'], { under });
      assert.equal(ended.code, 3, ended.stderr);
      assert.match(
        ended.messages,
        /there can be none: user\.max_user_namespaces is 0 \[E_USER_NAMESPACE\]\n {2}remedy: Set it with: sysctl/,
      );
      const helped = await user.kiln('warmer', ['--help'], { under });
      assert.equal(helped.code, 0, helped.stderr);
    } finally {
      holder.kill();
    }
  });
});

/** States of a process's children, as one letter each. */
function childrenOf(pid: number): string[] {
  return processes()
    .filter((fields) => Number(fields[1]) === pid)
    .map(([state = '']) => state);
}

/** Each process's fields of proc_pid_stat(5) from the third on. */
function processes(): string[][] {
  return readdirSync('/proc')
    .filter((pid) => /^[0-9]+$/.test(pid))
    .flatMap((pid) => {
      try {
        return [
          readFileSync(`/proc/${pid}/stat`, 'utf8')
            .replace(/^.*\) /s, '')
            .split(' '),
        ];
      } catch {
        return []; // it has ended
      }
    });
}

function processesOf(uid: number): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^[0-9]+$/.test(pid)) return false;
    try {
      return new RegExp(`^Uid:\\s+${uid}\\s`, 'm').test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    } catch {
      return false; // it has ended
    }
  });
}
