import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { hostPlatform, parseReference } from '../../src/oci/index.ts';
import { openDaemon } from '../support/daemon.ts';
import { asked, type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { openGateway } from '../support/gateway.ts';

const minute = 60_000;

describe('the schedule', () => {
  let ground: DaemonGround;
  before(async () => {
    ground = await openDaemonGround();
  });
  after(() => ground[Symbol.asyncDispose]());

  test('brings what is configured, unpacked, and is ready then', async () => {
    const names = [await ground.push('one:1'), await ground.push('two:1')];
    const volume = ground.path('volume');
    await using daemon = await openDaemon(volume, `images: [${names.join(', ')}]`);
    const { images, pulls } = await daemon.until(({ ready }) => ready, 'readiness');
    assert.deepEqual(
      images.map(({ reference, source, phase, digest }) => [reference, source, phase, digest]),
      names.map((name) => [name, 'configured', 'warm', ground.digest(name)]),
    );
    for (const image of images) {
      assert.ok(image.nextRefreshAt !== undefined && image.nextRefreshAt.getTime() > daemon.clock.now());
      assert.ok((image.size ?? 0) > 300_000);
    }
    assert.deepEqual(
      pulls.map(({ outcome, reason }) => [outcome, reason]),
      [
        ['pulled', 'start'],
        ['pulled', 'start'],
      ],
    );
    for (const name of names) {
      const stored = await daemon.volume.find(parseReference(name), hostPlatform());
      for (const layer of stored?.layers ?? []) assert.ok(await daemon.volume.hasLayer(layer.diffID));
    }
  });

  test('asks for a tag by HEAD at its interval, for a digest never', async () => {
    const tag = await ground.push('tag:1');
    const pinned = await ground.push('digest:1');
    const byDigest = `${pinned.replace(/:1$/, '')}@${ground.digest(pinned)}`;
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: [{reference: "${tag}", refresh: 10m}, "${byDigest}"]`,
    );
    await daemon.until(({ ready }) => ready, 'readiness');
    assert.equal((await daemon.image(byDigest))?.nextRefreshAt, undefined);
    await ground.registry.clearLog();
    for (let round = 1; round <= 3; round++) {
      await daemon.clock.advance(11 * minute);
      await daemon.until(
        () => daemon.events.filter((event) => event.type === 'pull').length === 2 + round,
        'a refresh',
      );
    }
    const log = await ground.registry.accessLog();
    assert.equal(log.length, 3);
    assert.equal(asked(log, 'HEAD', '/tag/manifests/1').length, 3);
    const [, , ...refreshes] = daemon.events.flatMap((event) =>
      event.type === 'pull' ? [event.record] : [],
    );
    assert.deepEqual(
      [...new Set(refreshes.map(({ outcome, reason }) => `${outcome} ${reason}`))],
      ['fresh schedule'],
    );
  });

  test('counts a digest as warm that came to the volume under a tag, and keeps it when the tag moves', async () => {
    const name = await ground.push('same:1');
    const byDigest = `${name.replace(/:1$/, '')}@${ground.digest(name)}`;
    const volume = ground.path('volume');
    {
      await using daemon = await openDaemon(volume, `images: ["${name}"]`);
      await daemon.until(({ ready }) => ready, 'readiness');
    }
    await ground.push('same:1');
    await using daemon = await openDaemon(volume, `images: ["${byDigest}", "${name}"]`);
    const { images } = await daemon.until(
      ({ images: all }) => all.every(({ phase }) => phase === 'warm'),
      'both',
    );
    assert.deepEqual(
      images.map(({ reference, digest }) => [reference, digest]),
      [
        [byDigest, byDigest.replace(/^.*@/, '')],
        [name, ground.digest(name)],
      ],
    );
  });

  test('asks by cron when it is told to', async () => {
    const name = await ground.push('cron:1');
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: [{reference: "${name}", cron: "30 4 * * *"}]`,
    );
    await daemon.until(({ ready }) => ready, 'readiness');
    const next = (await daemon.image(name))?.nextRefreshAt;
    assert.equal(next?.getUTCHours(), 4);
    assert.equal(next?.getUTCMinutes(), 30);
  });

  test('never asks for a tag that is there when it is told so', async () => {
    const name = await ground.push('never:1');
    const volume = ground.path('volume');
    const yaml = `images: [{reference: "${name}", refresh: never}]`;
    {
      await using daemon = await openDaemon(volume, yaml);
      await daemon.until(({ ready }) => ready, 'readiness');
      assert.equal((await daemon.image(name))?.nextRefreshAt, undefined);
    }
    await ground.registry.clearLog();
    await using daemon = await openDaemon(volume, yaml);
    await daemon.event('pull');
    assert.deepEqual(await ground.registry.accessLog(), []);
  });

  test('switches to a tag that has moved in one step, and the old layers stay while they are leased', async () => {
    const name = await ground.push('moving:1');
    const before = ground.digest(name);
    await using daemon = await openDaemon(ground.path('volume'), `images: ["${name}"]`);
    await daemon.until(({ ready }) => ready, 'readiness');
    const old = await daemon.volume.find(parseReference(name), hostPlatform());
    assert.equal(old?.descriptor.digest, before);
    await using lease = await daemon.volume.acquireLayers(old.layers);
    await ground.push('moving:1');
    await daemon.clock.advance(20 * minute);
    await daemon.until(({ images: [image] }) => image?.digest === ground.digest(name), 'the new digest');
    const [image] = (await daemon.status()).images;
    assert.equal(image?.phase, 'warm');
    assert.notEqual(image?.digest, before);
    for (const path of lease?.paths ?? [])
      assert.ok(existsSync(path), 'a build still stands on the old layers');
  });

  test('does not let a bad image stop the others, and tries it again', async () => {
    const bad = `${ground.registry.host}/missing:1`;
    const good = await ground.push('good:1');
    await using daemon = await openDaemon(ground.path('volume'), `images: ["${bad}", "${good}"]`);
    await daemon.until(({ images }) => images.some(({ phase }) => phase === 'warm'), 'the good one');
    await daemon.event('pull', ({ record }) => record.outcome === 'failed');
    const failed = await daemon.image('missing:1');
    assert.equal(failed?.phase, 'failed');
    assert.equal(failed?.failures, 1);
    assert.equal(failed?.lastError?.code, 'E_MANIFEST_NOT_FOUND');
    assert.equal((await daemon.status()).ready, false, 'it is waited for at first');
    await ground.push('missing:1');
    await daemon.clock.advance(minute);
    await daemon.until(({ images }) => images.every(({ phase }) => phase === 'warm'), 'both');
    assert.equal((await daemon.image('missing:1'))?.failures, 0);
  });

  test('is ready without what cannot be had once the first round has lasted long enough', async () => {
    const bad = `${ground.registry.host}/never-there:1`;
    await using daemon = await openDaemon(ground.path('volume'), `images: ["${bad}"]\nfirstRoundTimeout: 5m`);
    await daemon.event('pull');
    assert.equal((await daemon.status()).ready, false);
    await daemon.clock.advance(5 * minute);
    const { ready, checks } = await daemon.status();
    assert.equal(ready, true);
    assert.match(
      checks.find((check) => check.name === 'images')?.detail ?? '',
      /0 of 1 .* no longer waited for/,
    );
  });

  test('brings an image back that somebody removed from the volume', async () => {
    const name = await ground.push('removed:1');
    await using daemon = await openDaemon(ground.path('volume'), `images: ["${name}"]`);
    await daemon.until(({ ready }) => ready, 'readiness');
    const stored = await daemon.volume.find(parseReference(name), hostPlatform());
    await daemon.volume.blobs.delete(stored?.manifest.layers[0]?.digest ?? ('' as never));
    await daemon.clock.advance(11 * minute);
    await daemon.event('pull', ({ record }) => record.outcome === 'pulled' && record.reason === 'schedule');
    assert.notEqual(await daemon.volume.find(parseReference(name), hostPlatform()), undefined);
  });

  test('keeps the bases of Dockerfiles warm, and notices when they change', async () => {
    const [first, second] = [await ground.push('base:1'), await ground.push('base:2')];
    const dockerfile = ground.path('Dockerfile');
    await writeFile(dockerfile, `ARG TAG\nFROM ${ground.registry.host}/base:$TAG\nFROM scratch\n`);
    const yaml = `dockerfiles: [{path: "${dockerfile}", buildArgs: {TAG: "1"}}]`;
    await using daemon = await openDaemon(ground.path('volume'), yaml);
    await daemon.until(({ ready }) => ready, 'readiness');
    assert.deepEqual(
      (await daemon.status()).images.map(({ reference, source }) => [reference, source]),
      [[first, 'dockerfile']],
    );
    await writeFile(dockerfile, `FROM ${second}\n`);
    await daemon.apply(yaml);
    await daemon.until(
      ({ images }) => images.some(({ reference, phase }) => reference === second && phase === 'warm'),
      'the new base',
    );
    assert.equal((await daemon.image('base:1'))?.source, 'unmanaged');
  });

  test('goes on without a Dockerfile that cannot be read, and says so', async () => {
    const name = await ground.push('other:1');
    const missing = ground.path('no-such-Dockerfile');
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: ["${name}"]\ndockerfiles: [{path: "${missing}"}]`,
    );
    const { checks } = await daemon.until(({ ready }) => ready, 'readiness');
    assert.match(checks.find((check) => check.name === 'configuration')?.detail ?? '', /no-such-Dockerfile/);
    assert.ok(daemon.log.some((line) => line.includes(missing)));
  });
});

describe('a new configuration', () => {
  let ground: DaemonGround;
  before(async () => {
    ground = await openDaemonGround();
  });
  after(() => ground[Symbol.asyncDispose]());

  test('starts what is new, leaves alone what goes on, and makes unmanaged what is gone', async () => {
    const [slow, gone, fresh] = [
      await ground.push('slow:1'),
      await ground.push('gone:1'),
      await ground.push('fresh:1'),
    ];
    await using gateway = await openGateway(ground.registry.host);
    gateway.treat = (request) => (request.includes('/slow/blobs/') ? 'hold' : 'pass');
    const through = (name: string): string => name.replace(ground.registry.host, gateway.host);
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: ["${through(slow)}", "${through(gone)}"]`,
    );
    await daemon.until(({ images }) => images.some(({ phase }) => phase === 'warm'), 'the quick one');
    const manifests = (): number =>
      gateway.requests.filter((line) => line.includes('/slow/manifests/')).length;
    const askedBefore = manifests();
    await daemon.apply(`images: ["${through(slow)}", "${through(fresh)}"]\nrefresh: 1h`);
    await daemon.event(
      'pull',
      ({ record }) => record.reference.endsWith('fresh:1') && record.reason === 'change',
    );
    assert.equal((await daemon.image('gone:1'))?.source, 'unmanaged');
    assert.equal((await daemon.image('gone:1'))?.phase, 'warm', 'it stays on the volume');
    assert.equal((await daemon.image('slow:1'))?.phase, 'checking');
    assert.equal(manifests(), askedBefore, 'what was going on was not begun again');
  });

  test('with another interval counts from the last refresh', async () => {
    const name = await ground.push('interval:1');
    await using daemon = await openDaemon(ground.path('volume'), `images: ["${name}"]\nrefresh: 1h`);
    await daemon.until(({ ready }) => ready, 'readiness');
    const start = daemon.clock.now();
    await daemon.clock.advance(5 * minute);
    await daemon.apply(`images: ["${name}"]\nrefresh: 10m`);
    const next = (await daemon.image(name))?.nextRefreshAt?.getTime() ?? 0;
    assert.ok(Math.abs(next - (start + 10 * minute)) < 5000, `${next - start}`);
  });

  test('that is not valid changes nothing and is told of once', async () => {
    const name = await ground.push('valid:1');
    await using daemon = await openDaemon(ground.path('volume'), `images: ["${name}"]`);
    await daemon.until(({ ready }) => ready, 'readiness');
    const before = (await daemon.status()).configuration;
    for (let time = 0; time < 2; time++) await daemon.warming.reject(new Error('line 3 is wrong'));
    const { configuration, ready, images } = await daemon.status();
    assert.equal(configuration.rejected?.message, 'line 3 is wrong');
    assert.equal(configuration.digest, before.digest);
    assert.equal(ready, true);
    assert.equal(images.length, 1);
    assert.deepEqual(
      daemon.events.flatMap((event) => (event.type === 'reload' ? [event.accepted] : [])),
      [false],
    );
    await daemon.apply(`images: ["${name}"]\n# mended`);
    assert.equal((await daemon.status()).configuration.rejected, undefined);
  });
});

describe('layers', () => {
  test('are fetched a bounded number at a time, whatever images they belong to', async () => {
    await using ground = await openDaemonGround();
    await using gateway = await openGateway(ground.registry.host);
    const names = await Promise.all(Array.from({ length: 6 }, (_, number) => ground.push(`many${number}:1`)));
    const held: string[] = [];
    let open = false as boolean;
    gateway.treat = (request) => {
      if (open || !request.includes('/blobs/')) return 'pass';
      // Configurations are read before: only layers are held.
      if (
        gateway.requests.filter(
          (line) => line.split('/')[2] === request.split('/')[2] && line.includes('/blobs/'),
        ).length < 2
      )
        return 'pass';
      held.push(request);
      return 'hold';
    };
    const images = names.map((name) => `"${name.replace(ground.registry.host, gateway.host)}"`).join(', ');
    await using daemon = await openDaemon(
      join(ground.directory, 'volume'),
      `images: [${images}]\nconcurrency: {images: 6, layers: 2}`,
    );
    await daemon.until(
      ({ images: all }) => all.filter(({ phase }) => phase === 'pulling').length === 6,
      'all pulls',
    );
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(held.length, 2);
    open = true;
  });
});
