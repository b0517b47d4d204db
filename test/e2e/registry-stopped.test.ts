import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { unpackLayout } from '../support/check-image.ts';
import { type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { startDaemonProcess } from '../support/daemon-process.ts';
import { busyboxLayer, pushTestImage, randomLayer } from '../support/images.ts';
import {
  basesOf,
  type Ended,
  kiln,
  outputOf,
  stepsThat,
  warningsOf,
  writeFiles,
} from '../support/programs.ts';
import { underReadOnlyMount } from '../support/read-only.ts';

describe('with the registry stopped, on a volume that it can only read', () => {
  let ground: DaemonGround;
  let volume: string;
  let bases: string[];
  before(async () => {
    ground = await openDaemonGround();
    volume = ground.path('volume');
    const busybox = await busyboxLayer(ground.directory);
    bases = [];
    for (const name of ['one', 'two']) {
      const base = `${ground.registry.host}/${name}:1`;
      const layers = [busybox, await randomLayer(ground.directory, name)];
      await pushTestImage(ground.path('push'), base, { layers });
      bases.push(base);
    }
  });
  after(() => ground[Symbol.asyncDispose]());

  /** Two stages on two warm bases. */
  async function build(text: string, ...args: string[]): Promise<Ended> {
    const directory = ground.path('build');
    const [one = '', two = ''] = bases;
    const context = await writeFiles(join(directory, 'context'), {
      Dockerfile: [
        `FROM ${one} AS first`,
        'RUN stat -c %s /one > /size',
        `FROM ${two}`,
        'COPY --from=first /size /size',
        'COPY text /text',
        'RUN cat /size /text > /both && cat /both',
      ].join('\n'),
      text,
    });
    const mounted = join(directory, 'volume');
    await mkdir(mounted);
    return kiln(
      'executor',
      [
        ...['--context', context, '--cache-dir', mounted, '--scratch-dir', join(directory, 'scratch')],
        ...['--cache', '--cache-repo', `oci:${ground.directory}/cache`, '--log-format', 'json', ...args],
      ],
      { under: underReadOnlyMount(volume, mounted) },
    );
  }

  test('a build on warm bases with its cache in an OCI layout succeeds, with the daemon and without', async (t) => {
    const config = ground.path('warmer.yaml');
    await writeFile(config, `images: ${JSON.stringify(bases)}\nonDemand: {allow: ["**"]}\n`);
    await using daemon = await startDaemonProcess(['--config', config, '--cache-dir', volume]);
    for (const base of bases)
      await daemon.line(({ outcome, reference }) => outcome === 'pulled' && reference === base, base);
    const before = await build('first', '--no-push');
    assert.equal(before.code, 0, before.stderr);
    assert.equal(stepsThat('ran', before).length, 4);
    await ground.registry.stop();
    const layout = join(ground.directory, 'image');
    const hit = await timed('hits', () => build('first', '--oci-layout-path', layout));
    assert.deepEqual(stepsThat('ran', hit), []);
    const root = join(unpackLayout(ground.directory, `${layout}:latest`), 'rootfs');
    assert.equal(readFileSync(join(root, 'both'), 'utf8'), '300000\nfirst');
    const missed = await timed('misses', () => build('second', '--no-push'));
    assert.deepEqual(stepsThat('ran', missed), [
      'COPY text /text',
      'RUN cat /size /text > /both && cat /both',
    ]);
    assert.equal(outputOf(missed), '300000\nsecond');
    await daemon.end('SIGKILL');
    const alone = await timed('without the daemon', () => build('third', '--no-push'));
    assert.equal(outputOf(alone), '300000\nthird');

    async function timed(what: string, run: () => Promise<Ended>): Promise<Ended> {
      const begun = performance.now();
      const ended = await run();
      t.diagnostic(`${what}: ${Math.round(performance.now() - begun)} ms`);
      assert.equal(ended.code, 0, ended.stderr);
      assert.deepEqual(
        basesOf(ended).map(({ outcome }) => outcome),
        ['warm', 'warm'],
      );
      assert.equal(warningsOf(ended).filter((text) => text.includes('cannot be asked')).length, 2);
      return ended;
    }
  });
});
