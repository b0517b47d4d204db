import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { compilePrograms } from '../support/compiled.ts';
import { asked, type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { startDaemonProcess } from '../support/daemon-process.ts';
import { busyboxLayer, pushTestImage, randomLayer } from '../support/images.ts';
import {
  basesOf,
  type Ended,
  kiln,
  mountsBelow,
  outputOf,
  warningsOf,
  writeFiles,
} from '../support/programs.ts';
import { underReadOnlyMount } from '../support/read-only.ts';

const builds = 50;
const layerSizes = [80_000_000, 60_000_000, 40_000_000, 20_000_000];

describe('fifty builds at once on a base that nobody has yet', () => {
  let ground: DaemonGround;
  let compiled: string;
  let layers: string[];
  before(async () => {
    ground = await openDaemonGround();
    compiled = await compilePrograms(ground.path('programs'));
    layers = [await busyboxLayer(ground.directory)];
    for (const [number, size] of layerSizes.entries())
      layers.push(await randomLayer(ground.directory, `random-${number}`, size));
  });
  after(() => ground[Symbol.asyncDispose]());

  test('each from a mount namespace of its own, have it fetched once by the warmer and all succeed', async (t) => {
    const base = `${ground.registry.host}/cold:1`;
    await pushTestImage(ground.path('push'), base, { layers });
    const volume = ground.path('volume');
    const config = ground.path('warmer.yaml');
    await writeFile(config, `onDemand: {allow: ["${ground.registry.host}/cold:*"]}\n`);
    await using daemon = await startDaemonProcess(['--config', config, '--cache-dir', volume], { compiled });
    await daemon.line(({ message }) => message.startsWith('keeping'), 'the start');
    await ground.registry.clearLog();
    const begun = performance.now();
    const all = await Promise.all(Array.from({ length: builds }, (_, number) => build(volume, base, number)));
    t.diagnostic(`${builds} builds took ${Math.round(performance.now() - begun)} ms`);
    const manifest = await manifestOf('cold', '1');
    for (const [number, ended] of all.entries()) {
      assert.equal(ended.code, 0, ended.stderr);
      assert.deepEqual(warningsOf(ended), [], `build ${number}`);
      assert.deepEqual(
        basesOf(ended).map(({ outcome }) => outcome),
        ['ensured'],
      );
      // What the step saw of the base, and of its own context.
      const seen = layerSizes.map((size, layer) => `${size} /random-${layer}`);
      assert.deepEqual(outputOf(ended).trim().split('\n'), [...seen, `build ${number}`]);
      const image = await manifestOf(`built-${number}`, '1');
      assert.deepEqual(image.layers.slice(0, layers.length), manifest.layers);
      assert.equal(image.layers.length, layers.length + 2);
    }
    const fetched = asked(await ground.registry.accessLog(), 'GET', '/v2/cold/blobs/');
    assert.equal(fetched.length, layers.length + 1, `layers and configuration, each once: ${fetched.join()}`);
    assert.equal(new Set(fetched).size, fetched.length);
    const ended = await daemon.end('SIGTERM');
    assert.equal(ended.code, 0, ended.stderr);
    assert.deepEqual(mountsBelow(ground.directory), []);
  });

  async function build(volume: string, base: string, number: number): Promise<Ended> {
    const directory = ground.path('build');
    const context = await writeFiles(join(directory, 'context'), {
      Dockerfile: [
        `FROM ${base}`,
        'COPY own /own',
        'RUN stat -c "%s %n" /random-* && cat /own > /copy && cat /copy',
        `LABEL number=${number}`,
      ].join('\n'),
      own: `build ${number}\n`,
    });
    const mounted = join(directory, 'volume');
    await mkdir(mounted);
    return kiln(
      'executor',
      [
        ...['--context', context, '--cache-dir', mounted, '--scratch-dir', join(directory, 'scratch')],
        ...['--destination', `${ground.registry.host}/built-${number}:1`, '--log-format', 'json'],
      ],
      { under: underReadOnlyMount(volume, mounted), compiled },
    );
  }

  async function manifestOf(repository: string, tag: string): Promise<{ layers: { digest: string }[] }> {
    const answer = await fetch(`http://${ground.registry.host}/v2/${repository}/manifests/${tag}`, {
      headers: { accept: 'application/vnd.oci.image.manifest.v1+json' },
    });
    assert.equal(answer.status, 200);
    const { layers } = (await answer.json()) as { layers: { digest: string }[] };
    return { layers };
  }
});
