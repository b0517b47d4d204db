import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeOrdinaryUser } from '../test/support/ordinary-user.ts';
import { defaultCapabilities, kilnLayers, openPod } from '../test/support/pod.ts';
import { measure, median, openGround, program } from './support.ts';

/**
 * With the base warm: to the first process of a RUN step, as root of the machine, as an ordinary user, in a pod with its own
 * user namespace; and by buildah as the same user. By turns, so that what else the machine does falls on all of them.
 */
const rounds = Number(process.env.ROUNDS ?? 9);

await using ground = await openGround();
await using user = await makeOrdinaryUser({ subordinateIds: true });
await chmod(ground.directory, 0o755);
const context = join(ground.directory, 'context');
const volume = join(ground.directory, 'volume');
const scratch = join(ground.directory, 'scratch');
await mkdir(context);
await mkdir(scratch);
const asUser = ['env', '-i', `HOME=${user.home}`, `PATH=${process.env.PATH ?? ''}`];

/** Runs a command that must succeed, as the user. */
const byUser = (...command: string[]): ReturnType<typeof measure> => {
  const [file = '', ...args] = [...user.under, ...asUser, ...command];
  return measure(file, args);
};
const plain = ['--insecure-registry', ground.registry.host];
await measure(program('warmer'), ['--cache-dir', volume, '--image', ground.base, ...plain]);
await byUser(program('warmer'), '--image', ground.base, ...plain);
const drivers = ['overlay', 'vfs'] as const;
const buildah = (driver: string, ...args: string[]): ReturnType<typeof measure> => {
  const at = (name: string): string => join(user.home, `${driver}-${name}`);
  const stores = ['--root', at('root'), '--runroot', at('run'), '--storage-driver', driver];
  return byUser('env', `XDG_RUNTIME_DIR=${user.home}`, 'buildah', ...stores, ...args);
};
for (const driver of drivers) await buildah(driver, 'pull', '--tls-verify=false', ground.base);
await using pod = await openPod(await kilnLayers(join(ground.directory, 'kiln')), {
  userNamespace: true,
  capabilities: [...defaultCapabilities, 'SYS_ADMIN'],
  mounts: [
    { source: volume, target: '/cache', readOnly: true },
    { source: context, target: '/workspace', readOnly: true },
    { source: scratch, target: '/scratch' },
  ],
});

/** Milliseconds from starting a command to what its step printed, by the clock that both see. */
function untilStep({ output, startedAt }: { output: string; startedAt: bigint }): number {
  const at = /first:([0-9]+)/.exec(output)?.[1];
  if (at === undefined) throw new Error(output);
  return Number(BigInt(at) - startedAt) / 1e6;
}

/** Milliseconds from the beginning of the executor's process to its first step, by its own account. */
function ownAccount(output: string): number {
  const told = /first RUN started ([0-9]+) ms/.exec(output)?.[1];
  if (told === undefined) throw new Error(output);
  return Number(told);
}

const times = new Map<string, number[]>();
const note = (what: string, value: number): void => void times.set(what, [...(times.get(what) ?? []), value]);
const flags = ['--no-push', '--log-format', 'json', '--cache=false'];
for (let round = 0; round < rounds; round++) {
  await writeFile(
    join(context, 'Dockerfile'),
    `FROM ${ground.base}\nENV ROUND=${round}\nRUN ["date", "+first:%s%N"]\n`,
  );
  const root = await measure(program('executor'), ['--context', context, '--cache-dir', volume, ...flags]);
  note('root', untilStep(root));
  note('root, own account', ownAccount(root.output));
  const rootless = await byUser(program('executor'), '--context', context, ...flags);
  note('ordinary user', untilStep(rootless));
  note('ordinary user, own account', ownAccount(rootless.output));
  const arguments_ = ['--context', '/workspace', '--scratch-dir', '/scratch', ...flags];
  const inPod = await pod.run(['/kiln/bin/executor', ...arguments_]);
  if (inPod.code !== 0) throw new Error(inPod.stderr);
  note('pod, own account', ownAccount(inPod.stderr));
  for (const driver of drivers)
    note(
      `buildah, ${driver}`,
      untilStep(await buildah(driver, 'bud', '--isolation', 'chroot', '--pull-never', '-t', 'x', context)),
    );
}
for (const [what, values] of times)
  console.log(`${what}: median ${median(values).toFixed(0)} ms of ${values.length}`);
const of = (what: string): number => median(times.get(what) ?? []);
const ratio = (a: string, b: string): string => (of(a) / of(b)).toFixed(2);
console.log(`ordinary user / root: ${ratio('ordinary user', 'root')}`);
console.log(`pod / root, own accounts: ${ratio('pod, own account', 'root, own account')} (goal 300 ms)`);
for (const driver of drivers)
  console.log(
    `ordinary user / buildah bud with ${driver}, same user: ${ratio('ordinary user', `buildah, ${driver}`)}`,
  );
