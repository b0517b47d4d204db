import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { unpackWithOtherTools } from '../support/check-image.ts';
import { defaultCapabilities, kilnLayers, openPod, type PodMount } from '../support/pod.ts';
import { type Ended, kiln } from '../support/programs.ts';
import { describeTree, treeDifferences } from '../support/tree.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';
import { everything, pushFullBase } from './everything.ts';

describe('a pod in its own user namespace, with SYS_ADMIN', () => {
  let workshop: Workshop;
  let base: string;
  let layers: readonly string[];
  before(async () => {
    workshop = await openWorkshop();
    await chmod(workshop.directory, 0o755);
    base = await pushFullBase(workshop);
    layers = await kilnLayers(join(workshop.directory, 'kiln'));
    const warmed = await kiln('warmer', ['--cache-dir', workshop.volume, '--image', base]);
    assert.equal(warmed.code, 0, warmed.stderr);
  });
  after(() => workshop[Symbol.asyncDispose]());

  /** Builds in a pod, with the context and the volume read-only and the scratch space on an empty volume. */
  const build = async (
    dockerfile: string,
    args: readonly string[],
    options: { volume?: PodMount; payload?: string; env?: Record<string, string> } = {},
  ): Promise<Ended> => {
    const context = await workshop.context({
      Dockerfile: dockerfile.replaceAll('%BASE%', base),
      payload: options.payload ?? 'payload',
    });
    const scratch = join(workshop.directory, workshop.unique('scratch'));
    await mkdir(scratch);
    const volume = options.volume ?? { source: workshop.volume, target: '/cache', readOnly: true };
    await using pod = await openPod(layers, {
      userNamespace: true,
      capabilities: [...defaultCapabilities, 'SYS_ADMIN'],
      mounts: [
        volume,
        { source: context, target: '/workspace', readOnly: true },
        { source: scratch, target: '/scratch' },
      ],
    });
    const command = ['/kiln/bin/executor', '--context', '/workspace', '--scratch-dir', '/scratch'];
    const ended = await pod.run([...command, '--cache=false', '--log-format', 'json', ...args], {
      ...(options.env === undefined ? {} : { env: options.env }),
    });
    assert.deepEqual(readdirSync(scratch), []);
    return ended;
  };
  const treeOf = (image: string): Map<string, string> =>
    describeTree(join(unpackWithOtherTools(workshop.directory, image), 'rootfs'));

  test('builds on layers that root of the machine unpacked, and gives the image that root builds', async () => {
    const [mine, roots] = ['pod', 'roots'].map((name) => `${workshop.registry.host}/${name}:1`);
    assert.ok(mine !== undefined && roots !== undefined);
    const built = await build(everything, ['--destination', mine]);
    assert.equal(built.code, 0, built.stderr);
    assert.ok(!built.events.some((event) => event.type === 'transfer' && event.direction === 'pull'));
    const context = await workshop.context({
      Dockerfile: everything.replaceAll('%BASE%', base),
      payload: 'payload',
    });
    const byRoot = await workshop.build(context, ['--destination', roots]);
    assert.equal(byRoot.code, 0, byRoot.stderr);
    const [ours, theirs] = [treeOf(mine), treeOf(roots)];
    assert.ok(ours.size > 40);
    assert.deepEqual(treeDifferences(ours, theirs), []);
  });

  test('refuses a volume that is not mounted with mapped ids', async () => {
    const volume = { source: workshop.volume, target: '/cache', readOnly: true, mapped: false };
    const built = await build('FROM %BASE%\nRUN true\n', ['--no-push'], { volume });
    assert.equal(built.code, 3, built.stderr);
    assert.match(built.messages, /belongs to 0:0 there belongs to 65534:65534 here .*E_VOLUME_OWNERS/);
    assert.match(built.messages, /remedy: .*mounted with mapped ids/);
  });

  test('refuses a volume whose groups an fsGroup has changed', async () => {
    const source = join(workshop.directory, workshop.unique('fs-group'));
    execFileSync('sh', ['-ec', `cp -a ${workshop.volume} ${source} && chgrp -R 2000 ${source}`]);
    const volume = { source, target: '/cache', readOnly: true };
    const built = await build('FROM %BASE%\nRUN true\n', ['--no-push'], { volume });
    assert.equal(built.code, 3, built.stderr);
    assert.match(
      built.messages,
      /belongs to 0:2000 here .*E_VOLUME_OWNERS[^]*remedy: fsGroup must not be set/,
    );
  });

  test('unpacks for itself a layer whose deletions it would not see', async () => {
    const source = join(workshop.directory, workshop.unique('older'));
    execFileSync('cp', ['-a', workshop.volume, source]);
    for (const name of readdirSync(join(source, 'layers'))) {
      const path = join(source, 'layers', name, 'sealed');
      const { overlayMarks: _marks, ...seal } = JSON.parse(readFileSync(path, 'utf8')) as Record<
        string,
        unknown
      >;
      execFileSync(
        'find',
        [
          join(source, 'layers', name, 'fs'),
          '-type',
          'd',
          '-exec',
          'setfattr',
          '-x',
          'user.overlay.opaque',
          '{}',
          ';',
        ],
        { stdio: 'ignore' },
      );
      await chmod(path, 0o644);
      writeFileSync(path, JSON.stringify(seal));
    }
    const volume = { source, target: '/cache', readOnly: true };
    const built = await build('FROM %BASE%\nRUN test ! -e /opq/hidden && test -e /opq/new\n', ['--no-push'], {
      volume,
    });
    assert.equal(built.code, 0, built.stderr);
  });

  test('warms a volume that root’s builds use, and the other way round', async () => {
    const source = join(workshop.directory, workshop.unique('warmed-in-pod'));
    await mkdir(source);
    await using pod = await openPod(layers, {
      userNamespace: true,
      mounts: [{ source, target: '/cache' }],
    });
    const warmed = await pod.run(['/kiln/bin/warmer', '--image', base]);
    assert.equal(warmed.code, 0, warmed.stderr);
    const context = await workshop.context({
      Dockerfile: `FROM ${base}\nRUN test ! -e /opq/hidden && test "$(stat -c %u:%g /app/high)" = 65535:65535\n`,
    });
    const built = await workshop.build(context, ['--no-push', '--cache-dir', source]);
    assert.equal(built.code, 0, built.stderr);
    const inPod = await build('FROM %BASE%\nRUN test ! -e /opq/hidden\n', ['--no-push'], {
      volume: { source, target: '/cache', readOnly: true },
    });
    assert.equal(inPod.code, 0, inPod.stderr);
    assert.ok(!inPod.events.some((event) => event.type === 'transfer' && event.direction === 'unpack'));
  });

  test('keeps what steps must not see from them', async () => {
    const attempts = [
      'ls /kiln',
      'ls /cache',
      'ls /workspace',
      'ls /scratch',
      'cat /var/run/secrets/kubernetes.io/serviceaccount/token',
      'ls /proc/1/root/',
      'ls /proc/1/cwd/',
      'cat /proc/1/environ | grep .',
      "cat /proc/*/environ | tr '\\0' '\\n' | grep ^REGISTRY_PASSWORD=",
      'mount -t tmpfs none /tmp',
      'umount /',
      'mknod /tmp/disk b 8 0',
      'mkdir -p /tmp/jail && chroot /tmp/jail true || chroot / ls /kiln',
      // Root of a user namespace of its own, the step may mount: nothing that covers the executor's files comes off.
      'unshare -U -r -m sh -c "umount -l /; umount -l /proc; ls /kiln || ls /cache || ls /proc/1/root/"',
      'unshare -U -r -m -p -f sh -c "mount -t proc proc /proc && ls /proc/1/root/kiln"',
    ];
    const possible = 'RUN unshare -U -r -m sh -c "mount -t tmpfs none /tmp && touch /tmp/file"';
    const dockerfile = ['FROM %BASE%', possible, ...attempts.map((attempt) => `RUN ! { ${attempt}; }`)].join(
      '\n',
    );
    const built = await build(dockerfile, ['--no-push'], { env: { REGISTRY_PASSWORD: 'secret' } });
    assert.equal(built.code, 0, built.stderr);
  });
});

describe('an ordinary pod', () => {
  test('tells a user that its seccomp profile allows no user namespace', async () => {
    await using workshop = await openWorkshop();
    const layers = await kilnLayers(join(workshop.directory, 'kiln'));
    await using pod = await openPod(layers, { user: 1000 });
    const ended = await pod.run(['/kiln/bin/executor', '--context', '/tmp', '--no-push']);
    assert.equal(ended.code, 3, ended.stderr);
    assert.match(
      ended.messages,
      /there can be none: the seccomp profile of this container refuses user namespaces \[E_USER_NAMESPACE\]\n {2}remedy: /,
    );
  });
});
