import assert from 'node:assert/strict';
import { chmodSync, chownSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { compilePrograms } from '../support/compiled.ts';
import { debianTar } from '../support/debian.ts';
import { startGitServer, TestRepository } from '../support/git-server.ts';
import { pushTestImage } from '../support/images.ts';
import { makeOrdinaryUser, type OrdinaryUser } from '../support/ordinary-user.ts';
import {
  imageDigest,
  needsDeviceNodes,
  parityArguments,
  type ParityBases,
  parityContexts,
  parityNames,
  pushLayered,
  readImages,
  secretArguments,
} from '../support/parity.ts';
import { defaultCapabilities, kilnLayers, openPod, type Pod } from '../support/pod.ts';
import { type Ended, kiln } from '../support/programs.ts';
import { SeededRandom } from '../support/random.ts';
import { randomContext, randomDockerfile } from '../support/random-dockerfile.ts';
import { plant } from '../support/trees.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

/*
 * All Dockerfiles of test/parity, built in four ways. The builds in pods are made one after the other in one container
 * each: so whatever a build left to the next one would show, too.
 */

/** What every build is told. Files older than the date keep their times, those that steps make have it. */
const common = [
  ...['--cache=false', '--no-push', '--reproducible'],
  ...['--build-arg', `SOURCE_DATE_EPOCH=${Date.UTC(2020, 5) / 1000}`],
];

/** Random Dockerfiles, which `KILN_TEST_SEED` repeats. */
const seed = Number(process.env.KILN_TEST_SEED ?? Date.now() % 1_000_000);
const randomNames = [0, 1, 2].map((index) => `random-${seed + index}`);

/** In Perl: leaves shared memory, semaphores and a message queue of System V. */
const makeSysvObjects =
  'defined(shmget(7, 4096, 01600)) && semop(semget(7, 2, 01600), pack("s3", 0, 1, 0)) && msgsnd(msgget(7, 01600), pack("l! a*", 1, "x"), 0) or die $!';

type Way = 'in an ordinary pod' | 'in a pod with a user namespace' | 'by an ordinary user' | 'by root';

describe('the same image is built', () => {
  const resources = new AsyncDisposableStack();
  let workshop: Workshop;
  let pod: Pod;
  let bases: ParityBases;
  let builders: Record<Way, (name: string) => Promise<Ended>>;

  before(async () => {
    workshop = resources.use(await openWorkshop({ inMemory: true }));
    const { directory } = workshop;
    chmodSync(directory, 0o755);
    bases = await pushBases(workshop);
    await parityContexts(join(directory, 'contexts'));
    await parityContexts(join(directory, 'secrets'));
    for (const [index, name] of randomNames.entries()) {
      const random = new SeededRandom(seed + index);
      const Dockerfile = randomDockerfile(random, bases.busybox);
      plant(join(directory, 'contexts', name), { Dockerfile, ...randomContext(random) });
    }
    for (const name of ['mounted', 'out', 'layers', 'scratch', 'mapped-out'])
      mkdirSync(join(directory, name));
    writeFileSync(join(directory, 'mounted/file'), 'mounted');
    const programs = await compilePrograms(join(directory, 'programs'));
    const user = resources.use(await makeOrdinaryUser({ subordinateIds: true }));
    for (const name of ['users-volume', 'users-out']) {
      mkdirSync(join(directory, name));
      chownSync(join(directory, name), user.uid, user.uid);
    }
    const layers = await kilnLayers(join(directory, 'layers'));
    await warm(programs, user);
    pod = resources.use(await openOrdinaryPod(layers));
    const mapped = resources.use(await openMappedPod(layers));
    await Promise.all([pod.start(), mapped.start()]);
    builders = buildersOf(programs, mapped, user);
  });
  after(() => resources.disposeAsync());

  const at = (name: string): string => join(workshop.directory, name);

  async function warm(compiled: string, user: OrdinaryUser): Promise<void> {
    const images = Object.values(bases).flatMap((reference: string) => ['--image', reference]);
    const ended = await Promise.all([
      kiln('warmer', ['--cache-dir', workshop.volume, ...images], { compiled }),
      user.kiln('warmer', ['--cache-dir', at('users-volume'), ...images], { compiled }),
    ]);
    for (const { code, stderr } of ended) assert.equal(code, 0, stderr);
  }

  const openOrdinaryPod = (layers: readonly string[]): Promise<Pod> =>
    openPod(layers, {
      mounts: [
        { source: at('contexts'), target: '/kiln/contexts', readOnly: true },
        // As every pod has its secrets for itself: where steps run in place, whoever else opens them is taken for a step.
        { source: at('secrets'), target: '/kiln/secrets', readOnly: true },
        { source: at('out'), target: '/kiln/out' },
        { source: workshop.volume, target: '/cache', readOnly: true },
        // Within what bases have, and in a directory that the layers of some take away.
        { source: at('mounted'), target: '/usr/share/mounted', readOnly: true },
      ],
    });
  const openMappedPod = (layers: readonly string[]): Promise<Pod> =>
    openPod(layers, {
      userNamespace: true,
      capabilities: [...defaultCapabilities, 'SYS_ADMIN'],
      mounts: [
        { source: at('contexts'), target: '/kiln/contexts', readOnly: true },
        { source: at('mapped-out'), target: '/kiln/out' },
        { source: workshop.volume, target: '/cache', readOnly: true },
        { source: at('scratch'), target: '/scratch' },
      ],
    });

  const buildersOf = (compiled: string, mapped: Pod, user: OrdinaryUser): typeof builders => {
    const inPod = (name: string, secrets: string, isolation: readonly string[]): string[] => [
      ...['/kiln/bin/executor', ...isolation, '--context', `/kiln/contexts/${name}`, ...common],
      ...['--oci-layout-path', `/kiln/out/${name}`, ...parityArguments(bases, name)],
      ...secretArguments(secrets, name),
    ];
    const onMachine = (name: string, volume: string, out: string): string[] => [
      ...['--context', at(`contexts/${name}`), ...common, '--isolation', 'overlay', '--cache-dir', volume],
      ...['--oci-layout-path', join(out, name), ...parityArguments(bases, name)],
      ...secretArguments(at('contexts'), name),
    ];
    return {
      'in an ordinary pod': (name) => pod.exec(inPod(name, '/kiln/secrets', ['--isolation', 'inplace'])),
      'in a pod with a user namespace': (name) =>
        mapped.exec(inPod(name, '/kiln/contexts', ['--isolation', 'overlay', '--scratch-dir', '/scratch'])),
      'by an ordinary user': (name) =>
        user.kiln('executor', onMachine(name, at('users-volume'), at('users-out')), { compiled }),
      'by root': (name) => kiln('executor', onMachine(name, workshop.volume, at('roots-out')), { compiled }),
    };
  };
  const outputs: Record<Way, string> = {
    'in an ordinary pod': 'out',
    'in a pod with a user namespace': 'mapped-out',
    'by an ordinary user': 'users-out',
    'by root': 'roots-out',
  };

  for (const name of [...parityNames, ...randomNames])
    test(name, async (context) => {
      const reason = needsDeviceNodes[name];
      if (reason !== undefined) context.diagnostic(`not in user namespaces: ${reason}`);
      const ways = (Object.keys(outputs) as Way[]).filter(
        (way) => reason === undefined || way === 'in an ordinary pod' || way === 'by root',
      );
      await Promise.all(
        ways.map(async (way) => {
          const ended = await builders[way](name);
          assert.equal(ended.code, 0, `${way}: ${ended.stderr}`);
        }),
      );
      const layouts = ways.map((way) => join(at(outputs[way]), name));
      const digests = await Promise.all(layouts.map(imageDigest));
      if (new Set(digests).size > 1) {
        const images = await readImages(workshop.directory, layouts);
        for (const [index, way] of ways.entries()) assert.deepEqual(images[index], images.at(-1), way);
        for (const [index, way] of ways.entries()) assert.equal(digests[index], digests.at(-1), way);
      }
      for (const layout of layouts) rmSync(layout, { recursive: true });
    });

  test('and ten different images built in place leave no trace of each other', async () => {
    for (let number = 0; number < 10; number++) {
      const name = `traces-${number}`;
      const base = number % 5 === 4 ? bases.debian : bases.busybox;
      const dockerfile = [
        `FROM ${base} AS first`,
        `RUN mkdir -p /opt/trace-${number} && echo ${number} > /trace-${number} && touch /tmp/trace-${number} /var/trace-${number}`,
        `FROM ${base}`,
        // Whatever any of the others, or the stage before, left is found here.
        "RUN ! find / /dev /dev/shm /dev/mqueue -xdev -path /kiln -prune -o -name 'trace-*' -print | grep . && ! grep -q trace /etc/passwd",
        // A line of titles in each of the three tables of System V objects.
        'RUN cat /proc/sysvipc/* && [ $(cat /proc/sysvipc/* | wc -l) = 3 ]',
        `COPY --from=first /trace-${number} /usr/lib/trace-${number}`,
        `RUN (sleep 300 &) ; rm -rf /home; echo trace-${number}:x:${number}:0:::: >> /etc/passwd; chmod 700 /var; ln -s / /trace-link`,
        `RUN mkdir -p /dev/shm/trace-${number}/trace-in; for place in shm/trace-${number}/trace-file mqueue/trace-${number} trace-${number}; do echo x > /dev/$place; done`,
        ...(base === bases.debian ? ['USER 1000', `RUN perl -e '${makeSysvObjects}'`] : []),
      ];
      mkdirSync(at(`contexts/${name}`));
      writeFileSync(at(`contexts/${name}/Dockerfile`), `${dockerfile.join('\n')}\n`);
      const ended = await builders['in an ordinary pod'](name);
      assert.equal(ended.code, 0, ended.stderr);
    }
  });

  test('from a repository and a file on the web', async () => {
    mkdirSync(at('served'));
    mkdirSync(at('contexts/remote'));
    new TestRepository(at('served'), 'inner').commit({ inner: 'inner' });
    const repository = new TestRepository(at('served'), 'outer');
    repository.git('-c', 'protocol.file.allow=always', 'submodule', 'add', '--quiet', '../inner.git', 'sub');
    repository.git('config', '-f', '.gitmodules', 'submodule.sub.url', '../inner.git');
    await using server = await startGitServer(at('served'));
    repository.commit({ 'a/b': 'outer', run: '#!/bin/sh' });
    const dockerfile = `FROM ${bases.busybox}\nRUN echo first > /first\nADD ${server.url('outer')} /repository/\nADD ${server.url('outer')}/HEAD /head\nRUN grep -q refs /head && cat /repository/a/b /repository/sub/inner\n`;
    writeFileSync(at('contexts/remote/Dockerfile'), dockerfile);
    const ways = ['in an ordinary pod', 'by root'] as const;
    for (const way of ways) {
      const ended = await builders[way]('remote');
      assert.equal(ended.code, 0, `${way}: ${ended.stderr}`);
    }
    const digests = await Promise.all(ways.map((way) => imageDigest(join(at(outputs[way]), 'remote'))));
    assert.equal(digests[0], digests[1]);
  });

  test('and builds in place leave nothing in the container', async () => {
    const left = await filesBelow(pod.root, ['kiln', 'kaniko', 'tmp']);
    // What runc made to mount the kubelet's files on.
    assert.deepEqual(left.sort(), ['etc/hostname', 'etc/hosts', 'etc/resolv.conf']);
    const work = await readdir(join(pod.root, 'kiln/work'), { recursive: true });
    assert.deepEqual(work.sort(), ['lock', 'taken', 'trash']);
  });
});

async function pushBases({ directory, registry, base }: Workshop): Promise<ParityBases> {
  const debian = `${registry.host}/debian:bookworm`;
  const layered = await pushLayered(directory, `${registry.host}/layered:1`);
  await pushTestImage(directory, debian, { layers: [await debianTar()] });
  return { busybox: base, debian, layered };
}

/** Whatever is no directory, apart from what lies in some. */
async function filesBelow(root: string, without: readonly string[]): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  const paths = entries
    .filter((entry) => !entry.isDirectory())
    .map(({ parentPath, name }) => join(parentPath, name).slice(root.length + 1));
  return paths.filter((path) => !without.includes(path.split('/')[0] ?? ''));
}
