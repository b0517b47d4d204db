import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFile, chmod, readdir, rm, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { randomInt } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { cleanIngest } from '../../src/volume/ingest.ts';
import { compilePrograms } from '../support/compiled.ts';
import { type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { mountMemory } from '../support/memory.ts';
import { type Ended, kiln } from '../support/programs.ts';
import { SeededRandom } from '../support/random.ts';

const seed = randomInt(1_000_000);
const rounds = 5;

describe(`a volume on which a program was killed at a random moment (seed ${seed})`, () => {
  const random = new SeededRandom(seed);
  let ground: DaemonGround;
  let compiled: string;
  let images: string[];
  let template: string;
  let memory: Disposable;
  before(async () => {
    ground = await openDaemonGround();
    memory = mountMemory(join(ground.directory, 'memory'));
    compiled = await compilePrograms(ground.path('programs'));
    images = await Promise.all(
      Array.from({ length: 8 }, (_, number) => ground.push(`image-${number}:1`, 50_000)),
    );
    template = join(ground.directory, 'memory/template');
    await warmer(
      template,
      [],
      images.flatMap((image) => ['--image', image]),
    );
  });
  after(async () => {
    memory[Symbol.dispose]();
    await ground[Symbol.asyncDispose]();
  });

  /** Runs `warmer COMMAND` on a volume, and wants it to succeed. */
  async function warmer(
    volume: string,
    command: readonly string[],
    args: readonly string[] = [],
  ): Promise<Ended> {
    const ended = await kiln('warmer', [...command, '--cache-dir', volume, ...args], { compiled });
    assert.equal(ended.code, 0, `${command.join(' ')}: ${ended.stderr}${ended.stdout}`);
    return ended;
  }

  async function listed(volume: string): Promise<{ reference: string; complete: boolean }[]> {
    const { stdout } = await warmer(volume, ['ls'], ['-o', 'json']);
    return JSON.parse(stdout) as { reference: string; complete: boolean }[];
  }

  /** How long a program takes that nobody kills, in milliseconds. */
  async function duration(
    command: readonly string[],
    harm: (volume: string) => Promise<void>,
  ): Promise<number> {
    const durations: number[] = [];
    for (let run = 0; run < 2; run += 1) {
      const volume = await copy(harm);
      const begun = performance.now();
      await warmer(volume, command);
      durations.push(performance.now() - begun);
      await rm(volume, { recursive: true });
    }
    return Math.min(...durations);
  }

  async function copy(harm: (volume: string) => Promise<void>): Promise<string> {
    const volume = join(ground.directory, 'memory/volume');
    execFileSync('cp', ['-a', template, volume]);
    await harm(volume);
    return volume;
  }

  /** Kills a program at moments spread over its life. @returns how often it was killed before its end. */
  async function killed(
    command: readonly string[],
    harm: (volume: string) => Promise<void>,
    check: (volume: string) => Promise<void>,
  ): Promise<number> {
    const whole = await duration(command, harm);
    let count = 0;
    for (let round = 0; round < rounds; round += 1) {
      const volume = await copy(harm);
      // Most of a life is the start of Node.
      const moment = whole * (0.3 + (0.7 * (round + random.next())) / rounds);
      const ended = await kiln('warmer', [...command, '--cache-dir', volume], {
        compiled,
        onStart: (child) => void sleep(moment).then(() => child.kill('SIGKILL')),
      });
      if (ended.signal === 'SIGKILL') count += 1;
      else assert.equal(ended.code, 0, ended.stderr);
      await check(volume);
      await cleanIngest(join(volume, 'ingest'), Date.now() + 48 * 3600_000);
      assert.deepEqual(await readdir(join(volume, 'ingest')), []);
      await rm(volume, { recursive: true });
    }
    return count;
  }

  test('has whole images or none after a prune, and the next prune ends it', async (t) => {
    const prune = ['prune', '--all', '--force', '--grace-period', '0s'];
    const count = await killed(
      prune,
      () => Promise.resolve(),
      async (volume) => {
        for (const { reference, complete } of await listed(volume)) assert.ok(complete, reference);
        await warmer(volume, ['verify']);
        await warmer(volume, prune);
        for (const directory of ['blobs/sha256', 'layers'])
          assert.deepEqual(await readdir(join(volume, directory)), []);
      },
    );
    t.diagnostic(`killed ${count} of ${rounds} times`);
    assert.ok(count > 0);
  });

  test('lists all its images after a reindex', async (t) => {
    const count = await killed(
      ['reindex'],
      (volume) => rm(join(volume, 'index.db')),
      async (volume) => {
        assert.equal((await listed(volume)).length, images.length);
        await warmer(volume, ['verify']);
        await warmer(volume, ['reindex']);
        assert.equal((await listed(volume)).length, images.length);
      },
    );
    t.diagnostic(`killed ${count} of ${rounds} times`);
    assert.ok(count > 0);
  });

  test('is repaired by the next repair after one was killed', async (t) => {
    const repair = ['verify', '--repair'];
    const count = await killed(repair, damage, async (volume) => {
      assert.equal((await listed(volume)).length, images.length);
      await warmer(volume, repair);
      await warmer(volume, ['verify']);
      for (const { reference, complete } of await listed(volume)) assert.ok(complete, reference);
    });
    t.diagnostic(`killed ${count} of ${rounds} times`);
    assert.ok(count > 0);
  });

  /** Harms a third of the blobs and of the unpacked layers. */
  async function damage(volume: string): Promise<void> {
    const blobs = join(volume, 'blobs/sha256');
    for (const [number, name] of (await readdir(blobs)).sort().entries()) {
      if (number % 3 !== 0) continue;
      await chmod(join(blobs, name), 0o644);
      await truncate(join(blobs, name), 1);
    }
    const layers = join(volume, 'layers');
    for (const [number, name] of (await readdir(layers)).sort().entries()) {
      if (number % 3 !== 0) continue;
      const [file = ''] = await readdir(join(layers, name, 'fs'));
      await appendFile(join(layers, name, 'fs', file), 'x');
    }
  }

  test('is right while two processes pull and prune the same image again and again', async () => {
    const volume = join(ground.directory, 'memory/contended');
    const [image = ''] = images;
    await warmer(volume, [], ['--image', image]);
    const pulls = Array.from({ length: 5 });
    let over = false;
    const pruning = (async () => {
      while (!over) await warmer(volume, ['prune', image, '--all', '--force', '--grace-period', '0s']);
    })();
    try {
      for (const _pull of pulls) {
        await warmer(volume, [], ['--image', image]);
        for (const { complete } of await listed(volume)) assert.ok(complete);
      }
    } finally {
      over = true;
      await pruning;
    }
    await warmer(volume, [], ['--image', image]);
    await warmer(volume, ['verify']);
    assert.deepEqual(
      (await listed(volume)).map(({ reference, complete }) => [reference, complete]),
      [[image, true]],
    );
  });
});
