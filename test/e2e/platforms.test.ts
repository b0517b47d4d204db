import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { chmod, copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { probeProgram } from '../../executor/platforms/probe-program.ts';
import { unpackLayout } from '../support/check-image.ts';
import { busyboxLayer, randomLayer, writeTestIndex } from '../support/images.ts';
import { buildInProcess, type InProcessBuild, type InProcessResult } from '../support/in-process.ts';
import { type Ended, kiln, stepsThat } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

interface Index {
  readonly mediaType: string;
  readonly manifests: readonly {
    readonly digest: string;
    readonly platform: { readonly architecture: string; readonly variant?: string };
  }[];
}

describe('several platforms', () => {
  let workshop: Workshop;
  let base: string;
  let count = 0;
  before(async () => {
    workshop = await openWorkshop();
    const { directory, registry } = workshop;
    // The one for arm64 has nothing that could run.
    const layout = await writeTestIndex(join(directory, 'bases'), 'base', [
      { layers: [await busyboxLayer(directory)], config: { Env: ['PATH=/bin', 'FOR=amd64'] } },
      {
        layers: [await randomLayer(directory, 'arm64')],
        config: { Env: ['FOR=arm64'] },
        architecture: 'arm64',
      },
      {
        layers: [await randomLayer(directory, 'arm-v6')],
        config: { Env: ['FOR=armv6'] },
        architecture: 'arm',
        variant: 'v6',
      },
    ]);
    base = `${registry.host}/bases:1`;
    execFileSync('skopeo', [
      ...['copy', '--quiet', '--all', '--dest-tls-verify=false'],
      ...[`oci:${layout}:base`, `docker://${base}`],
    ]);
  });
  after(() => workshop[Symbol.asyncDispose]());

  const build = async (
    dockerfile: string,
    platforms: readonly string[],
    more: Partial<InProcessBuild> = {},
  ): Promise<InProcessResult> => {
    const place = join(workshop.directory, `build-${count++}`);
    return buildInProcess({
      ...{ dockerfile: dockerfile.replaceAll('%BASE%', base), place, platforms },
      ...{ context: await workshop.context({ a: 'a' }), volume: workshop.volume },
      ...more,
    });
  };
  const layoutOf = ({ layout }: InProcessResult): string => layout.replace(/:latest$/, '');
  const document = (layout: string, digest: string): unknown =>
    JSON.parse(readFileSync(join(layout, 'blobs', digest.replace(':', '/')), 'utf8'));
  const indexOf = (built: InProcessResult): Index => document(layoutOf(built), built.digest) as Index;
  const configOf = (
    built: InProcessResult,
    platform: number,
  ): { architecture: string; config: { Env: string[] } } => {
    const { digest } = indexOf(built).manifests[platform] ?? { digest: '' };
    const manifest = document(layoutOf(built), digest) as { config: { digest: string } };
    return document(layoutOf(built), manifest.config.digest) as ReturnType<typeof configOf>;
  };
  /** The files of the image for an architecture, as skopeo and umoci take it out of the index. */
  const filesOf = (built: InProcessResult, architecture: string): string => {
    const layout = join(workshop.directory, `one-${count++}`);
    const one = [
      '--override-arch',
      architecture,
      ...(architecture === 'arm' ? ['--override-variant', 'v7'] : []),
    ];
    execFileSync('skopeo', [...one, 'copy', '--quiet', `oci:${built.layout}`, `oci:${layout}:one`]);
    return join(unpackLayout(workshop.directory, `${layout}:one`), 'rootfs');
  };
  const started = ({ events }: Pick<InProcessResult, 'events'>): string[] =>
    events.flatMap((event) => (event.type === 'step-start' ? [event.step] : []));

  const cross = [
    'FROM --platform=$BUILDPLATFORM %BASE% AS build',
    'RUN head -c 16 /dev/urandom | sha1sum > /once',
    'COPY a /a',
    'ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM',
    'RUN echo $BUILDPLATFORM $TARGETPLATFORM $TARGETOS $TARGETARCH x$TARGETVARIANT > /target',
    'FROM %BASE%',
    'COPY --from=build /once /target /',
    'LABEL done=yes',
  ].join('\n');

  test('give an index, whose stages for the build platform ran once as far as they are the same', async () => {
    const built = await build(cross, ['linux/amd64', 'linux/arm64', 'linux/arm/v7']);
    const index = indexOf(built);
    assert.equal(index.mediaType, 'application/vnd.oci.image.index.v1+json');
    assert.deepEqual(
      index.manifests.map(({ platform }) => platform),
      [
        { os: 'linux', architecture: 'amd64' },
        { os: 'linux', architecture: 'arm64' },
        { os: 'linux', architecture: 'arm', variant: 'v7' },
      ],
    );
    const images = ['amd64', 'arm64', 'arm'].map((architecture) => filesOf(built, architecture));
    const read = (name: string): string[] => images.map((image) => readFileSync(join(image, name), 'utf8'));
    assert.deepEqual(read('target'), [
      'linux/amd64 linux/amd64 linux amd64 x\n',
      'linux/amd64 linux/arm64 linux arm64 x\n',
      'linux/amd64 linux/arm/v7 linux arm xv7\n',
    ]);
    assert.equal(new Set(read('once')).size, 1);
    assert.deepEqual(
      [0, 1, 2].map((platform) =>
        configOf(built, platform).config.Env.find((variable) => variable.startsWith('FOR=')),
      ),
      ['FOR=amd64', 'FOR=arm64', 'FOR=armv6'],
    );
    assert.ok(existsSync(join(images[2] ?? '', 'arm-v6')), 'the base for an older processor serves');
    assert.deepEqual(started(built).sort(), [
      '[linux/amd64 build 1/4]',
      '[linux/amd64 build 2/4]',
      '[linux/amd64 build 4/4]',
      '[linux/amd64 stage-1 1/2]',
      '[linux/amd64->linux/arm/v7 build 4/4]',
      '[linux/amd64->linux/arm64 build 4/4]',
      '[linux/arm/v7 stage-1 1/2]',
      '[linux/arm64 stage-1 1/2]',
    ]);
  });

  test('are each cached, alone and together, and never taken for one another', async () => {
    const cache = `oci:${join(workshop.directory, 'cache')}`;
    const dockerfile = 'FROM scratch\nCOPY a /a\nFROM %BASE%\nCOPY a /b\nCOPY --from=0 /a /c\n';
    const first = await build(dockerfile, ['linux/amd64', 'linux/arm64'], { cache });
    const outcomes = (built: InProcessResult): string[] =>
      built.events.flatMap((event) => (event.type === 'step-end' ? [event.outcome] : []));
    assert.deepEqual(new Set(outcomes(first)), new Set(['ran']));
    const again = await build(dockerfile, ['linux/amd64', 'linux/arm64'], { cache });
    assert.deepEqual(new Set(outcomes(again)), new Set(['cached']));
    assert.equal(again.digest, first.digest);
    const alone = await build(dockerfile, ['linux/arm64'], { cache });
    assert.deepEqual(new Set(outcomes(alone)), new Set(['cached']));
    assert.equal(alone.digest, indexOf(first).manifests[1]?.digest);
    const other = await build(dockerfile, ['linux/arm/v7'], { cache });
    assert.deepEqual(new Set(outcomes(other)), new Set(['ran']));
  });

  test('need no interpreter where no stage that is needed has a RUN, and one alone gives no index', async () => {
    const dockerfile = 'FROM %BASE% AS not-needed\nRUN false\nFROM scratch\nCOPY a /a\nENV A=1\n';
    const built = await build(dockerfile, ['linux/s390x']);
    const manifest = document(layoutOf(built), built.digest) as { config: { digest: string } };
    const config = document(layoutOf(built), manifest.config.digest) as { architecture: string };
    assert.equal(config.architecture, 's390x');
  });

  test('fail before anything is built where a RUN cannot run, and say what would help', async () => {
    const dockerfile = 'FROM %BASE% AS other\nRUN echo first\nFROM %BASE%\nCOPY a /a\nRUN echo $FOR\n';
    const built = build(dockerfile, ['linux/amd64', 'linux/arm64']);
    await assert.rejects(built, {
      code: 'E_PLATFORM_NOT_RUNNABLE',
      where: 'Dockerfile:5',
      message: /^RUN for linux\/arm64 cannot run here: this machine is linux\/amd64, and no interpreter/,
      remedy: /binfmt --install arm64/,
    });
    await assert.rejects(build('FROM --platform=linux/arm64 %BASE%\nRUN x\n', []), {
      code: 'E_PLATFORM_NOT_RUNNABLE',
      where: 'Dockerfile:2',
    });
  });

  test('are all that a base must have', async () => {
    await assert.rejects(build('FROM %BASE%\n', ['linux/amd64', 'linux/riscv64']), {
      code: 'E_PLATFORM_NOT_FOUND',
      where: 'Dockerfile:1',
      remedy: 'It has linux/amd64, linux/arm64, linux/arm/v6.',
    });
  });

  test('a stage says what it is for: FROM --platform, what it is made from, and what is built for', async () => {
    const dockerfile = [
      'FROM --platform=linux/arm64 %BASE% AS arm',
      'FROM --platform=linux/amd64 arm AS still-arm',
      'FROM scratch',
      'COPY --from=still-arm /arm64 /arm64',
      'COPY --from=%BASE% /arm-v6 /arm-v6',
    ].join('\n');
    const built = await build(dockerfile, ['linux/arm/v7']);
    const root = join(unpackLayout(workshop.directory, built.layout), 'rootfs');
    assert.ok(existsSync(join(root, 'arm64')) && existsSync(join(root, 'arm-v6')));
  });

  test('take the place of what has their name in a layout', async () => {
    const place = join(workshop.directory, 'again');
    const names = async (platforms: readonly string[]): Promise<number> => {
      await build('FROM scratch\nENV A=1\n', platforms, { place });
      const { manifests } = JSON.parse(readFileSync(join(place, 'image/index.json'), 'utf8')) as Index;
      return manifests.length;
    };
    for (const platforms of [
      ['linux/amd64'],
      ['linux/amd64', 'linux/arm64'],
      ['linux/arm64'],
      ['linux/amd64'],
    ])
      assert.equal(await names(platforms), 1);
  });

  test('are pushed to all destinations, and the digest file holds the digest of the index', async () => {
    const dockerfile = cross.replaceAll('%BASE%', base);
    const context = await workshop.context({ Dockerfile: dockerfile, a: 'a' });
    const [one, two] = ['one', 'two'].map((name) => `${workshop.registry.host}/${name}:1`);
    const file = join(workshop.directory, 'digest');
    const ended = await workshop.build(context, [
      ...['--platform', 'linux/amd64,linux/arm64', '--custom-platform', 'linux/amd64'],
      ...['--destination', one ?? '', '--destination', two ?? '', '--digest-file', file],
    ]);
    assert.equal(ended.code, 0, ended.stderr);
    const raw = (image: string): string =>
      execFileSync('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${image}`], {
        encoding: 'utf8',
      });
    const index = JSON.parse(raw(one ?? '')) as Index;
    assert.deepEqual(
      index.manifests.map(({ platform }) => platform.architecture),
      ['amd64', 'arm64'],
    );
    assert.equal(raw(two ?? ''), raw(one ?? ''));
    const repository = (one ?? '').replace(/:1$/, '');
    assert.equal(raw(`${repository}@${readFileSync(file, 'utf8')}`), raw(one ?? ''));
    // What is named is all there.
    execFileSync('skopeo', [
      ...['copy', '--quiet', '--all', '--src-tls-verify=false'],
      ...[`docker://${two ?? ''}`, `oci:${join(workshop.directory, 'copied')}:x`],
    ]);
    const refused = await workshop.build(context, [
      ...['--platform', 'linux/amd64,linux/arm64', '--no-push', '--tar-path', '/nowhere/app.tar'],
    ]);
    assert.equal(refused.code, 2);
    assert.match(refused.messages, /--tar-path holds an image of one platform[\s\S]*--oci-layout-path/);
  });

  describe('by an interpreter that the kernel calls', () => {
    /**
     * Builds where the kernel has a program run whatever is for arm64: in a user namespace, which has a binfmt_misc of its own. The
     * program is busybox's `touch`, so that a step that runs leaves the files that it is given, and no emulator is needed.
     */
    const emulated = async (flags: string, dockerfile: string): Promise<Ended> => {
      const { directory } = workshop;
      const touch = join(directory, 'touch');
      await copyFile('/bin/busybox', touch);
      const register = `:touch:M::\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00::${touch}:${flags}`;
      const script = join(directory, 'register.sh');
      await writeFile(
        script,
        `mount -t binfmt_misc none /proc/sys/fs/binfmt_misc\nprintf '%s' '${register}' > /proc/sys/fs/binfmt_misc/register\nexec "$@"\n`,
      );
      const context = await workshop.context({ Dockerfile: dockerfile });
      writeFileSync(join(context, 'program'), probeProgram('arm64') ?? '');
      await chmod(join(context, 'program'), 0o755);
      const volume = join(directory, `emulated-${count++}`);
      await mkdir(volume);
      const args = ['--context', context, '--cache-dir', volume, '--log-format', 'json', '--no-push'];
      const under = ['unshare', '--user', '--map-root-user'];
      return kiln('executor', [...args, '--platform', 'linux/arm64', '--tar-path', join(volume, 'app.tar')], {
        under: [...under, '--mount', 'sh', script],
      });
    };
    const dockerfile = 'FROM scratch\nCOPY program /bin/tool\nRUN ["/bin/tool", "/made"]\n';

    test('steps of another platform run', async () => {
      const ended = await emulated('F', dockerfile);
      assert.equal(ended.code, 0, ended.stderr);
      assert.deepEqual(stepsThat('ran', ended), ['COPY program /bin/tool', 'RUN ["/bin/tool", "/made"]']);
    });

    test('steps do not run when it is not within their reach, and the error says so', async () => {
      const ended = await emulated('', dockerfile);
      assert.equal(ended.code, 1, ended.stderr);
      assert.match(
        ended.messages,
        /registered without the flag F, so that steps cannot reach it[\s\S]*Register it anew, with F/,
      );
      assert.deepEqual(stepsThat('ran', ended), []);
    });
  });
});
