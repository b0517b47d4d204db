import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { readWithOtherTools } from '../support/check-image.ts';
import { debianTar } from '../support/debian.ts';
import { pushTestImage } from '../support/images.ts';
import { kiln, mountsBelow } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

const dockerfile = `FROM %BASE% AS one
RUN for i in 1 2 3 4 5 6; do echo $i > /file$i; sleep 0.05; done
COPY payload /payload
FROM %BASE% AS two
RUN echo two > /two && sleep 0.2
FROM %BASE%
COPY --from=one /payload /payload
COPY --from=two /two /two
RUN cat /two > /three
`;

describe('a build that is ended', () => {
  let workshop: Workshop;
  let debian: string;
  before(async () => {
    workshop = await openWorkshop();
    debian = `${workshop.registry.host}/debian:bookworm`;
    await pushTestImage(workshop.directory, debian, { layers: [await debianTar()] });
  });
  after(() => workshop[Symbol.asyncDispose]());

  test('by kill -9 at ten moments leaves a volume on which the next build and warmer ls are right', async (t) => {
    const context = await workshop.context({ Dockerfile: dockerfile.replaceAll('%BASE%', debian) });
    const volume = join(workshop.directory, 'killed-volume');
    const moments = [60, 250, 400, 600, 900, 1300, 1700, 2100, 2600, 3200].map(
      (moment) => moment + Math.floor(Math.random() * 150),
    );
    for (const [round, moment] of moments.entries()) {
      t.diagnostic(`killed after ${moment} ms`);
      await writeFile(join(context, 'payload'), `round ${round}`);
      const name = workshop.unique('killed');
      const image = `${workshop.registry.host}/${name}:1`;
      const args = ['--cache', '--destination', image, '--cache-dir', volume];
      await workshop.build(context, args, {
        onStart: (child) => void sleep(moment).then(() => child.kill('SIGKILL')),
      });
      const listed = await kiln('warmer', ['ls', '--cache-dir', volume, '-o', 'json']);
      if (listed.code !== 0) assert.match(listed.stderr, /E_VOLUME_NOT_FOUND/);
      else
        for (const entry of JSON.parse(listed.stdout) as { complete: boolean; reference: string }[])
          assert.deepEqual([entry.reference, entry.complete], [debian, true]);
      const rebuilt = await workshop.build(context, args);
      assert.equal(rebuilt.code, 0, rebuilt.stderr);
      const contents = readWithOtherTools(workshop.directory, image, ['payload', 'three']);
      assert.deepEqual(contents, [`round ${round}`, 'two\n']);
      // Every second time the next round starts on an empty volume, so that pulling and unpacking is interrupted too.
      if (round % 2 === 1) execFileSync('rm', ['-rf', volume]);
    }
    assert.deepEqual(mountsBelow(workshop.directory), []);
    const left = await workshop.build(context, ['--no-push', '--cache-dir', volume]);
    assert.equal(left.code, 0, left.stderr);
    assert.deepEqual(await unfinished(volume), []);
  });

  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)
    test(`by ${signal} says so, and leaves no process, mount or file`, async () => {
      const marker = workshop.unique('sleeper');
      const context = await workshop.context({
        Dockerfile: `FROM %BASE%\nRUN echo ready; sh -c 'sleep 300; echo ${marker}' & sleep 300\n`,
      });
      const ended = await workshop.build(context, ['--no-push'], {
        onStart: (child) => {
          child.stderr?.on('data', (text: string) => {
            if (text.includes('"output"')) child.kill(signal);
          });
        },
      });
      assert.equal(ended.code, code, ended.stderr);
      assert.deepEqual(processesNaming(marker), []);
      assert.deepEqual(mountsBelow(workshop.directory), []);
      assert.deepEqual(await unfinished(workshop.volume), []);
    });

  test('by kill -9 takes the processes of its steps with it', async () => {
    const marker = workshop.unique('orphan');
    const context = await workshop.context({
      Dockerfile: `FROM %BASE%\nRUN echo ready; sh -c 'sleep 300; echo ${marker}'\n`,
    });
    await workshop.build(context, ['--no-push'], {
      onStart: (child) => {
        child.stderr?.on('data', (text: string) => {
          if (text.includes('"output"')) child.kill('SIGKILL');
        });
      },
    });
    for (let attempt = 0; attempt < 100 && processesNaming(marker).length > 0; attempt++) await sleep(50);
    assert.deepEqual(processesNaming(marker), []);
  });
});

async function unfinished(volume: string): Promise<string[]> {
  return (await readdir(join(volume, 'ingest'))).filter((name) => !name.endsWith('.lock'));
}

/** Running processes whose command line has the text. */
function processesNaming(text: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^[0-9]+$/.test(pid) || pid === String(process.pid)) return false;
    try {
      readlinkSync(`/proc/${pid}/exe`);
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(text);
    } catch {
      return false; // it has ended, or is a thread of the kernel
    }
  });
}
