import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createServer } from 'node:net';
import { copyFileSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type MountSources, noMountSources } from '../../executor/mounts/sources.ts';
import { acquireCacheMount } from '../../src/volume/index.ts';
import { type LocalBase, openLocalBase } from '../support/local-base.ts';

/*
 * `RUN --mount`, `--network` and scripts on an overlay, as root. That other ways of isolation make the same of it is tested
 * with the Dockerfiles of test/parity, that images are those of another builder in test/reference.
 */

let ground: LocalBase;
let files: string;
before(async () => {
  ground = await openLocalBase();
  files = await ground.context({
    '.dockerignore': 'ignored\n',
    ignored: 'x',
    'src/a': 'a',
    'src/sub/b': 'b',
    file: 'f',
  });
});
after(() => ground[Symbol.asyncDispose]());

const linesOf = (text: string): string[] => text.split('\n').filter((line) => line !== '');
const cache = (): string => `oci:${ground.directory}/cache`;

describe('a bind mount', () => {
  test('shows the context without what is ignored, can be written, and leaves nothing', async () => {
    const { output, layers } = await ground.build(
      [
        'FROM base',
        'RUN --mount=target=/context ls -A /context && cat /context/src/sub/b && ! touch /context/x 2>/dev/null',
        'RUN --mount=source=src,target=/new/place,rw stat -c %u:%g /new/place/a && echo more > /new/place/a && rm /new/place/sub/b && cat /new/place/a && touch /made',
        'RUN --mount=source=file,target=/etc/one cat /etc/one; ls /new /context 2>&1 || true',
      ].join('\n'),
      { context: files },
    );
    assert.deepEqual(linesOf(output), [
      ...['.dockerignore', 'file', 'src', 'b0:0', 'more'],
      ...['fls: /new: No such file or directory', 'ls: /context: No such file or directory'],
    ]);
    assert.deepEqual(layers, [['made']]);
    assert.equal(readFileSync(join(files, 'src/a'), 'utf8'), 'a');
  });

  test('has a stage or an image built that nothing else needs', async () => {
    const { output, layers } = await ground.build(
      [
        'FROM base AS tools',
        'RUN mkdir /tools && echo tool > /tools/one && ln -s one /tools/link && chown 7:8 /tools/one',
        'FROM base AS other',
        'RUN exit 1',
        'FROM base',
        'WORKDIR /work',
        'RUN --mount=from=tools,source=/tools,target=t --mount=from=base,target=/image --mount=from=tools,source=tools/link,target=/link pwd; cat t/link /link; stat -c %u:%g t/one; ls /image/bin/sh',
      ].join('\n'),
    );
    assert.deepEqual(linesOf(output), ['/work', 'tool', 'tool', '7:8', '/image/bin/sh']);
    assert.deepEqual(layers, [['work/']]);
  });

  test('counts in the key by its content', async () => {
    const dockerfile =
      'FROM base\nRUN --mount=source=src,target=/src --mount=type=cache,target=/cache cat /src/a > /a';
    const build = async (a: string, ignored = 'x'): Promise<readonly string[]> => {
      const context = await ground.context({ '.dockerignore': 'src/no\n', 'src/a': a, 'src/no': ignored });
      return (await ground.build(dockerfile, { context, cache: cache() })).outcomes;
    };
    assert.deepEqual(await build('1'), ['ran']);
    assert.deepEqual(await build('1', 'other'), ['cached']);
    assert.deepEqual(await build('2'), ['ran']);
    assert.deepEqual(await build('1'), ['cached']);
  });

  test('of a stage that gives the same files again needs no other run', async () => {
    const build = async (how: string): Promise<readonly string[]> =>
      (
        await ground.build(
          `FROM base AS made\nRUN ${how} > /file\nFROM base\nRUN --mount=from=made,source=/file,target=/file cat /file > /copy`,
          { cache: cache() },
        )
      ).outcomes;
    assert.deepEqual(await build('echo same'), ['ran', 'ran']);
    assert.deepEqual(await build('printf "same\\n"'), ['ran', 'cached']);
  });

  test('of what is not there is refused, with its line', async () => {
    await assert.rejects(ground.build('FROM base\nRUN --mount=source=nothing,target=/x true'), {
      code: 'E_COPY_SOURCE_NOT_FOUND',
      where: 'Dockerfile:2',
    });
    await assert.rejects(ground.build('FROM base\nRUN --mount=from=base,source=/nothing,target=/x true'), {
      code: 'E_COPY_SOURCE_NOT_FOUND',
      where: 'Dockerfile:2',
      message: /"\/nothing" is not in the image/,
    });
    await assert.rejects(ground.build('FROM base\nRUN --mount=from=base,target=/bin/sh true'), {
      code: 'E_MOUNT_TARGET',
    });
  });
});

describe('a cache mount', () => {
  test('is kept between builds, outside of layers, by its id, owner and mode', async () => {
    const first = await ground.build(
      [
        'FROM base',
        'RUN --mount=type=cache,target=/root/.cache,id=kept echo one > /root/.cache/file',
        'RUN --mount=type=cache,target=/other,id=kept,sharing=locked cat /other/file && stat -c "%a %u:%g" /other',
        'RUN --mount=type=cache,target=/other,id=kept,mode=0750,uid=3,gid=4 ls /other && stat -c "%a %u:%g" /other',
        'RUN --mount=type=cache,target=/ro,id=kept,ro ! touch /ro/x 2>/dev/null && cat /ro/file',
      ].join('\n'),
    );
    assert.deepEqual(linesOf(first.output), ['one', '755 0:0', '750 3:4', 'one']);
    assert.deepEqual(first.layers, []);
    const second = await ground.build('FROM base\nRUN --mount=type=cache,target=/x,id=kept cat /x/file');
    assert.equal(second.output, 'one\n');
  });

  test('begins with files of a stage or of the context', async () => {
    const { output } = await ground.build(
      [
        'FROM base AS seed',
        'RUN mkdir /seed && echo seed > /seed/file && chown 5:6 /seed/file',
        'FROM base',
        'RUN --mount=type=cache,target=/c,from=seed,source=/seed cat /c/file && stat -c %u:%g /c/file && echo new > /c/file',
        'RUN --mount=type=cache,target=/c,from=seed,source=/seed cat /c/file',
      ].join('\n'),
    );
    assert.deepEqual(linesOf(output), ['seed', '5:6', 'new']);
  });

  test('that is locked waits for who has it, a private one does not', async () => {
    await ground.build('FROM base\nRUN --mount=type=cache,target=/c,id=busy echo x > /c/file');
    const holder = await acquireCacheMount(ground.volume, {
      id: 'busy',
      variant: { mode: null, uid: null, gid: null, from: null },
      sharing: 'shared',
      owner: { uid: 0, gid: 0 },
      mode: 0o755,
    });
    const shared = await ground.build('FROM base\nRUN --mount=type=cache,target=/c,id=busy ls /c');
    assert.equal(shared.output, 'file\n');
    const other = await ground.build(
      'FROM base\nRUN --mount=type=cache,target=/c,id=busy,sharing=private ls /c',
    );
    assert.equal(other.output, '');
    const waiting = ground.build('FROM base\nRUN --mount=type=cache,target=/c,id=busy,sharing=locked ls /c');
    let ended = false;
    void waiting.then(() => (ended = true));
    await new Promise((resolve) => setTimeout(resolve, 1500));
    assert.equal(ended, false);
    await holder[Symbol.asyncDispose]();
    assert.equal((await waiting).output, 'file\n');
  });
});

test('a tmpfs is empty, as large as it may be, and gone afterwards', async () => {
  const { output, layers } = await ground.build(
    [
      'FROM base',
      'RUN mkdir /there && echo kept > /there/file',
      'RUN --mount=type=tmpfs,target=/there,size=1m ls /there; ! dd if=/dev/zero of=/there/big bs=1M count=2 2>/dev/null; stat -f -c %T /there',
      'RUN cat /there/file',
    ].join('\n'),
  );
  assert.deepEqual(linesOf(output), ['tmpfs', 'kept']);
  assert.deepEqual(layers, [['there/', 'there/file']]);
});

describe('a secret', () => {
  test('is a file or a variable of one step, and nowhere else', async () => {
    const secretFile = join(ground.directory, 'token');
    writeFileSync(secretFile, 'hush-hush');
    const mountSources: MountSources = {
      ...noMountSources,
      secrets: new Map([['token', { kind: 'file', path: secretFile }]]),
    };
    const dockerfile = [
      'FROM base',
      'RUN --mount=type=secret,id=token cat /run/secrets/token | tr a-z A-Z; stat -c "%a %u:%g %T" /run/secrets/token; ! echo > /run/secrets/token',
      'RUN --mount=type=secret,id=token,target=/root/.netrc,mode=0440,uid=5,gid=6 stat -c "%a %u:%g" /root/.netrc',
      'RUN --mount=type=secret,id=token,env=TOKEN case "$TOKEN" in hush?hush) ls /run/secrets 2>&1 || true;; esac',
      'RUN --mount=type=secret,id=absent ls /run/secrets 2>&1 || true',
      'RUN test -z "$TOKEN" && ls /root/.netrc /run/secrets 2>&1 || true',
    ].join('\n');
    const { output, layers, events, layout } = await ground.build(dockerfile, {
      mountSources,
      cache: cache(),
    });
    const lines = linesOf(output);
    assert.match(lines[0] ?? '', /^HUSH-HUSH400 0:0/);
    assert.equal(lines.includes('440 5:6'), true);
    assert.equal(lines.filter((line) => line.endsWith('No such file or directory')).length, 4, output);
    assert.deepEqual(layers, []);
    assert.doesNotMatch(JSON.stringify(events), /hush-hush/);
    const holders = [layout.replace(/:latest$/, ''), join(ground.directory, 'cache'), ground.volume];
    assert.equal(
      execFileSync('sh', ['-c', `grep -rl hush-hush ${holders.join(' ')} || true`], { encoding: 'utf8' }),
      '',
    );
    // Its content does not count.
    writeFileSync(secretFile, 'another');
    const again = await ground.build(dockerfile, { mountSources, cache: cache() });
    assert.deepEqual(new Set(again.outcomes), new Set(['cached']));
  });

  test('that is required and not given fails its step', async () => {
    await assert.rejects(ground.build('FROM base\nRUN --mount=type=secret,id=token,required true'), {
      code: 'E_SECRET_MISSING',
      where: 'Dockerfile:2',
    });
  });
});

describe('an agent', () => {
  /** The program that speaks to agents, with what it is linked with: the base has none. */
  const agentTools = async (): Promise<string> => {
    const directory = await ground.context({ '.dockerignore': '' });
    const program = execFileSync('sh', ['-c', 'command -v ssh-add'], { encoding: 'utf8' }).trim();
    const libraries = execFileSync('ldd', [program], { encoding: 'utf8' }).match(/\/\S+/g) ?? [];
    for (const file of [program, ...libraries]) copyFileSync(file, join(directory, basename(file)));
    const loader = basename(libraries.at(-1) ?? '');
    const run = `#!/bin/sh\nexec /tools/${loader} --library-path /tools /tools/ssh-add "$@"\n`;
    writeFileSync(join(directory, 'run'), run, { mode: 0o755 });
    return directory;
  };

  test('can be asked by its step, but not changed', async () => {
    const key = join(ground.directory, 'key');
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', 'of a file', '-f', key]);
    const asked: number[] = [];
    const agentPath = join(ground.directory, 'agent.sock');
    const agent = createServer((socket) => {
      socket.on('data', (data) => {
        asked.push(data[4] ?? 0);
        socket.write(Buffer.from([0, 0, 0, 5, 12, 0, 0, 0, 0]));
      });
    }).listen(agentPath);
    try {
      const agents = new Map([
        ['default', [key]],
        ['agent', [agentPath]],
      ]);
      const { output, layers } = await ground.build(
        [
          'FROM base',
          'RUN --mount=type=ssh,mode=0666,uid=3 echo $SSH_AUTH_SOCK; stat -c "%a %u %F" $SSH_AUTH_SOCK',
          'RUN --mount=type=ssh --mount=target=/tools /tools/run -l && /tools/run -T /tools/key.pub && ! /tools/run -D 2>/dev/null',
          'RUN --mount=type=ssh,id=agent,target=/agent --mount=target=/tools /tools/run -l; /tools/run -D 2>/dev/null || true',
          'RUN --mount=type=ssh,id=none ls $SSH_AUTH_SOCK 2>&1 || true',
        ].join('\n'),
        {
          mountSources: { ...noMountSources, agents },
          context: await agentTools().then((directory) => {
            copyFileSync(`${key}.pub`, join(directory, 'key.pub'));
            return directory;
          }),
        },
      );
      const [path, facts, listed, none, missing] = linesOf(output);
      assert.equal(path, '/run/buildkit/ssh_agent.0');
      assert.equal(facts, '666 3 socket');
      assert.match(listed ?? '', /^256 SHA256:\S+ of a file \(ED25519\)$/);
      assert.equal(none, 'The agent has no identities.');
      assert.match(missing ?? '', /No such file/);
      assert.deepEqual(asked, [11]);
      assert.deepEqual(layers, []);
    } finally {
      agent.close();
    }
  });
});

test('a step without a network has the loopback device alone', async () => {
  const { output } = await ground.build(
    'FROM base\nRUN --network=none ip -o link | cut -d: -f2; ping -c1 -W1 127.0.0.1 >/dev/null && echo up\nRUN --network=host ip -o link | wc -l',
  );
  const [device, state, count] = linesOf(output).map((line) => line.trim());
  assert.equal(device, 'lo');
  assert.equal(state, 'up');
  assert.equal(
    Number(count),
    readdirSync('/sys/class/net').filter((name) => statSync(`/sys/class/net/${name}`).isDirectory()).length,
  );
});

test('rights that one step cannot have are refused, with the flag marked', async () => {
  await assert.rejects(ground.build('FROM base\nRUN --security=insecure true'), {
    code: 'E_RUN_SECURITY',
    excerpt: '    2 | RUN --security=insecure true\n      |     ^^^^^^^^^^^^^^^^^^^',
  });
  await assert.rejects(ground.build('FROM base\nRUN --device=vendor.com/gpu=0 true'), {
    code: 'E_RUN_DEVICE',
  });
});

describe('a here-document of RUN', () => {
  test('that begins with an interpreter is run by it, others are scripts or input', async () => {
    const { output, layers } = await ground.build(
      [
        'FROM base',
        'RUN <<EOF',
        '#!/bin/awk -f',
        'BEGIN { print "awk", ENVIRON["HOME"] }',
        'EOF',
        'RUN --mount=type=tmpfs,target=/t <<-"EOF"',
        '\t#!/bin/sh',
        '\techo "$0 $HOME"',
        'EOF',
        'RUN <<A cat - && <<B tr a-z A-Z',
        'first',
        'A',
        'second',
        'B',
        'RUN <<EOF',
        'echo script',
        'ls /dev/pipes 2>/dev/null || echo gone',
        'EOF',
      ].join('\n'),
    );
    assert.deepEqual(linesOf(output), [
      ...['awk /root', '/dev/pipes/EOF /root', 'first', 'SECOND', 'script', 'gone'],
    ]);
    assert.deepEqual(layers, []);
  });

  test('that is run as a program counts in the key', async () => {
    const build = async (text: string): Promise<readonly string[]> =>
      (await ground.build(`FROM base\nRUN <<EOF\n#!/bin/sh\n${text}\nEOF`, { cache: cache() })).outcomes;
    assert.deepEqual([await build('true'), await build(':'), await build('true')].flat(), [
      'ran',
      'ran',
      'cached',
    ]);
  });
});
