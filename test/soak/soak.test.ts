import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { cleanIngest } from '../../src/volume/ingest.ts';
import { compilePrograms } from '../support/compiled.ts';
import { type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { mountMemory } from '../support/memory.ts';
import { kiln, mountsBelow } from '../support/programs.ts';
import { SeededRandom } from '../support/random.ts';
import { MovingBases } from './bases.ts';
import { chooseBuild } from './builds.ts';
import { type Command, Commands, pause } from './commands.ts';

/** KILN_SOAK_SECONDS: how long it lasts. KILN_SOAK_SEED: repeats the choices of another run. */
const seconds = Number(process.env.KILN_SOAK_SECONDS ?? 25);
const seed = Number(process.env.KILN_SOAK_SEED ?? randomInt(1_000_000));

const baseCount = 5;
/** Bytes that the policy of the daemon allows on the volume, and that of the last prune. */
const allowed = 30_000_000;
const bound = 8_000_000;

describe('a volume on which warmers, prunes, repairs, a daemon and builds work at once, and are killed', () => {
  let ground: DaemonGround;
  let compiled: string;
  let volume: string;
  let memory: Disposable;
  before(async () => {
    ground = await openDaemonGround();
    compiled = await compilePrograms(ground.path('programs'));
    volume = ground.path('volume');
    // More happens there in the same time.
    memory = mountMemory(volume);
  });
  after(async () => {
    memory[Symbol.dispose]();
    await ground[Symbol.asyncDispose]();
  });

  test(`stays right, and no build fails or has a wrong layer (seed ${seed})`, async (t) => {
    const bases = await MovingBases.push(ground, baseCount, new SeededRandom(seed));
    const commands = new Commands(compiled);
    await commands.run('warmer', warm(volume, bases, [0]), { probability: 0 }, new SeededRandom(0));
    await storm(bases, commands);
    for (const [name, { ended, killed }] of commands.counts)
      t.diagnostic(`${name}: ${ended} ended, ${killed} were killed`);
    assert.ok((commands.counts.get('build')?.ended ?? 0) > 2);
    await requireSound();
    await requireBound();
    await requireClean();
  });

  /** Everybody at once, until the time is over or somebody fails. */
  async function storm(bases: MovingBases, commands: Commands): Promise<void> {
    const over = new AbortController();
    const timer = setTimeout(() => over.abort(), seconds * 1000);
    const failures: unknown[] = [];
    let actors = 0;
    const act = async (once: (random: SeededRandom) => Promise<unknown>): Promise<void> => {
      const random = new SeededRandom(seed * 31 + ++actors);
      while (!over.signal.aborted)
        try {
          await once(random);
        } catch (error) {
          failures.push(error);
          over.abort();
        }
    };
    const build = async (random: SeededRandom): Promise<void> => {
      const chosen = await chooseBuild(ground, bases, volume, random);
      const ended = await commands.run('build', chosen, { probability: 0.35 }, random);
      if (ended !== undefined) await chosen.check();
      await chosen.clean();
    };
    const often = { probability: 0.5 };
    await Promise.all([
      act(build),
      act(build),
      act(build),
      act(async (random) => {
        const wanted = [random.below(baseCount), random.below(baseCount)];
        await commands.run('warmer', warm(volume, bases, wanted), often, random);
        await pause(random.below(400), over.signal);
      }),
      act(async (random) => {
        const [name, command] = random.pick(housekeeping(volume, bases, random));
        await commands.run(name, command, often, random);
        await pause(random.below(600), over.signal);
      }),
      act(async (random) => {
        await commands.run('daemon', await daemon(bases), { probability: 1, within: 8000 }, random);
        await pause(random.below(2000), over.signal);
      }),
      act(async (random) => {
        await pause(1000 + random.below(3000), over.signal);
        await bases.move(random.below(baseCount), random);
      }),
    ]);
    clearTimeout(timer);
    assert.deepEqual(failures, []);
  }

  async function daemon(bases: MovingBases): Promise<Command> {
    const config = join(ground.directory, 'warmer.yaml');
    await writeFile(
      config,
      JSON.stringify({
        images: [{ reference: bases.reference(0), refresh: '1s' }, bases.reference(1)],
        onDemand: { allow: [`${ground.registry.host}/base-*`] },
        disk: {
          maxSize: `${allowed}B`,
          interval: '1s',
          highWaterMark: '99%',
          lowWaterMark: '98%',
          minFree: '1%',
        },
      }),
    );
    return {
      program: 'warmer',
      args: ['daemon', '--config', config, '--cache-dir', volume, '--listen', 'off'],
      codes: [0],
    };
  }

  /** Nothing is wrong with what is there. */
  async function requireSound(): Promise<void> {
    const verified = await kiln('warmer', ['verify', '--cache-dir', volume, '-o', 'json'], { compiled });
    assert.equal(verified.code, 0, verified.stdout + verified.stderr);
    const listed = await kiln('warmer', ['ls', '--cache-dir', volume, '-o', 'json'], { compiled });
    for (const image of JSON.parse(listed.stdout) as { reference: string; complete: boolean }[])
      assert.ok(image.complete, image.reference);
  }

  async function requireBound(): Promise<void> {
    const pruned = await kiln('warmer', prune(volume, ['--max-size', `${bound}B`]), { compiled });
    assert.equal(pruned.code, 0, pruned.stderr);
    for (const directory of ['blobs', 'layers'])
      assert.ok(bytesBelow(join(volume, directory)) > 0, `${directory}: more went than had to`);
    const bytes = bytesBelow(join(volume, 'blobs')) + bytesBelow(join(volume, 'layers'));
    assert.ok(bytes <= bound * 1.01, `${bytes} bytes`);
  }

  /** What was left unfinished goes when it is old enough. */
  async function requireClean(): Promise<void> {
    assert.deepEqual(mountsBelow(ground.directory), [volume]);
    const ingest = join(volume, 'ingest');
    await cleanIngest(ingest, Date.now() + 120_000);
    for (const name of await readdir(ingest)) assert.match(name, /^[0-9a-f]{64}\.partial$/);
    await cleanIngest(ingest, Date.now() + 48 * 3600_000);
    assert.deepEqual(await readdir(ingest), []);
  }
});

function warm(volume: string, bases: MovingBases, numbers: readonly number[]): Command {
  const images = numbers.flatMap((number) => ['--image', bases.reference(number)]);
  return { program: 'warmer', args: ['--cache-dir', volume, ...images], codes: [0] };
}

function prune(volume: string, policy: readonly string[]): string[] {
  return ['prune', '--cache-dir', volume, '--force', '--grace-period', '0s', ...policy];
}

/** What people and timers do on a volume beside warming. */
function housekeeping(
  volume: string,
  bases: MovingBases,
  random: SeededRandom,
): (readonly [string, Command])[] {
  const run = (args: readonly string[], more: Partial<Command> = {}): Command => ({
    program: 'warmer',
    args,
    codes: [0],
    ...more,
  });
  const pruning = (...policy: string[]): Command =>
    // The daemon prunes too; and what is in use may be more than a bound.
    run(prune(volume, policy), { codes: [0, 3], errors: /E_VOLUME_LOCKED/ });
  const image = bases.reference(random.below(bases.count));
  const on = ['--cache-dir', volume];
  return [
    ['prune', pruning('--all')],
    ['prune', pruning('--all')],
    ['prune', pruning('--max-size', `${bound}B`)],
    ['prune', pruning('--all', '--unpacked-only')],
    ['prune', pruning(image, '--all')],
    ['verify', run(['verify', ...on, '-o', 'json'])],
    ['verify --repair', run(['verify', ...on, '--repair', '-o', 'json'])],
    ['reindex', run(['reindex', ...on])],
    ['pin', run(['pin', ...on, image], { errors: /E_IMAGE_NOT_WARM/ })],
    ['unpin', run(['unpin', ...on, image], { errors: /E_IMAGE_NOT_WARM/ })],
    ['unpin', run(['unpin', ...on, image], { errors: /E_IMAGE_NOT_WARM/ })],
  ];
}

/** Bytes of the content of the files below a directory. */
function bytesBelow(directory: string): number {
  const sizes = execFileSync('find', [directory, '-type', 'f', '-printf', '%s\\n'], { encoding: 'utf8' });
  return sizes.split('\n').reduce((sum, size) => sum + Number(size), 0);
}
