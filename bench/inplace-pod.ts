import { readdirSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type * as Pods from '../test/support/pod.ts';
import { highWaterMark } from './support.ts';

export interface PodBuild {
  /** The project whose Kiln builds. */
  readonly checkout: string;
  /** Where the containers' files lie, on the disk. */
  readonly directory: string;
  readonly volume: string;
  readonly context: string;
}

/** What a build in place took. */
export interface PodCost {
  /** Milliseconds from the beginning of the executor's process to its first step, by its own account. */
  readonly firstRun: number;
  /** Milliseconds of each step. */
  readonly stepTimes: readonly number[];
  /** The executor's highest resident memory, in bytes. */
  readonly peakMemory: number;
}

const assembled = new Map<string, Promise<string[]>>();

/** Builds in an ordinary pod of its own, whose writable layer lies on the disk. */
export async function measureInPod({ checkout, directory, volume, context }: PodBuild): Promise<PodCost> {
  const { kilnLayers, openPod } = (await import(join(checkout, 'test/support/pod.ts'))) as typeof Pods;
  let layers = assembled.get(checkout);
  if (layers === undefined) {
    const kiln = join(directory, `kiln-${assembled.size}`);
    await mkdir(kiln);
    assembled.set(checkout, (layers = kilnLayers(kiln)));
  }
  let peakMemory = 0;
  const timer = setInterval(() => (peakMemory = Math.max(peakMemory, executorMemory())), 20);
  try {
    await using pod = await openPod(await layers, {
      storage: join(directory, 'layer', crypto.randomUUID()),
      mounts: [
        { source: volume, target: '/cache', readOnly: true },
        { source: context, target: '/workspace', readOnly: true },
      ],
    });
    const flags = ['--context', '/workspace', '--no-push', '--log-format', 'json', '--cache=false'];
    const ended = await pod.run(['/kiln/bin/executor', ...flags]);
    if (ended.code !== 0) throw new Error(ended.stderr);
    const steps = ended.events.filter((event) => event.type === 'step-end');
    return {
      firstRun: ownAccount(ended.stderr),
      stepTimes: steps.map(({ seconds }) => seconds * 1000),
      peakMemory,
    };
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

function ownAccount(output: string): number {
  const told = /first RUN started ([0-9]+) ms/.exec(output)?.[1];
  if (told === undefined) throw new Error(output);
  return Number(told);
}
