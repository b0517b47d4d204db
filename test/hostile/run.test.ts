import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { busyboxLayer, pushTestImage } from '../support/images.ts';
import { type Ended, mountsBelow } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

/*
 * What a RUN step of the overlay isolation can see and do beyond its own files, when it tries to, as root with a
 * container's default capabilities.
 */

const secret = 'hunter2-never-shown';
/** Docker's default capabilities as /proc/self/status shows them. */
const defaultCapabilities = '00000000a80425fb';

/** Prints `NAME: allowed` or `NAME: refused` by how a command ends. */
const attempt = (name: string, command: string): string =>
  `if (${command}) > /dev/null 2>&1; then echo "${name}: allowed"; else echo "${name}: refused"; fi`;

describe('a hostile RUN step', () => {
  let workshop: Workshop;
  let ended: Ended;
  let output: string;
  let hostHosts: string;

  before(async () => {
    workshop = await openWorkshop();
    const { directory, volume } = workshop;
    const home = join(directory, 'home');
    mkdirSync(join(home, '.docker'), { recursive: true });
    const auth = Buffer.from(`user:${secret}`).toString('base64');
    writeFileSync(
      join(home, '.docker/config.json'),
      JSON.stringify({ auths: { 'registry.invalid': { auth } } }),
    );
    hostHosts = readFileSync('/etc/hosts', 'utf8');
    const bystander = spawn('sleep', ['1000', secret], { stdio: 'ignore' });
    const script = [
      'echo "## environment"; env',
      'for p in /proc/[0-9]*; do tr "\\0" "\\n" < $p/environ; done 2>/dev/null',
      'for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline; echo; done 2>/dev/null',
      'echo "## files"; ls / /dev /proc/self/fd; cat /proc/keys',
      `find / -name oci-layout -o -name config.json -o -name '*.sqlite' 2>/dev/null | sed 's/^/found: /'`,
      attempt('the volume', `ls ${volume}`),
      attempt('the home directory', `cat ${home}/.docker/config.json`),
      attempt('the root of the init', 'ls /proc/1/root/'),
      attempt('the files of the init', 'readlink /proc/1/fd/0 || cat < /proc/1/fd/2'),
      attempt('a process of the host', `kill -0 ${bystander.pid ?? 0}`),
      attempt('mounting', 'mkdir -p /mnt && mount -t tmpfs none /mnt'),
      attempt('making /sys writable', 'mount -o remount,rw /sys'),
      attempt('unmounting /proc', 'umount -l /proc'),
      attempt('another mount namespace', 'unshare -m true'),
      attempt('the mount namespace of the init', 'nsenter -t 1 -m true'),
      attempt(
        'a switch of the kernel',
        'cat /proc/sys/vm/swappiness > /tmp/s && cat /tmp/s > /proc/sys/vm/swappiness',
      ),
      attempt('a cgroup', 'mkdir /sys/fs/cgroup/mine'),
      attempt('a device node of its own', 'mknod /tmp/zero c 1 5 && head -c 1 /tmp/zero | grep -q .'),
      attempt('making that device node', 'test -c /tmp/zero'),
      attempt(
        'a device node in /dev',
        'mknod /dev/zero2 c 1 5; head -c 1 /dev/zero2 > /tmp/read && test -s /tmp/read',
      ),
      attempt(
        'the memory of the machine',
        'mknod /tmp/mem c 1 1; head -c 1 /tmp/mem > /tmp/read && test -s /tmp/read',
      ),
      attempt(
        'the devices that a container has',
        'head -c 1 /dev/zero > /tmp/read && test -s /tmp/read && echo > /dev/null',
      ),
      attempt('another host name', 'hostname other'),
      attempt('the log of the kernel', 'dmesg | grep -q .'),
      attempt('the capabilities of a container', 'chown 1:1 /tmp/s && chmod 4755 /tmp/s'),
      'echo hostile >> /etc/hosts; rm -f /etc/hosts; mv /etc/hosts /etc/moved',
      'echo "## status"; grep -E "^(Cap|NoNewPrivs|Groups)" /proc/self/status',
      'kill -9 1; kill -STOP 1; echo "the init is still there: $(ls -d /proc/1)"',
    ];
    const survivor = 'setsid sh -c "trap : TERM HUP INT; sleep 1000; : survivor" &';
    const context = await workshop.context({
      Dockerfile: [
        'FROM %BASE%',
        `COPY script tools/ /`,
        'RUN sh /script',
        `RUN ${survivor} (sh -c "sleep 1000; : survivor" &); echo started`,
        'RUN echo "left over: $(ps | grep -c survivo[r])"',
        'RUN kill -9 -1; echo "alone: $(ps | wc -l)"',
        'USER 65534',
        'RUN echo "ordinary: $(id -u)"; grep -E "^Cap(Eff|Bnd)" /proc/self/status | sed "s/^/ordinary /"; echo "setuid: $(/bin/id-as-root -u)"',
      ].join('\n'),
      script: script.join('\n'),
      'tools/.keep': '',
    });
    copyWithLibraries('/usr/bin/id', join(context, 'tools'), 'bin/id-as-root');
    execFileSync('chmod', ['4755', join(context, 'tools/bin/id-as-root')]);
    try {
      ended = await workshop.build(context, ['--no-push'], {
        env: { HOME: home, REGISTRY_PASSWORD: secret, KILN_DEBUG: secret },
      });
    } finally {
      bystander.kill('SIGKILL');
    }
    output = ended.events.map((event) => (event.type === 'output' ? String(event.data) : '')).join('');
  });
  after(() => workshop[Symbol.asyncDispose]());

  const outcome = (name: string): string | undefined => new RegExp(`^${name}: (.*)$`, 'm').exec(output)?.[1];

  test('ends like any other', () => assert.equal(ended.code, 0, ended.messages));

  test('sees neither credentials, nor the environment or processes of the executor and the host', () => {
    assert.doesNotMatch(output, new RegExp(secret));
    assert.doesNotMatch(output, /KILN_|REGISTRY_PASSWORD|main\.ts/);
    assert.doesNotMatch(output, /^found: /m);
  });

  for (const [name, expected] of [
    ['the volume', 'refused'],
    ['the home directory', 'refused'],
    ['the root of the init', 'refused'],
    ['the files of the init', 'refused'],
    ['a process of the host', 'refused'],
    ['mounting', 'refused'],
    ['making /sys writable', 'refused'],
    ['unmounting /proc', 'refused'],
    ['another mount namespace', 'refused'],
    ['the mount namespace of the init', 'refused'],
    ['a switch of the kernel', 'refused'],
    ['a cgroup', 'refused'],
    ['a device node of its own', 'refused'],
    ['making that device node', 'allowed'],
    ['a device node in /dev', 'refused'],
    ['the memory of the machine', 'refused'],
    ['the devices that a container has', 'allowed'],
    ['another host name', 'refused'],
    ['the log of the kernel', 'refused'],
    ['the capabilities of a container', 'allowed'],
  ] as const)
    test(`is ${expected} ${name}`, () => assert.equal(outcome(name), expected));

  test('has the capabilities of a container, and as an ordinary user none', () => {
    for (const [set, value] of [
      ['CapEff', defaultCapabilities],
      ['CapPrm', defaultCapabilities],
      ['CapBnd', defaultCapabilities],
      ['CapInh', '0000000000000000'],
      ['CapAmb', '0000000000000000'],
      ['NoNewPrivs', '0'],
      ['ordinary CapEff', '0000000000000000'],
      ['ordinary CapBnd', defaultCapabilities],
    ] as const)
      assert.match(output, new RegExp(`^${set}:\\s+${value}$`, 'm'));
  });

  test('can use setuid programs', () => {
    assert.equal(outcome('ordinary'), '65534');
    assert.equal(outcome('setuid'), '0');
  });

  test('cannot end what keeps it, and nothing that it starts outlives it', () => {
    assert.equal(outcome('the init is still there'), '/proc/1');
    assert.equal(outcome('left over'), '0');
    const alive = readdirSync('/proc').filter((pid) => {
      try {
        return /^[0-9]+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('survivor');
      } catch {
        return false; // it has ended meanwhile
      }
    });
    assert.deepEqual(alive, []);
  });

  test('changes no file of the host, and leaves no mount', () => {
    assert.equal(readFileSync('/etc/hosts', 'utf8'), hostHosts);
    assert.deepEqual(mountsBelow(workshop.directory), []);
  });
});

describe('a hostile base image', () => {
  let workshop: Workshop;
  before(async () => {
    workshop = await openWorkshop();
  });
  after(() => workshop[Symbol.asyncDispose]());

  test('whose /proc, /dev, /sys and /etc lead out gets nothing mounted or written there', async () => {
    const { directory, registry } = workshop;
    const outside = join(directory, 'outside');
    const layer = join(directory, 'leading-out');
    for (const name of ['proc', 'dev', 'sys', 'etc']) mkdirSync(join(outside, name), { recursive: true });
    mkdirSync(layer);
    for (const name of ['proc', 'dev', 'sys', 'etc']) symlinkSync(join(outside, name), join(layer, name));
    symlinkSync('../../../../../../../../..' + outside, join(layer, 'upwards'));
    const file = join(directory, 'leading-out.tar.gz');
    execFileSync('tar', ['-C', layer, '-czf', file, '.']);
    const image = `${registry.host}/leading-out:1`;
    await pushTestImage(directory, image, { layers: [await busyboxLayer(directory), file] });
    const context = await workshop.context({
      Dockerfile: [
        `FROM ${image}`,
        'RUN echo made > /etc/made; mkdir -p /upwards; echo made > /upwards/made; true',
        'COPY Dockerfile /etc/copied',
        'COPY Dockerfile /upwards/copied',
        'WORKDIR /upwards/directory',
      ].join('\n'),
    });
    const ended = await workshop.build(context, ['--no-push']);
    assert.equal(ended.code, 0, ended.messages);
    assert.deepEqual(
      ['proc', 'dev', 'sys', 'etc'].flatMap((name) => readdirSync(join(outside, name))),
      [],
    );
    assert.deepEqual(readdirSync(outside).sort(), ['dev', 'etc', 'proc', 'sys']);
    assert.deepEqual(mountsBelow(directory), []);
  });
});

/** Copies a program and the libraries it needs below a directory. */
function copyWithLibraries(program: string, root: string, name: string): void {
  const libraries = execFileSync('ldd', [program], { encoding: 'utf8' }).match(/\/\S+/g) ?? [];
  for (const [from, to] of [[program, name] as const, ...libraries.map((path) => [path, path] as const)]) {
    if (from.endsWith(':')) continue;
    mkdirSync(join(root, dirname(to)), { recursive: true });
    copyFileSync(from, join(root, to));
  }
}
