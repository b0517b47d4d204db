import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { inspectConfig, unpackLayout } from '../support/check-image.ts';
import { kiln, stepsThat } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

describe('an image goes to', () => {
  let workshop: Workshop;
  let context: string;
  before(async () => {
    workshop = await openWorkshop();
    context = await workshop.context({
      Dockerfile: [
        'FROM %BASE% AS app',
        'ARG VERSION=0',
        'RUN echo "version $VERSION" > /version',
        'LABEL stage=app',
        'FROM app',
        'LABEL stage=last',
        'ENTRYPOINT ["cat"]',
        'CMD ["/version"]',
      ].join('\n'),
    });
  });
  after(() => workshop[Symbol.asyncDispose]());

  const build = async (...args: string[]): Promise<void> => {
    const ended = await workshop.build(context, args);
    assert.equal(ended.code, 0, ended.stderr);
  };
  const digestOf = (image: string): string =>
    execFileSync('skopeo', ['inspect', '--tls-verify=false', '--format', '{{.Digest}}', image], {
      encoding: 'utf8',
    }).trim();

  test('several destinations, and its digest to a file', async () => {
    const one = `${workshop.registry.host}/${workshop.unique('one')}:a`;
    const two = `${workshop.registry.host}/${workshop.unique('two')}/nested:b`;
    const file = join(workshop.directory, 'new/directory/digest');
    await build('--destination', one, '--destination', two, '--digest-file', file);
    assert.equal(digestOf(`docker://${one}`), digestOf(`docker://${two}`));
    assert.equal(readFileSync(file, 'utf8'), digestOf(`docker://${one}`));
  });

  test('the destinations that take it, and the error names the others', async () => {
    const good = `${workshop.registry.host}/${workshop.unique('good')}:1`;
    const file = join(workshop.directory, 'never-written');
    const args = ['--destination', good, '--destination', '127.0.0.1:1/bad:1', '--digest-file', file];
    // As it is when the registry goes down while the image is built.
    const ended = await workshop.build(context, [
      ...args,
      '--push-retry',
      '0',
      '--skip-push-permission-check',
    ]);
    assert.equal(ended.code, 4);
    assert.ok(
      ended.messages.startsWith(`error: not pushed to 127.0.0.1:1/bad:1; pushed to ${good}: `),
      ended.messages,
    );
    assert.match(digestOf(`docker://${good}`), /^sha256:/);
    assert.equal(existsSync(file), false);
  });

  test('nowhere with --no-push', async () => {
    const image = `${workshop.registry.host}/${workshop.unique('nowhere')}:1`;
    await workshop.registry.clearLog();
    await build('--destination', image, '--no-push');
    const written = (await workshop.registry.accessLog()).filter((line) => /^(?:PUT|POST|PATCH)/.test(line));
    assert.deepEqual(written, []);
  });

  test('a tar file that other tools load', async () => {
    const path = join(workshop.directory, 'app.tar');
    await build('--no-push', '--tar-path', path, '--destination', 'registry.invalid/team/app:7');
    const listed = execFileSync('skopeo', ['list-tags', `docker-archive:${path}`], { encoding: 'utf8' });
    assert.match(listed, /registry\.invalid\/team\/app:7/);
    const layout = join(workshop.directory, 'from-archive');
    execFileSync('skopeo', ['copy', '--quiet', `docker-archive:${path}`, `oci:${layout}:x`]);
    assert.equal(
      readFileSync(join(unpackLayout(workshop.directory, `${layout}:x`), 'rootfs/version'), 'utf8'),
      'version 0\n',
    );
  });

  test('an OCI layout that other tools read, beside what is there already', async () => {
    const layout = join(workshop.directory, 'layout');
    await build(
      '--no-push',
      '--oci-layout-path',
      layout,
      '--destination',
      'registry.invalid/app:one',
      '--build-arg',
      'VERSION=1',
    );
    await build(
      '--no-push',
      '--oci-layout-path',
      layout,
      '--destination',
      'registry.invalid/app:two',
      '--build-arg',
      'VERSION=2',
    );
    for (const [name, version] of [
      ['one', 1],
      ['two', 2],
    ] as const) {
      const root = join(unpackLayout(workshop.directory, `${layout}:${name}`), 'rootfs');
      assert.equal(readFileSync(join(root, 'version'), 'utf8'), `version ${version}\n`);
    }
  });

  test('its destination with labels, and with the target that was asked for', async () => {
    const image = `${workshop.registry.host}/${workshop.unique('target')}:1`;
    await build('--destination', image, '--target', 'app', '--label', 'a=b=c', '--label', 'stage=flag');
    const { config } = inspectConfig(image);
    assert.deepEqual(config.Labels, { a: 'b=c', stage: 'flag' });
    assert.equal(config.Entrypoint, undefined);
  });

  test('its destination with what every instruction says of it', async () => {
    const image = `${workshop.registry.host}/${workshop.unique('config')}:1`;
    const everything = await workshop.context({
      Dockerfile: [
        'FROM scratch',
        'ARG WHO=someone',
        'ENV A=1 B="two words" C=$WHO',
        'ENV old form',
        'LABEL a="b c" d=$A',
        'MAINTAINER Some Body <some@body>',
        'USER 12:34',
        'WORKDIR /w',
        'WORKDIR sub/../dir',
        'EXPOSE 80 90/udp 8000-8001',
        'VOLUME ["/data", "/more"]',
        'SHELL ["/bin/bash", "-c"]',
        'ENTRYPOINT run ${A}',
        'CMD ["x", "y"]',
        'STOPSIGNAL SIGUSR1',
        'HEALTHCHECK --interval=1m30s --retries=3 CMD check',
        'ONBUILD RUN later',
      ].join('\n'),
    });
    const ended = await workshop.build(everything, ['--destination', image, '--label', 'flag=1']);
    assert.equal(ended.code, 0, ended.messages);
    const { config, author } = inspectConfig(image);
    assert.equal(author, 'Some Body <some@body>');
    assert.deepEqual(config, {
      User: '12:34',
      WorkingDir: '/w/dir',
      Env: [
        'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        ...['A=1', 'B=two words', 'C=someone', 'old=form'],
      ],
      Labels: { a: 'b c', d: '1', flag: '1' },
      ExposedPorts: { '80/tcp': {}, '8000/tcp': {}, '8001/tcp': {}, '90/udp': {} },
      Volumes: { '/data': {}, '/more': {} },
      Entrypoint: ['/bin/bash', '-c', 'run ${A}'],
      Cmd: ['x', 'y'],
      StopSignal: 'SIGUSR1',
      Healthcheck: { Test: ['CMD-SHELL', 'check'], Interval: 90e9, Retries: 3 },
      OnBuild: ['RUN later'],
      Shell: ['/bin/bash', '-c'],
    });
  });

  test('the same digest when nothing changed, from the cache', async () => {
    const image = `${workshop.registry.host}/${workshop.unique('same')}:1`;
    await build('--destination', image, '--cache');
    const first = digestOf(`docker://${image}`);
    await build('--destination', image, '--cache');
    assert.equal(digestOf(`docker://${image}`), first);
  });
});

describe('the executor', () => {
  let workshop: Workshop;
  before(async () => {
    workshop = await openWorkshop();
  });
  after(() => workshop[Symbol.asyncDispose]());

  test('prints plain lines prefixed by stage and step, and the output of steps unaltered', async () => {
    const context = await workshop.context({
      Dockerfile: 'FROM %BASE% AS app\nRUN printf "tab\\there\\n\\nlast without end"\n',
    });
    const { code, stderr } = await kiln('executor', [
      '--context',
      context,
      '--no-push',
      '--cache-dir',
      workshop.volume,
    ]);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /^\[app 1\/1\] RUN printf/m);
    assert.match(
      stderr,
      /^\[app 1\/1\] \| tab\there\n\[app 1\/1\] \| \n\[app 1\/1\] \| last without end\n\[app 1\/1\] done in /m,
    );
  });

  test('draws a live line for a running step on a terminal, and takes it away', async () => {
    const context = await workshop.context({ Dockerfile: 'FROM %BASE% AS app\nRUN sleep 1; echo said\n' });
    const program = join(import.meta.dirname, '../../executor/main.ts');
    const args = [program, '--context', context, '--no-push', '--cache-dir', workshop.volume];
    // script(1) gives it a terminal; CI must not be set, which makes lines plain.
    const command = [process.execPath, ...args].map((word) => `'${word}'`).join(' ');
    const { stdout } = await promisify(execFile)('script', ['-qec', `env -u CI ${command}`, '/dev/null'], {
      env: { PATH: process.env.PATH, TERM: 'xterm', HOME: '/nonexistent' },
    });
    const text = stdout.replaceAll('\r', '');
    assert.match(text, /\[app 1\/1\] RUN sleep 1; echo said +0\.[0-9]{2}s\n/, 'a line with the time so far');
    assert.match(text, /\[1A.\[J\[app 1\/1\] \| said\n/, 'cleared before the output');
    assert.match(text, /\[app 1\/1\] done in .*\nbuilt sha256:/);
  });

  test('takes flags from the environment', async () => {
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN echo > /x\n' });
    const ended = await kiln('executor', [], {
      env: {
        KILN_CONTEXT: context,
        KILN_NO_PUSH: 'true',
        KILN_CACHE_DIR: workshop.volume,
        KILN_LOG_FORMAT: 'json',
      },
    });
    assert.equal(ended.code, 0, ended.stderr);
    assert.deepEqual(stepsThat('ran', ended), ['RUN echo > /x']);
  });

  test('builds with a volume that it can only read, and leaves no trace on it', async () => {
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN echo > /x\n' });
    const warm = join(workshop.directory, 'read-only');
    const warmed = await kiln('warmer', ['--cache-dir', warm, '--image', workshop.base]);
    assert.equal(warmed.code, 0, warmed.stderr);
    execFileSync('mount', ['--bind', warm, warm]);
    try {
      execFileSync('mount', ['-o', 'remount,bind,ro', warm]);
      await workshop.registry.clearLog();
      const image = `${workshop.registry.host}/${workshop.unique('ro')}:1`;
      const ended = await workshop.build(context, ['--cache-dir', warm, '--destination', image]);
      assert.equal(ended.code, 0, ended.stderr);
      assert.deepEqual(stepsThat('ran', ended), ['RUN echo > /x']);
      const pulls = (await workshop.registry.accessLog()).filter((line) =>
        line.startsWith('GET /v2/busybox/blobs'),
      );
      assert.deepEqual(pulls, []);
    } finally {
      execFileSync('umount', [warm]);
    }
  });

  test('builds on a warm base while the registry is down', async () => {
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN echo offline > /x\n' });
    const volume = join(workshop.directory, 'offline');
    const warmed = await kiln('warmer', ['--cache-dir', volume, '--image', workshop.base]);
    assert.equal(warmed.code, 0, warmed.stderr);
    await workshop.registry.stop();
    const ended = await workshop.build(context, [
      '--cache-dir',
      volume,
      '--oci-layout-path',
      join(workshop.directory, 'off'),
    ]);
    assert.equal(ended.code, 0, ended.stderr);
    assert.ok(existsSync(join(workshop.directory, 'off/index.json')));
  });
});
