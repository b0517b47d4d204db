import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { measureInPod } from './inplace-pod.ts';
import { measure, median, openGround, program, root } from './support.ts';

/**
 * In place in an ordinary pod, with a warm base of about 200 MB: to the first process of a RUN step; what a step costs that
 * changes nothing among 100,000 files; the executor's memory. Beside it `buildah bud --isolation chroot` with the storage
 * driver vfs, which needs as little, as root of this machine; or, when `FORMER` names another checkout of this project, the
 * Kiln of that one. By turns, so that what else the machine does falls on both; only buildah's steps among many files, which
 * take minutes, are measured once.
 */
const rounds = Number(process.env.ROUNDS ?? 5);
const former = process.env.FORMER;
/** Steps that change nothing, one after the other. */
const idleSteps = 3;
const makeFiles = 'mkdir -p /files/{1..1000}; for directory in /files/*; do touch $directory/{1..100}; done';

await using ground = await openGround();
const at = (name: string): string => join(ground.directory, name);
for (const name of ['first', 'many', 'few', 'layer']) await mkdir(at(name));
await measure(program('warmer'), ['--cache-dir', at('volume'), '--image', ground.base]);

const times = new Map<string, number[]>();
const note = (what: string, ...values: number[]): void => {
  times.set(what, [...(times.get(what) ?? []), ...values]);
  console.error(`${what}: ${values.map((value) => value.toFixed(0)).join(' ')}`);
};

/** Measures one Kiln with the present Dockerfiles. */
async function measureKiln(name: string, checkout: string): Promise<void> {
  const build = (context: string): ReturnType<typeof measureInPod> =>
    measureInPod({ checkout, directory: ground.directory, volume: at('volume'), context: at(context) });
  const first = await build('first');
  note(`first RUN, ${name}, ms`, first.firstRun);
  note(`peak memory, ${name}, MB`, first.peakMemory / 1e6);
  const many = await build('many');
  note(`step among 100,000 files, ${name}, ms`, ...many.stepTimes.slice(-idleSteps));
  note(`peak memory with 100,000 files, ${name}, MB`, many.peakMemory / 1e6);
}

const buildah = (...args: string[]): ReturnType<typeof measure> =>
  measure('buildah', [
    ...['--root', at('buildah'), '--runroot', at('buildah-run'), '--storage-driver', 'vfs', ...args],
  ]);
const bud = (context: string, ...args: string[]): ReturnType<typeof measure> =>
  buildah('bud', '--isolation', 'chroot', '--pull-never', '-t', 'x', ...args, at(context));

async function measureBuildah(isLast: boolean): Promise<void> {
  await buildah('pull', '--tls-verify=false', ground.base);
  const { output, startedAt } = await bud('first');
  const told = /first:([0-9]+)/.exec(output)?.[1];
  if (told === undefined) throw new Error(output);
  note('first RUN, buildah, ms', Number(BigInt(told) - startedAt) / 1e6);
  if (isLast) {
    const few = await bud('few', '--layers', '--no-cache');
    const more = await bud('many', '--layers', '--no-cache');
    note('step among 100,000 files, buildah, ms', ((more.seconds - few.seconds) * 1000) / idleSteps);
  }
  await buildah('rmi', '--all', '--force');
}

for (let round = 0; round < rounds; round++) {
  const head = `FROM ${ground.base}\nENV ROUND=${round}\n`;
  const files = `${head}RUN ["/bin/bash", "-c", "${makeFiles}"]\n`;
  const idle = Array.from({ length: idleSteps }, (_, index) => `RUN true ${index}\n`).join('');
  await writeFile(join(at('first'), 'Dockerfile'), `${head}RUN ["date", "+first:%s%N"]\n`);
  await writeFile(join(at('many'), 'Dockerfile'), files + idle);
  await writeFile(join(at('few'), 'Dockerfile'), files);
  await measureKiln('Kiln', root);
  if (former === undefined) await measureBuildah(round === rounds - 1);
  else await measureKiln('former Kiln', former);
}

for (const [what, values] of times)
  console.log(`${what}: median ${median(values).toFixed(0)} of ${values.length}`);
const peer = former === undefined ? 'buildah' : 'former Kiln';
const ratio = (what: string): string =>
  (median(times.get(`${what}, Kiln, ms`) ?? []) / median(times.get(`${what}, ${peer}, ms`) ?? [])).toFixed(2);
console.log(`first RUN, Kiln / ${peer}: ${ratio('first RUN')} (goal 2000 ms)`);
console.log(`step, Kiln / ${peer}: ${ratio('step among 100,000 files')} (goal 600 ms)`);
