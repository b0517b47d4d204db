import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { kiln, measure, median, openGround } from './support.ts';

/** The example, with nothing cached anywhere, beside buildah bud and buildah push; alternating. */
await using ground = await openGround();
const { host } = ground.registry;
const argument = ['--build-arg', `BASE=${ground.base}`];

const ours = async (round: number): Promise<number> => {
  const volume = join(ground.directory, `volume${round}`);
  const { seconds } = await kiln('executor', [
    ...['--context', ground.example, ...argument, '--cache-dir', volume],
    ...['--cache=false', '--destination', `${host}/ours${round}:1`],
  ]);
  await rm(volume, { recursive: true });
  return seconds;
};
const theirs = async (round: number): Promise<number> => {
  const storage = join(ground.directory, `storage${round}`);
  const store = [
    '--root',
    join(storage, 'root'),
    '--runroot',
    join(storage, 'run'),
    '--storage-driver',
    'overlay',
  ];
  const build = await measure('buildah', [
    ...[...store, 'bud', '--tls-verify=false', '--jobs', '2', ...argument, '-t', 'x', ground.example],
  ]);
  const push = await measure('buildah', [
    ...store,
    'push',
    '--tls-verify=false',
    'x',
    `docker://${host}/theirs${round}:1`,
  ]);
  await measure('rm', ['-rf', storage]);
  return build.seconds + push.seconds;
};

/** Neither pays for what the other left to be written: Kiln syncs its volume, which waits for all of the file system. */
const settled = async (run: (round: number) => Promise<number>, round: number): Promise<number> => {
  await measure('sync', []);
  return run(round);
};

const a: number[] = [];
const b: number[] = [];
for (let round = 0; round < 5; round++) {
  const [kilnSeconds, buildahSeconds] = [await settled(ours, round), await settled(theirs, round)];
  a.push(kilnSeconds);
  b.push(buildahSeconds);
  console.log(`round ${round}: kiln ${kilnSeconds.toFixed(1)} s, buildah ${buildahSeconds.toFixed(1)} s`);
}
const ratio = median(a) / median(b);
console.log(
  `cold build and push: kiln ${median(a).toFixed(1)} s, buildah ${median(b).toFixed(1)} s, ratio ${ratio.toFixed(2)} (goal 0.6)`,
);
