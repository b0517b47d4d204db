import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pushTestImage, randomLayer } from '../support/images.ts';
import { kiln } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

describe('the warmer', () => {
  let workshop: Workshop;
  before(async () => {
    workshop = await openWorkshop();
  });
  after(() => workshop[Symbol.asyncDispose]());

  const image = (name: string): string => `${workshop.registry.host}/${name}`;
  const newVolume = (): string => join(workshop.directory, workshop.unique('volume'));

  async function push(name: string, layers: readonly string[]): Promise<string> {
    await pushTestImage(join(workshop.directory, workshop.unique('push')), image(name), { layers });
    return image(name);
  }

  const layer = (text: string): Promise<string> => randomLayer(workshop.directory, text);

  test('fetches a layer that several images share once', async () => {
    const shared = await layer('shared');
    const names = await Promise.all(
      ['a', 'b', 'c'].map(async (name) => push(`${name}:1`, [shared, await layer(name)])),
    );
    await workshop.registry.clearLog();
    const volume = newVolume();
    const ended = await kiln('warmer', [
      '--cache-dir',
      volume,
      ...names.flatMap((name) => ['--image', name]),
    ]);
    assert.equal(ended.code, 0, ended.stderr);
    const blobs = (await workshop.registry.accessLog())
      .filter((line) => line.startsWith('GET') && line.includes('/blobs/'))
      .map((line) => /sha256:([0-9a-f]+)/.exec(line)?.[1]);
    assert.equal(new Set(blobs).size, blobs.length, 'no blob was asked for twice');
    assert.equal(blobs.length, 4 + 3, 'four layers and three configurations');
    assert.equal(readdirSync(join(volume, 'layers')).filter((name) => /^[0-9a-f]{64}$/.test(name)).length, 4);
    const usage = await kiln('warmer', ['du', '--cache-dir', volume, '-o', 'json']);
    const {
      images,
      unshared,
      blobs: stored,
    } = JSON.parse(usage.stdout) as {
      images: number;
      unshared: number;
      blobs: { bytes: number };
    };
    assert.equal(images, 3);
    assert.ok(unshared - stored.bytes >= 2 * 300_000, 'two copies of the shared layer are saved');
  });

  test('finds the images of all stages of a Dockerfile, and takes no stage for an image', async () => {
    const names = await Promise.all(
      ['base', 'tool', 'other'].map(async (name) => push(`${name}:2`, [await layer(name)])),
    );
    const context = await workshop.context({
      Dockerfile: [
        'ARG VERSION=9',
        'ARG REGISTRY=nowhere.invalid',
        'FROM ${REGISTRY}/base:${VERSION} AS build',
        'RUN echo "FROM not/an/image"',
        'FROM build AS test',
        'FROM ${REGISTRY}/other:${VERSION} AS unused',
        'FROM scratch',
        'COPY --from=build / /',
        'COPY --from=0 / /',
        `COPY --from=${image('tool:2')} / /`,
      ].join('\n'),
    });
    const volume = newVolume();
    const ended = await kiln('warmer', [
      ...['--cache-dir', volume, '--dockerfile', join(context, 'Dockerfile'), '-o', 'json'],
      ...['--build-arg', `REGISTRY=${workshop.registry.host}`, '--build-arg', 'VERSION=2'],
    ]);
    assert.equal(ended.code, 0, ended.stderr);
    const results = JSON.parse(ended.stdout) as { reference: string; outcome: string }[];
    assert.deepEqual(results.map(({ reference }) => reference).sort(), names.sort());
    assert.ok(results.every(({ outcome }) => outcome === 'pulled'));
  });

  test('warms what it can when some images fail, and says which', async () => {
    const good = await push('good:1', [await layer('good')]);
    const volume = newVolume();
    const ended = await kiln('warmer', [
      '--cache-dir',
      volume,
      '--image',
      image('missing:1'),
      '--image',
      good,
    ]);
    assert.equal(ended.code, 3);
    assert.match(ended.stdout, /^failed .*missing:1/m);
    assert.match(ended.stdout, /^pulled .*good:1/m);
    assert.match(ended.stderr, /missing:1 does not exist/);
    const only = await kiln('warmer', ['--cache-dir', volume, '--image', image('missing:1')]);
    assert.equal(only.code, 4);
  });

  test('notices a tag that moved, and asks nobody about a digest', async () => {
    const volume = newVolume();
    const name = await push('moving:1', [await layer('first')]);
    const warm = async (reference: string): Promise<string> => {
      const ended = await kiln('warmer', ['--cache-dir', volume, '--image', reference]);
      assert.equal(ended.code, 0, ended.stderr);
      return ended.stdout.split(' ', 1)[0] ?? '';
    };
    assert.equal(await warm(name), 'pulled');
    assert.equal(await warm(name), 'fresh');
    await push('moving:1', [await layer('second')]);
    assert.equal(await warm(name), 'pulled');
    const listed = await kiln('warmer', ['inspect', name, '--cache-dir', volume, '-o', 'json']);
    const [{ digest } = { digest: '' }] = JSON.parse(listed.stdout) as { digest: string }[];
    await workshop.registry.clearLog();
    assert.equal(await warm(`${name.replace(/:1$/, '')}@${digest}`), 'fresh');
    assert.deepEqual(await workshop.registry.accessLog(), []);
  });

  test('asks nobody about a tag that was confirmed within --cache-ttl', async () => {
    const volume = newVolume();
    const name = await push('young:1', [await layer('young')]);
    const args = ['--cache-dir', volume, '--image', name];
    assert.equal((await kiln('warmer', args)).code, 0);
    await workshop.registry.clearLog();
    assert.equal((await kiln('warmer', [...args, '--cache-ttl', '1h'])).code, 0);
    assert.deepEqual(await workshop.registry.accessLog(), []);
    assert.equal((await kiln('warmer', [...args, '--cache-ttl', '1ms'])).code, 0);
    assert.equal((await workshop.registry.accessLog()).length, 1);
  });

  test('ten at once on one volume agree', async () => {
    const volume = newVolume();
    const name = await push('race:1', [await layer('x'), await layer('y')]);
    await workshop.registry.clearLog();
    const all = await Promise.all(
      Array.from({ length: 10 }, () => kiln('warmer', ['--cache-dir', volume, '--image', name])),
    );
    for (const ended of all) assert.equal(ended.code, 0, ended.stderr);
    const layers = (await workshop.registry.accessLog()).filter(
      (line) => line.startsWith('GET') && line.includes('/blobs/'),
    );
    const perBlob = Map.groupBy(layers, (line) => line);
    const config = 10; // each asks for the small documents itself
    assert.ok(
      [...perBlob.values()].filter((lines) => lines.length > 1).length <= 1,
      'layers are fetched once',
    );
    assert.ok(layers.length <= 2 + config);
    const listed = await kiln('warmer', ['ls', '--cache-dir', volume, '-o', 'json']);
    assert.equal((JSON.parse(listed.stdout) as unknown[]).length, 1);
  });

  for (const [what, args, code, says] of [
    ['nothing to warm', [], 2, /--image/],
    ['a name that is no reference', ['--image', 'Not/A:Reference:x'], 2, /Not\/A/],
    ['a Dockerfile that is not there', ['--dockerfile', '/no/such/Dockerfile'], 2, /\/no\/such\/Dockerfile/],
    ['a flag that does not exist', ['--imago', 'x'], 2, /--image/],
  ] as const)
    test(`refuses ${what} with one clear error`, async () => {
      const ended = await kiln('warmer', ['--cache-dir', newVolume(), ...args]);
      assert.equal(ended.code, code);
      assert.match(ended.stderr, says);
      assert.ok(ended.stderr.trim().split('\n').length <= 3, ended.stderr);
    });

  test('says so when there is no volume to list', async () => {
    for (const command of [['ls'], ['du'], ['inspect', 'debian']]) {
      const ended = await kiln('warmer', [...command, '--cache-dir', newVolume()]);
      assert.equal(ended.code, 3);
      assert.match(ended.stderr, /E_VOLUME_NOT_FOUND/);
    }
  });
});
