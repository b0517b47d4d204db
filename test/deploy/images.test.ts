import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { existsSync, lstatSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import packageJson from '../../package.json' with { type: 'json' };
import { assembleContext, buildFrom, type OwnImage } from '../../scripts/images.ts';
import { runWithRunc, unpackLayout, unpackWithOtherTools } from '../support/check-image.ts';
import { deployed } from '../support/deployed.ts';
import { defaultCapabilities, openPod, type PodOptions } from '../support/pod.ts';
import type { Ended } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

const project = join(import.meta.dirname, '../..');
const { version } = packageJson;
const date = '1700000000';

/** What an OCI image's configuration says of how it runs. */
interface RunConfig {
  readonly User: string;
  readonly WorkingDir: string;
  readonly Entrypoint: readonly string[];
  readonly Env: readonly string[];
  readonly Labels: Readonly<Record<string, string>>;
}

describe("Kiln's own images", () => {
  let workshop: Workshop;
  let output: string;
  let context: string;
  let built: readonly OwnImage[];
  const roots = new Map<string, string>();
  before(async () => {
    workshop = await openWorkshop();
    output = join(workshop.directory, 'images');
    context = join(workshop.directory, 'context');
    await assembleContext(context);
    process.env.SOURCE_DATE_EPOCH = date;
    built = await buildFrom(context, output, workshop.directory).finally(
      () => delete process.env.SOURCE_DATE_EPOCH,
    );
    for (const { program, name } of built)
      roots.set(
        `${program}:${name}`,
        join(unpackLayout(workshop.directory, `${join(output, program)}:${name}`), 'rootfs'),
      );
  });
  after(() => workshop[Symbol.asyncDispose]());

  const rootOf = (program: string, suffix = ''): string => roots.get(`${program}:${version}${suffix}`) ?? '';
  const configOf = (program: string, suffix = ''): RunConfig => {
    const image = `oci:${join(output, program)}:${version}${suffix}`;
    const text = execFileSync('skopeo', ['inspect', '--config', image], { encoding: 'utf8' });
    return (JSON.parse(text) as { config: RunConfig }).config;
  };
  const environment = (program: string, suffix = ''): Record<string, string> =>
    Object.fromEntries(
      configOf(program, suffix).Env.map((text) => [
        text.slice(0, text.indexOf('=')),
        text.slice(text.indexOf('=') + 1),
      ]),
    );
  /** A pod of an image, with the image's environment. */
  const podOf = (program: string, options: PodOptions = {}): ReturnType<typeof openPod> =>
    openPod([rootOf(program)], { ...options, env: { ...environment(program), ...options.env } });

  const everythingIn = (root: string): string[] =>
    readdirSync(root, { recursive: true, encoding: 'utf8' }).sort();

  test('are four, and small', () => {
    assert.deepEqual(
      built.map(({ program, name }) => `${program}:${name}`),
      ['executor', 'warmer'].flatMap((program) => [`${program}:${version}`, `${program}:${version}-debug`]),
    );
    for (const { program, size } of built)
      assert.ok(size < (program === 'executor' ? 70e6 : 60e6), `${program} has ${size} bytes`);
  });

  test('are the same byte for byte from another directory, another time and for another user', async () => {
    const elsewhere = join(workshop.directory, 'another/place');
    const temporary = join(workshop.directory, 'temporary');
    for (const directory of [elsewhere, temporary]) await mkdir(directory, { recursive: true });
    const script = 'umask 077; mount --bind "$1" "$2"; cd "$2"; exec "$0" scripts/images.ts "$3"';
    const { stdout } = await promisify(execFile)(
      'unshare',
      ['--mount', 'sh', '-ec', script, process.execPath, project, elsewhere, join(temporary, 'images')],
      {
        env: {
          ...{ PATH: process.env.PATH, HOME: '/nonexistent', CI: 'true', SOURCE_DATE_EPOCH: date },
          ...{ TMPDIR: temporary, TZ: 'Asia/Kathmandu', LC_ALL: 'C' },
        },
      },
    );
    for (const { program, name, digest } of built)
      assert.ok(stdout.includes(`${program}:${name} ${digest} `), `${program}:${name} in ${stdout}`);
  });

  test('have everything below /kiln, but for what kaniko has elsewhere and empty directories', () => {
    for (const program of ['executor', 'warmer']) {
      const root = rootOf(program);
      assert.deepEqual(readdirSync(root).sort(), ['kaniko', 'kiln', 'root', 'tmp', 'workspace']);
      for (const empty of ['root', 'tmp', 'workspace', 'kaniko/.docker'])
        assert.deepEqual(readdirSync(join(root, empty)), [], empty);
      assert.equal(lstatSync(join(root, 'tmp')).mode & 0o7777, 0o1777);
      for (const name of ['executor', 'warmer'])
        assert.equal(
          realpathSync(join(root, 'kaniko', name)),
          join(realpathSync(root), 'kiln/bin', name),
          'as kaniko calls it',
        );
    }
  });

  test('have no shell, unless they are for debugging', () => {
    const shells = /(?:^|\/)(?:sh|bash|dash|ash|busybox)$/;
    for (const program of ['executor', 'warmer']) {
      assert.deepEqual(
        everythingIn(rootOf(program)).filter((path) => shells.test(path)),
        [],
      );
      const debug = rootOf(program, '-debug');
      const busybox = lstatSync(join(debug, 'kiln/busybox/busybox'));
      assert.ok(busybox.isFile() && (busybox.mode & 0o111) !== 0);
      const bundle = join(debug, '..');
      assert.equal(
        runWithRunc(bundle, ['/busybox/sh', '-c', 'echo $0 && ls /kaniko']),
        '/busybox/sh\nexecutor\nssl\nwarmer\n',
      );
      assert.equal(
        runWithRunc(bundle, ['/bin/sh', '-c', 'grep kiln /kiln/package.json; which sh']),
        '/kiln/busybox/sh\n',
      );
      const marker = JSON.parse(readFileSync(join(debug, 'kiln/kiln.json'), 'utf8')) as { files: string[] };
      assert.deepEqual(marker.files.sort(), ['/bin/sh', '/busybox']);
    }
  });

  test('run only what is in /kiln: loader, libraries and all', () => {
    const root = rootOf('executor');
    const files = everythingIn(join(root, 'kiln')).filter(
      (path) => /^(?:bin|libexec|lib)\//.test(path) && lstatSync(join(root, 'kiln', path)).isFile(),
    );
    let programs = 0;
    for (const path of files) {
      const file = join(root, 'kiln', path);
      if (!readFileSync(file).subarray(0, 4).equals(Buffer.from('\x7fELF'))) continue;
      const patchelf = (flag: string): string =>
        execFileSync('patchelf', [flag, file], { encoding: 'utf8' }).trim();
      for (const needed of patchelf('--print-needed')
        .split('\n')
        .filter((name) => name !== ''))
        assert.ok(existsSync(join(root, 'kiln/lib', needed)), `${path} needs ${needed}`);
      if (path.startsWith('lib/')) {
        assert.equal(patchelf('--print-rpath'), '', path);
        continue;
      }
      programs++;
      assert.match(patchelf('--print-interpreter'), /^\/kiln\/lib\/ld-linux/, path);
      assert.equal(patchelf('--print-rpath'), '/kiln/lib', path);
    }
    assert.ok(programs >= 9, 'they were found');
    for (const path of files) assert.ok(!/(?:npm|\.h|\.map)$/.test(path), path);
  });

  test('have the terms of all that they ship', () => {
    for (const program of ['executor', 'warmer']) {
      const licenses = join(rootOf(program), 'kiln/share/licenses');
      assert.equal(
        readFileSync(join(licenses, 'LICENSE'), 'utf8'),
        readFileSync(join(project, 'LICENSE'), 'utf8'),
      );
      assert.match(readFileSync(join(licenses, 'node/LICENSE'), 'utf8'), /Node\.js is licensed/);
      const debian = readFileSync(join(licenses, 'debian/packages.txt'), 'utf8');
      const packages = [...debian.matchAll(/^([a-z0-9.+-]+) [0-9]\S*$/gm)].map(([, name]) => name ?? '');
      for (const name of ['git', 'libc6', 'busybox-static']) assert.ok(packages.includes(name), name);
      for (const name of packages) assert.ok(existsSync(join(licenses, 'debian', `${name}.copyright`)), name);
      for (const name of ['GPL-2', 'LGPL-2.1', 'Apache-2.0'])
        assert.ok(existsSync(join(licenses, 'debian/common-licenses', name)), name);
      const npm = readFileSync(join(licenses, 'npm/packages.txt'), 'utf8');
      for (const name of ['commander', 'undici', 'koffi', 'better-sqlite3'])
        assert.match(npm, new RegExp(`^${name} [0-9.]+ \\S`, 'm'));
      assert.doesNotMatch(npm, /see its files/);
    }
  });

  test('say how they run', () => {
    for (const [program, suffix] of [
      ['executor', ''],
      ['executor', '-debug'],
      ['warmer', ''],
      ['warmer', '-debug'],
    ] as const) {
      const { Entrypoint, User, WorkingDir, Labels } = configOf(program, suffix);
      assert.deepEqual(Entrypoint, [`/kiln/bin/${program}`]);
      assert.equal(WorkingDir, '/workspace');
      const { runAsUser, runAsGroup } = deployed('warmer-hostpath.yaml').container.securityContext ?? {};
      assert.equal(User, [runAsUser, runAsGroup].join(':'), 'as the DaemonSet says');
      assert.equal(Labels['org.opencontainers.image.version'], version);
      assert.equal(Labels['org.opencontainers.image.title'], `Kiln ${program}`);
      const { PATH, DOCKER_CONFIG, HOME, SSL_CERT_DIR } = environment(program, suffix);
      assert.equal(PATH, suffix === '' ? '/kiln/bin:/kaniko' : '/kiln/bin:/kaniko:/kiln/busybox');
      assert.deepEqual(
        { DOCKER_CONFIG, HOME, SSL_CERT_DIR },
        { DOCKER_CONFIG: '/kaniko/.docker', HOME: '/root', SSL_CERT_DIR: '/kaniko/ssl/certs' },
      );
      assert.match(
        readFileSync(join(rootOf(program, suffix), SSL_CERT_DIR ?? '', 'ca-certificates.crt'), 'utf8'),
        /^-----BEGIN CERTIFICATE-----/,
      );
    }
  });

  test('start with a root that can only be read, under both names', async () => {
    await using pod = await podOf('executor', { readOnlyRoot: true });
    for (const command of ['/kiln/bin/executor', '/kiln/bin/warmer', '/kaniko/executor', '/kaniko/warmer']) {
      const ended = await pod.run([command, '--help']);
      assert.equal(ended.code, 0, ended.stderr);
      assert.match(ended.stdout, /^Usage: (?:executor|warmer) /);
    }
  });

  test('find the certificates that Node trusts, and those that are mounted where kaniko has them', async () => {
    const certificate = join(workshop.directory, 'own.crt');
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=company', '-days', '2'],
        ...['-keyout', '/dev/null', '-out', certificate],
      ],
      { stdio: 'pipe' },
    );
    const count = 'console.log(require("tls").getCACertificates("system").length)';
    await using plain = await podOf('executor');
    const before = Number((await plain.run(['/kiln/bin/node', '-e', count])).stdout);
    assert.ok(before > 100, `${before} certificates`);
    await using own = await podOf('executor', {
      mounts: [{ source: certificate, target: '/kaniko/ssl/certs/company.crt', readOnly: true }],
    });
    assert.equal(Number((await own.run(['/kiln/bin/node', '-e', count])).stdout), before + 1);
  });

  test('let no file of a base image say which libraries they load', async () => {
    const etc = join(workshop.directory, 'etc');
    await mkdir(etc);
    await writeFile(join(etc, 'ld.so.preload'), '/evil.so\n');
    await writeFile(join(etc, 'nsswitch.conf'), 'hosts: evil\n');
    await using pod = await podOf('executor', {
      mounts: ['ld.so.preload', 'nsswitch.conf'].map((name) => ({
        source: join(etc, name),
        target: `/etc/${name}`,
      })),
    });
    const lookUp = 'require("dns").lookup("localhost", (error, address) => console.log(error ?? address))';
    const ended = await pod.run(['/kiln/bin/node', '-e', lookUp]);
    assert.match(ended.stdout, /^(?:127\.0\.0\.1|::1)\n$/);
    assert.equal(ended.stderr, '');
  });

  test('have a git that clones over HTTP without a system around it', async () => {
    const work = join(workshop.directory, 'repository');
    const git = (...args: string[]): string =>
      execFileSync('git', ['-c', 'user.name=a', '-c', 'user.email=a@b', ...args], {
        encoding: 'utf8',
        stdio: 'pipe',
      });
    git('init', '--quiet', '-b', 'main', work);
    await writeFile(join(work, 'file'), 'content\n');
    git('-C', work, 'add', 'file');
    git('-C', work, 'commit', '--quiet', '-m', 'first');
    const bare = join(workshop.directory, 'served.git');
    git('clone', '--quiet', '--bare', work, bare);
    git('-C', bare, 'update-server-info');
    const server = createServer((request, response) => {
      const { pathname } = new URL(request.url ?? '/', 'http://localhost');
      readFile(join(bare, pathname)).then(
        (bytes) => response.end(bytes),
        () => response.writeHead(404).end(),
      );
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
      await using pod = await podOf('executor');
      const ended = await pod.run(['/kiln/bin/git', 'clone', address, '/tmp/clone']);
      assert.equal(ended.code, 0, ended.stderr);
      assert.equal(await readFile(join(pod.root, 'tmp/clone/file'), 'utf8'), 'content\n');
    } finally {
      server.close();
      server.closeAllConnections();
    }
  });

  test('build an image on an overlay, as root of a user namespace with SYS_ADMIN', async () => {
    const context = await workshop.context({
      Dockerfile:
        'FROM %BASE%\nADD packed.tar.xz /unpacked/\nRUN cat /unpacked/inside > /made && id -u >> /made\n',
      inside: 'packed\n',
    });
    execFileSync('tar', ['-C', context, '-cJf', join(context, 'packed.tar.xz'), 'inside']);
    const scratch = join(workshop.directory, 'scratch');
    await mkdir(scratch);
    const image = `${workshop.registry.host}/${workshop.unique('by-own-image')}:1`;
    await using pod = await podOf('executor', {
      userNamespace: true,
      capabilities: [...defaultCapabilities, 'SYS_ADMIN'],
      mounts: [
        { source: context, target: '/workspace', readOnly: true },
        { source: scratch, target: '/scratch' },
      ],
    });
    const [entrypoint = ''] = configOf('executor').Entrypoint;
    const ended = await pod.run([
      entrypoint,
      '--context=/workspace',
      '--scratch-dir=/scratch',
      '--cache-dir=/scratch/cache',
      `--destination=${image}`,
    ]);
    assert.equal(ended.code, 0, ended.stderr);
    const made = join(unpackWithOtherTools(workshop.directory, image), 'rootfs/made');
    assert.equal(readFileSync(made, 'utf8'), 'packed\n0\n');
  });

  /** Runs the executor's image in an ordinary pod, where nothing can be mounted. */
  const buildInPlace = async (
    directory: string,
    args: readonly string[],
  ): Promise<{ ended: Ended; scratch: string }> => {
    const scratch = join(workshop.directory, workshop.unique('in-place'));
    await mkdir(scratch);
    await using pod = await podOf('executor', {
      env: { SOURCE_DATE_EPOCH: date },
      mounts: [
        { source: directory, target: '/workspace', readOnly: true },
        { source: scratch, target: '/scratch' },
      ],
    });
    const [entrypoint = ''] = configOf('executor').Entrypoint;
    const ended = await pod.run([
      entrypoint,
      '--context=/workspace',
      '--scratch-dir=/scratch',
      '--cache-dir=/scratch/cache',
      ...args,
    ]);
    assert.equal(ended.code, 0, ended.stderr);
    return { ended, scratch };
  };

  test('build an image in place, in an ordinary pod', async () => {
    const directory = await workshop.context({
      Dockerfile: 'FROM %BASE%\nRUN echo made > /made && ls / > /seen\n',
    });
    const image = `${workshop.registry.host}/${workshop.unique('in-place')}:1`;
    await buildInPlace(directory, [`--destination=${image}`]);
    const root = join(unpackWithOtherTools(workshop.directory, image), 'rootfs');
    assert.equal(readFileSync(join(root, 'made'), 'utf8'), 'made\n');
    assert.ok(
      !existsSync(join(root, 'kiln')) && !existsSync(join(root, 'kaniko')),
      'nothing of Kiln is in it',
    );
  });

  test('build themselves in place, in an ordinary pod, byte for byte', async () => {
    const { scratch } = await buildInPlace(context, [
      ...['--target=executor', `--build-arg=VERSION=${version}`, '--oci-layout-path=/scratch/layout'],
      '--digest-file=/scratch/digest',
    ]);
    assert.equal(readFileSync(join(scratch, 'digest'), 'utf8'), built[0]?.digest);
  });

  test("warm a volume with the DaemonSet's rights and a root that can only be read", async () => {
    const { securityContext } = deployed('warmer-hostpath.yaml').container;
    const volume = join(workshop.directory, 'warmed');
    await mkdir(volume, { mode: 0o755 });
    await using pod = await podOf('warmer', {
      readOnlyRoot: securityContext?.readOnlyRootFilesystem === true,
      capabilities: securityContext?.capabilities?.add ?? [],
      mounts: [{ source: volume, target: '/cache' }],
    });
    const [entrypoint = ''] = configOf('warmer').Entrypoint;
    const ended = await pod.run([entrypoint, 'once', '--cache-dir=/cache', `--image=${workshop.base}`]);
    assert.equal(ended.code, 0, ended.stderr);
    assert.ok(existsSync(join(volume, 'index.json')));
  });
});
