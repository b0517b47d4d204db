import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { formatPlatform, hostPlatform } from '../../src/oci/index.ts';
import type { BuildReport } from '../../src/volume/index.ts';
import { openDaemon } from '../support/daemon.ts';
import { type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';

const hour = 3_600_000;
const platform = formatPlatform(hostPlatform());

function report(
  ...bases: readonly (readonly [string, BuildReport['bases'][number]['outcome']])[]
): BuildReport {
  return {
    build: randomBytes(4).toString('hex'),
    succeeded: true,
    seconds: 3,
    bases: bases.map(([reference, outcome]) => ({ reference, platform, outcome })),
    steps: { cached: 1, ran: 2 },
  };
}

describe('an image that builds keep missing', () => {
  let ground: DaemonGround;
  before(async () => {
    ground = await openDaemonGround();
  });
  after(() => ground[Symbol.asyncDispose]());
  const yaml =
    'refresh: 1d\ndisk: {interval: 1h}\nonDemand: {allow: ["**"]}\nadoption: {misses: 3, window: 2h, limit: 2, unusedFor: 2d}';

  test('is adopted after some misses in time, kept warm, and dropped when nobody uses it', async () => {
    const name = await ground.push('missed:1');
    await using daemon = await openDaemon(ground.path('volume'), yaml);
    daemon.warming.report(report([name, 'cold']));
    daemon.warming.report(report([name, 'ensured']));
    assert.deepEqual((await daemon.status()).images, []);
    daemon.warming.report(report([name, 'cold']));
    assert.deepEqual(
      daemon.events.filter(({ type }) => type === 'adopted'),
      [{ type: 'adopted', reference: name, platform }],
    );
    await daemon.until(
      ({ images: [image] }) => image?.phase === 'warm' && image.source === 'adopted',
      'warmth',
    );
    await daemon.clock.advance(47 * hour);
    assert.equal((await daemon.image(name))?.source, 'adopted');
    {
      using _build = daemon.warming.announce({
        build: 'x',
        label: 'app',
        images: [{ reference: name, platform }],
      });
      assert.deepEqual((await daemon.image(name))?.usedBy, ['app']);
    }
    await daemon.clock.advance(47 * hour);
    assert.equal((await daemon.image(name))?.source, 'adopted', 'it was used meanwhile');
    await daemon.clock.advance(2 * hour);
    assert.equal((await daemon.event('dropped')).reference, name);
    assert.equal((await daemon.image(name))?.source, 'unmanaged');
  });

  test('too seldom is not adopted', async () => {
    const name = `${ground.registry.host}/seldom:1`;
    await using daemon = await openDaemon(ground.path('volume'), yaml);
    for (let time = 0; time < 6; time++) {
      daemon.warming.report(report([name, 'cold']));
      await daemon.clock.advance(1.5 * hour);
    }
    assert.equal(
      daemon.events.some(({ type }) => type === 'adopted'),
      false,
    );
  });

  test('that is warm, configured or not allowed is not adopted', async () => {
    const configured = await ground.push('configured:1');
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: ["${configured}"]\nonDemand: {allow: ["**"], deny: ["**/denied"]}`,
    );
    for (let time = 0; time < 5; time++)
      daemon.warming.report(
        report(
          [configured, 'cold'],
          [`${ground.registry.host}/warm:1`, 'warm'],
          [`${ground.registry.host}/denied:1`, 'cold'],
          ['not a reference at all', 'cold'],
        ),
      );
    assert.equal(
      daemon.events.some(({ type }) => type === 'adopted'),
      false,
    );
  });

  test('takes the place of one that is no longer used when there are too many', async () => {
    const names = await Promise.all(['a:1', 'b:1', 'c:1', 'd:1'].map((name) => ground.push(`limit/${name}`)));
    await using daemon = await openDaemon(ground.path('volume'), yaml);
    const miss = (name: string | undefined): void => {
      for (let time = 0; time < 3; time++) daemon.warming.report(report([name ?? '', 'cold']));
    };
    const adopted = async (): Promise<string[]> =>
      (await daemon.status()).images
        .filter(({ source }) => source === 'adopted')
        .map(({ reference }) => reference.slice(-3, -2));
    miss(names[0]);
    miss(names[1]);
    miss(names[2]);
    assert.deepEqual(await adopted(), ['a', 'b'], 'the limit holds while the others are used');
    await daemon.clock.advance(3 * hour);
    miss(names[1]);
    miss(names[3]);
    assert.deepEqual((await adopted()).sort(), ['b', 'd']);
    await daemon.apply('adoption: {limit: 2}');
    assert.deepEqual(await adopted(), [], 'what is no longer allowed is dropped');
  });

  test('is remembered across restarts, misses and hit rate too', async () => {
    const [first, second] = [await ground.push('kept:1'), await ground.push('almost:1')];
    const volume = ground.path('volume');
    {
      await using daemon = await openDaemon(volume, yaml);
      for (let time = 0; time < 3; time++) daemon.warming.report(report([first, 'cold']));
      for (let time = 0; time < 2; time++) daemon.warming.report(report([second, 'cold'], [first, 'warm']));
    }
    await using daemon = await openDaemon(volume, yaml);
    assert.equal((await daemon.image('kept:1'))?.source, 'adopted');
    const { hitRate } = await daemon.status();
    assert.deepEqual(
      [
        hitRate.reduce((sum, { hits }) => sum + hits, 0),
        hitRate.reduce((sum, { misses }) => sum + misses, 0),
      ],
      [2, 5],
    );
    daemon.warming.report(report([second, 'cold']));
    assert.equal((await daemon.event('adopted')).reference, second);
  });

  test('is counted by its uses although the builds cannot write the volume', async () => {
    const name = await ground.push('uses:1');
    const volume = ground.path('volume');
    {
      await using daemon = await openDaemon(volume, `images: ["${name}"]`);
      await daemon.until(({ ready }) => ready, 'readiness');
      using _build = daemon.warming.announce({
        build: 'y',
        label: 'app',
        images: [{ reference: name, platform }],
      });
    }
    await using daemon = await openDaemon(volume, '{}');
    const image = await daemon.image(name);
    assert.equal(image?.uses, 1);
    assert.ok(image.lastUsedAt !== undefined);
  });
});
