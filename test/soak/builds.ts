import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { DaemonGround } from '../support/daemon-ground.ts';
import { writeFiles } from '../support/programs.ts';
import type { SeededRandom } from '../support/random.ts';
import { underReadOnlyMount } from '../support/read-only.ts';
import type { MovingBases, Version } from './bases.ts';
import type { Command } from './commands.ts';

const execute = promisify(execFile);

/** The daemon does not ask again for a tag that it has confirmed a moment ago; milliseconds. */
const confirmed = 12_000;

/** The FROM of a build, and what may be found there. */
interface Choice {
  readonly name: string;
  readonly versions: () => readonly Version[];
}

/** A build, and what its image has to be. */
export interface ChosenBuild extends Command {
  /** Compares the image that was pushed with what Dockerfile and bases say. */
  check(): Promise<void>;
  clean(): Promise<void>;
}

/** Chooses a build by chance: on which bases, with which steps, on a volume that it can write or only read, with which cache. */
export async function chooseBuild(
  ground: DaemonGround,
  bases: MovingBases,
  volume: string,
  random: SeededRandom,
): Promise<ChosenBuild> {
  const directory = ground.path('build');
  const begun = performance.now();
  const base = chooseBase(bases, random, begun);
  const other = chooseBase(bases, random, begun);
  const step = `step ${random.below(3)}`;
  const payload = `payload ${random.below(3)}`;
  const context = await writeFiles(join(directory, 'context'), {
    Dockerfile: [
      `FROM ${other.name} AS other`,
      `FROM ${base.name}`,
      'RUN cat /first /second > /seen',
      'COPY --from=other /first /other',
      `RUN echo ${step} > /step && sha256sum < /random > /sum`,
      'COPY payload /payload',
    ].join('\n'),
    payload,
  });
  const image = directory.replace(/^.*\//, '');
  const cache = random.pick([
    [],
    ['--cache', '--cache-repo', `oci:${ground.directory}/cache`],
    ['--cache', '--cache-repo', `${ground.registry.host}/cache`],
  ]);
  const readOnly = random.chance(0.6);
  const mounted = join(directory, 'volume');
  await mkdir(mounted);
  const cacheDirectory = readOnly ? mounted : volume;
  return {
    program: 'executor',
    args: [
      ...['--context', context, '--cache-dir', cacheDirectory, ...cache],
      ...(readOnly ? ['--scratch-dir', join(directory, 'scratch')] : []),
      ...['--destination', `${ground.registry.host}/${image}:1`],
    ],
    under: readOnly ? underReadOnlyMount(volume, mounted) : [],
    codes: [0],
    check: async () => {
      const root = await unpack(ground, directory, image);
      const read = (name: string): Promise<string> => readFile(join(root, name), 'utf8');
      const first = await read('first');
      const version = base.versions().find(({ text }) => text === first);
      assert.ok(version !== undefined, `${first} instead of what ${base.name} names`);
      const copied = await read('other');
      assert.ok(
        other.versions().some(({ text }) => text === copied),
        `${copied} instead of what ${other.name} names`,
      );
      assert.equal(await read('second'), first, 'layers of one version');
      assert.equal(await read('seen'), first + first, 'a step on that version');
      assert.equal(await read('sum'), `${version.random}  -\n`);
      assert.equal(await read('step'), `${step}\n`);
      assert.equal(await read('payload'), payload);
      assert.deepEqual((await readdir(root)).sort(), filesOfImage);
    },
    clean: () => rm(directory, { recursive: true, force: true }),
  };
}

/** The names in the root of an image. */
const filesOfImage = [
  ...[
    'bin',
    'etc',
    'first',
    'other',
    'payload',
    'random',
    'root',
    'second',
    'seen',
    'step',
    'sum',
    'tmp',
    'usr',
  ],
];

function chooseBase(bases: MovingBases, random: SeededRandom, begun: number): Choice {
  const number = random.below(bases.count);
  const reference = bases.reference(number);
  if (random.chance(0.2)) {
    const version = random.pick(bases.versions(number));
    return { name: reference.replace(/:1$/, `@${version.digest}`), versions: () => [version] };
  }
  return {
    name: reference,
    versions: () => bases.versions(number).filter(({ until }) => until >= begun - confirmed),
  };
}

async function unpack(ground: DaemonGround, directory: string, image: string): Promise<string> {
  const layout = join(directory, 'image');
  await execute('skopeo', [
    ...['copy', '--quiet', '--src-tls-verify=false'],
    ...[`docker://${ground.registry.host}/${image}:1`, `oci:${layout}:image`],
  ]);
  await execute('umoci', ['unpack', '--image', `${layout}:image`, join(directory, 'bundle')]);
  return join(directory, 'bundle/rootfs');
}
