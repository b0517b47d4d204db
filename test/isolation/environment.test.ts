import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Environment } from '../../executor/environment.ts';
import { makeOrdinaryUser } from '../support/ordinary-user.ts';
import { defaultCapabilities, kilnLayers, openPod, type PodMount, type PodOptions } from '../support/pod.ts';
import { type Ended, kiln } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

describe('where steps run', () => {
  let workshop: Workshop;
  let layers: string[];
  before(async () => {
    workshop = await openWorkshop({ inMemory: true });
    chmodSync(workshop.directory, 0o755);
    mkdirSync(join(workshop.directory, 'layers'));
    mkdirSync(join(workshop.directory, 'scratch'));
    layers = await kilnLayers(join(workshop.directory, 'layers'));
    const warmed = await kiln('warmer', ['--cache-dir', workshop.volume, '--image', workshop.base]);
    assert.equal(warmed.code, 0, warmed.stderr);
  });
  after(() => workshop[Symbol.asyncDispose]());

  const without = (...names: readonly string[]): string[] =>
    defaultCapabilities.filter((name) => !names.includes(name));
  const volumes = (): PodMount[] => [
    { source: workshop.volume, target: '/cache', readOnly: true },
    { source: join(workshop.directory, 'scratch'), target: '/scratch' },
  ];
  /** Looks at the environment from inside a pod. */
  async function look(
    options: PodOptions,
    args: readonly string[] = [],
  ): Promise<{ ended: Ended; environment: Environment }> {
    await using pod = await openPod(layers, { mounts: volumes(), ...options });
    const ended = await pod.run(['/kiln/bin/executor', 'check', '--environment', '-o', 'json', ...args]);
    assert.notEqual(ended.stdout, '', ended.stderr);
    return { ended, environment: JSON.parse(ended.stdout) as Environment };
  }
  /** Builds a Dockerfile in a pod of its own. */
  async function build(
    dockerfile: string,
    options: PodOptions,
    args: readonly string[] = [],
  ): Promise<Ended> {
    const context = await workshop.context({ Dockerfile: dockerfile });
    await using pod = await openPod(layers, {
      ...options,
      mounts: [...volumes(), { source: context, target: '/workspace', readOnly: true }],
    });
    const command = ['/kiln/bin/executor', '--context', '/workspace', '--cache=false', '--no-push'];
    return await pod.run([...command, ...args]);
  }

  test('in an ordinary pod is in place, and the lines for the better way are named', async () => {
    const { ended, environment } = await look({});
    assert.equal(ended.code, 0, ended.stderr);
    const { backend, seccomp, volume, scratch } = environment;
    assert.equal(backend.chosen, 'inplace');
    assert.match(backend.reason, /lacks the capability SYS_ADMIN/);
    assert.deepEqual(backend.better?.pod, [
      'spec.hostUsers: false',
      'spec.containers[].securityContext.capabilities.add: [SYS_ADMIN]',
    ]);
    assert.deepEqual(seccomp, { mode: 'filter', refusesMount: true });
    assert.deepEqual([...environment.capabilities].sort(), [...defaultCapabilities].sort());
    assert.deepEqual(environment.missingCapabilities, []);
    assert.equal(environment.userNamespace, null);
    assert.equal(volume.mode, 'read-only');
    assert.equal(volume.problem, null);
    assert.equal(scratch.fileSystem, 'overlay');
    assert.ok(scratch.freeBytes > 0 && (scratch.freeInodes ?? 1) > 0);
    assert.match(environment.kernel, /^Linux \d/);
  });

  test('in a pod in its own user namespace with SYS_ADMIN is an overlay', async () => {
    const capabilities = [...defaultCapabilities, 'SYS_ADMIN'];
    const pod = { userNamespace: true, capabilities };
    const { ended, environment } = await look(pod, ['--scratch-dir', '/scratch']);
    assert.equal(ended.code, 0, ended.stderr);
    assert.equal(environment.backend.chosen, 'overlay');
    assert.equal(environment.backend.better, null);
    assert.equal(environment.userNamespace, '0-65535');
    assert.equal(environment.volume.problem, null);
    // On the container's own root nothing can be mounted, so that what is missing is a volume.
    const { environment: other } = await look(pod, ['--scratch-dir', '/kiln/work']);
    assert.equal(other.backend.chosen, 'inplace');
    assert.match(other.backend.better?.pod.join() ?? '', /emptyDir/);
  });

  test('is nowhere when a capability is missing that every build needs, and it is named', async () => {
    const { ended, environment } = await look({ capabilities: without('CHOWN', 'SETUID') });
    assert.equal(ended.code, 3);
    assert.equal(environment.backend.chosen, 'none');
    assert.match(environment.backend.inplace ?? '', /takes capabilities that are missing: CHOWN, SETUID$/);
    assert.deepEqual(environment.missingCapabilities, ['CHOWN', 'SETUID']);
    assert.match(ended.messages, /E_ISOLATION_NONE/);
  });

  test('is told for people, too', async () => {
    await using pod = await openPod(layers, { mounts: volumes() });
    const ended = await pod.run(['/kiln/bin/executor', 'check', '--environment']);
    assert.match(ended.stdout, /^backend +in place: .*SYS_ADMIN$/m);
    assert.match(ended.stdout, /^ +spec\.hostUsers: false$/m);
    assert.match(ended.stdout, /^volume +\/cache: tmpfs, .* free, read-only$/m);
  });

  test('is in place by itself in an ordinary pod, which a build says in a line', async () => {
    const ended = await build('FROM %BASE%\nRUN echo here\n', {});
    assert.equal(ended.code, 0, ended.stderr);
    assert.match(ended.stderr, /steps run in place: .*lacks the capability SYS_ADMIN/);
    assert.match(ended.stderr, /\| here/);
  });

  test("is not in place in a container with somebody's files, unless that is forced", async () => {
    const foreign = join(workshop.directory, 'foreign');
    mkdirSync(join(foreign, 'home'), { recursive: true });
    writeFileSync(join(foreign, 'home/notes'), 'mine');
    const dockerfile = 'FROM %BASE%\nRUN echo here\n';
    const context = await workshop.context({ Dockerfile: dockerfile.replaceAll('%BASE%', workshop.base) });
    await using pod = await openPod([foreign, ...layers], {
      mounts: [...volumes(), { source: context, target: '/workspace', readOnly: true }],
    });
    await pod.start();
    const command = ['/kiln/bin/executor', '--context', '/workspace', '--cache=false', '--no-push'];
    const refused = await pod.exec(command);
    assert.equal(refused.code, 3);
    assert.match(refused.messages, /E_ISOLATION_NONE/);
    assert.match(refused.messages, /\/home\/notes/);
    assert.ok(existsSync(join(pod.root, 'home/notes')));
    const forced = await pod.exec([...command, '--isolation', 'inplace', '--force']);
    assert.equal(forced.code, 0, forced.stderr);
    assert.ok(!existsSync(join(pod.root, 'home/notes')));
  });

  test('is never in place on a machine, whatever is missing for an overlay', async () => {
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN echo here\n' });
    const args = ['--context', context, '--cache-dir', workshop.volume, '--cache=false', '--no-push'];
    const under = ['setpriv', '--bounding-set=-sys_admin'];
    const automatic = await kiln('executor', args, { under });
    assert.equal(automatic.code, 3, automatic.stderr);
    assert.match(automatic.messages, /lacks the capability SYS_ADMIN \[E_ISOLATION_OVERLAY\]/);
    const asked = await kiln('executor', ['--isolation', 'inplace', ...args], { under });
    assert.equal(asked.code, 3);
    assert.match(asked.messages, /E_INPLACE_HOST/);
    const forced = await kiln('executor', ['--isolation', 'inplace', '--force', ...args], { under });
    assert.match(forced.messages, /would remove what it runs from \[E_INPLACE_HOST\]/);
  });

  test('is not asked about by a build that takes every step from the cache', async () => {
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN echo cached > /x\n' });
    const first = await workshop.build(context, ['--no-push']);
    assert.equal(first.code, 0, first.stderr);
    const again = await workshop.build(context, ['--no-push'], {
      under: ['setpriv', '--bounding-set=-sys_admin'],
    });
    assert.equal(again.code, 0, again.stderr);
  });

  test('is not in place for an ordinary user', async () => {
    await using user = await makeOrdinaryUser({ subordinateIds: true });
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN echo here\n' });
    const ended = await user.kiln('executor', ['--isolation', 'inplace', '--context', context, '--no-push']);
    assert.equal(ended.code, 3, ended.stderr);
    assert.match(ended.messages, new RegExp(`this is ${user.name} \\[E_INPLACE_USER\\]`));
    const looked = await user.kiln('executor', ['check', '--environment', '-o', 'json']);
    const environment = JSON.parse(looked.stdout) as Environment;
    assert.equal(environment.backend.chosen, 'overlay', looked.stderr);
    assert.match(environment.user, /root of a user namespace with the ids 0-65536$/);
  });

  test('a capability that a step missed is named when it fails', async () => {
    const dockerfile = 'FROM %BASE%\nRUN mknod /zero c 1 5\n';
    const inPlace = await build(dockerfile, { capabilities: without('MKNOD') });
    assert.equal(inPlace.code, 1, inPlace.stderr);
    assert.match(
      inPlace.messages,
      /lacks capabilities that a step may need: MKNOD \(securityContext\.capabilities\.add\)/,
    );
    const overlay = await build(
      'FROM %BASE%\nRUN echo fine\nRUN chown 1:1 /etc && false\n',
      { userNamespace: true, capabilities: [...without('KILL', 'NET_RAW'), 'SYS_ADMIN'] },
      ['--scratch-dir', '/scratch'],
    );
    assert.match(overlay.stderr, /\| fine/);
    assert.match(overlay.messages, /lacks capabilities that a step may need: KILL, NET_RAW/);
  });
});
