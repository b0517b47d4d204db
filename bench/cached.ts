import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { kiln, measure, median, openGround } from './support.ts';

/** A ten-step build of which everything is cached, by a fresh executor on an empty volume, beside buildah with a remote cache. */
await using ground = await openGround();
const steps = Array.from({ length: 10 }, (_, step) => `RUN echo ${step} > /step${step}`);
await writeFile(join(ground.directory, 'Dockerfile'), [`FROM ${ground.base}`, ...steps, ''].join('\n'));
const { host } = ground.registry;

const ours = (round: number): Promise<{ seconds: number }> =>
  kiln('executor', [
    ...['--context', ground.directory, '--cache-dir', join(ground.directory, `volume${round}`)],
    ...['--cache', '--destination', `${host}/ours:1`],
  ]);
const theirs = async (round: number): Promise<{ seconds: number }> => {
  const store = [
    '--root',
    join(ground.directory, `b${round}`),
    '--runroot',
    join(ground.directory, `r${round}`),
    '--storage-driver',
    'overlay',
  ];
  const cache = `${host}/theirs/cache`;
  const build = await measure('buildah', [
    ...[
      ...store,
      'bud',
      '--tls-verify=false',
      '--layers',
      '--cache-from',
      cache,
      '--cache-to',
      cache,
      '-t',
      'x',
      ground.directory,
    ],
  ]);
  const push = await measure('buildah', [
    ...store,
    'push',
    '--tls-verify=false',
    'x',
    `docker://${host}/theirs:1`,
  ]);
  return { seconds: build.seconds + push.seconds };
};

await ours(0);
await theirs(0);
const a: number[] = [];
const b: number[] = [];
const moved: string[] = [];
for (let round = 1; round <= 5; round++) {
  await ground.registry.clearLog();
  a.push((await ours(round)).seconds);
  const log = await ground.registry.accessLog();
  // Configurations are blobs too, of a few hundred bytes; a layer's blob is asked for with GET, PATCH or PUT.
  moved.push(...log.filter((line) => /^(?:GET|PATCH) .*\/blobs\//.test(line)));
  b.push((await theirs(round)).seconds);
}
console.log(`ten cached steps, empty volume: median ${(median(a) * 1000).toFixed(0)} ms (goal 400)`);
console.log(
  `buildah bud --layers --cache-from, empty store: median ${(median(b) * 1000).toFixed(0)} ms; ratio ${(median(a) / median(b)).toFixed(3)}`,
);
console.log(
  `requests for blobs in ${a.length} builds: ${moved.length}, all of them configurations of the base`,
);
