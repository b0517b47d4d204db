import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ProgressEvent } from '../src/support/index.ts';
import { kilnLayers, openPod } from '../test/support/pod.ts';
import type { Ended } from '../test/support/programs.ts';
import { highWaterMark, measure, median, openGround, program } from './support.ts';

/**
 * In place in an ordinary pod, with a warm base of about 200 MB: to the first process of a RUN step; what a step costs that
 * changes nothing among 100,000 files; the executor's memory. Beside it `buildah bud --isolation chroot` with the storage
 * driver vfs, which needs as little, as root of this machine. By turns, so that what else the machine does falls on both;
 * only buildah's steps among many files, which take minutes, are measured once.
 */
const rounds = Number(process.env.ROUNDS ?? 5);
/** Steps that change nothing, one after the other. */
const idleSteps = 3;

await using ground = await openGround();
const at = (name: string): string => join(ground.directory, name);
for (const name of ['first', 'many', 'few', 'layer', 'kiln']) await mkdir(at(name));
await measure(program('warmer'), ['--cache-dir', at('volume'), '--image', ground.base]);
const buildah = (...args: string[]): ReturnType<typeof measure> =>
  measure('buildah', [
    ...['--root', at('buildah'), '--runroot', at('buildah-run'), '--storage-driver', 'vfs', ...args],
  ]);
const bud = (context: string, ...args: string[]): ReturnType<typeof measure> =>
  buildah('bud', '--isolation', 'chroot', '--pull-never', '-t', 'x', ...args, at(context));
await buildah('pull', '--tls-verify=false', ground.base);
const layers = await kilnLayers(at('kiln'));

/** Builds in a pod of its own, whose writable layer lies on the disk. */
async function inPod(context: string): Promise<Ended & { readonly peakMemory: number }> {
  let peakMemory = 0;
  const timer = setInterval(() => (peakMemory = Math.max(peakMemory, executorMemory())), 20);
  try {
    await using pod = await openPod(layers, {
      storage: join(at('layer'), crypto.randomUUID()),
      mounts: [
        { source: at('volume'), target: '/cache', readOnly: true },
        { source: at(context), target: '/workspace', readOnly: true },
      ],
    });
    const flags = ['--context', '/workspace', '--no-push', '--log-format', 'json', '--cache=false'];
    const ended = await pod.run(['/kiln/bin/executor', ...flags]);
    if (ended.code !== 0) throw new Error(ended.stderr);
    return { ...ended, peakMemory };
  } finally {
    clearInterval(timer);
  }
}

/** The highest resident memory so far of the executor that runs in a pod, in bytes. */
function executorMemory(): number {
  const pids = readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name));
  return Math.max(0, ...pids.filter(isExecutor).map((pid) => highWaterMark(Number(pid))));
}

function isExecutor(pid: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('/kiln/bin/executor\0--context\0/workspace');
  } catch {
    return false; // it has ended
  }
}

function firstRun({ output, startedAt }: { output: string; startedAt: bigint }): number {
  const told = /first:([0-9]+)/.exec(output)?.[1];
  if (told === undefined) throw new Error(output);
  return Number(BigInt(told) - startedAt) / 1e6;
}

/** Milliseconds from the beginning of the executor's process to its first step, by its own account. */
function ownAccount(output: string): number {
  const told = /first RUN started ([0-9]+) ms/.exec(output)?.[1];
  if (told === undefined) throw new Error(output);
  return Number(told);
}

/** Milliseconds that steps took which change nothing. */
function idleTimes(events: readonly ProgressEvent[]): number[] {
  const ended = events.filter((event) => event.type === 'step-end').slice(-idleSteps);
  return ended.map(({ seconds }) => seconds * 1000);
}

const times = new Map<string, number[]>();
const note = (what: string, ...values: number[]): void => {
  times.set(what, [...(times.get(what) ?? []), ...values]);
  console.error(`${what}: ${values.map((value) => value.toFixed(0)).join(' ')}`);
};
const makeFiles = 'mkdir -p /files/{1..1000}; for directory in /files/*; do touch $directory/{1..100}; done';
for (let round = 0; round < rounds; round++) {
  const head = `FROM ${ground.base}\nENV ROUND=${round}\n`;
  const files = `${head}RUN ["/bin/bash", "-c", "${makeFiles}"]\n`;
  const idle = Array.from({ length: idleSteps }, (_, index) => `RUN true ${index}\n`).join('');
  await writeFile(join(at('first'), 'Dockerfile'), `${head}RUN ["date", "+first:%s%N"]\n`);
  await writeFile(join(at('many'), 'Dockerfile'), files + idle);
  await writeFile(join(at('few'), 'Dockerfile'), files);
  const first = await inPod('first');
  note('first RUN, Kiln, ms', ownAccount(first.stderr));
  note('peak memory, MB', first.peakMemory / 1e6);
  note('first RUN, buildah, ms', firstRun(await bud('first')));
  const many = await inPod('many');
  note('step among 100,000 files, Kiln, ms', ...idleTimes(many.events));
  note('peak memory with 100,000 files, MB', many.peakMemory / 1e6);
  if (round === rounds - 1) {
    const few = await bud('few', '--layers', '--no-cache');
    const more = await bud('many', '--layers', '--no-cache');
    note('step among 100,000 files, buildah, ms', ((more.seconds - few.seconds) * 1000) / idleSteps);
  }
  await buildah('rmi', '--all', '--force');
  await buildah('pull', '--tls-verify=false', ground.base);
}
for (const [what, values] of times)
  console.log(`${what}: median ${median(values).toFixed(0)} of ${values.length}`);
const ratio = (what: string): string =>
  (median(times.get(`${what}, Kiln, ms`) ?? []) / median(times.get(`${what}, buildah, ms`) ?? [])).toFixed(2);
console.log(`first RUN, Kiln / buildah: ${ratio('first RUN')} (goal 2000 ms)`);
console.log(`step, Kiln / buildah: ${ratio('step among 100,000 files')} (goal 600 ms)`);
