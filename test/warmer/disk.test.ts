import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, statfsSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostPlatform, parseReference } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { KilnError } from '../../src/support/index.ts';
import { Volume } from '../../src/volume/index.ts';
import type { WarmingStatus } from '../../warmer/daemon/types.ts';
import { openDaemon } from '../support/daemon.ts';
import { type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';

const megabyte = 1_000_000;
const minute = 60_000;
const skip = process.getuid?.() === 0 ? false : 'only root can mount a small file system';

describe('on a small disk', { skip }, () => {
  let ground: DaemonGround;
  const mounts: string[] = [];
  before(async () => {
    ground = await openDaemonGround();
  });
  after(async () => {
    for (const mount of mounts) execFileSync('umount', ['--lazy', mount]);
    await ground[Symbol.asyncDispose]();
  });

  /** A volume on a file system of its own, of so many megabytes. */
  function disk(megabytes: number): string {
    const directory = ground.path('disk');
    mkdirSync(directory);
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${megabytes * megabyte}`, 'tmpfs', directory]);
    mounts.push(directory);
    return directory;
  }

  /** Brings images onto a volume as `warmer once` does. */
  async function warmOnce(directory: string, ...names: readonly string[]): Promise<void> {
    await using client = new RegistryClient();
    await using volume = await Volume.open(directory, { access: 'read-write', durable: false });
    for (const name of names) {
      await volume.pull(client, parseReference(name), hostPlatform());
      await sleep(20); // the older one is pruned first
    }
  }

  const references = ({ images }: WarmingStatus): string[] =>
    images
      .filter(({ digest }) => digest !== undefined)
      .map(({ reference }) => reference.replace(/^.*\//, '').replace(/:.*$/, ''))
      .sort();
  const noBounds = 'disk: {minFree: 1%, highWaterMark: 100%, lowWaterMark: 99%}';

  test('what does not fit is not begun, and the rest goes on', async () => {
    const [large, small] = [await ground.push('large:1', 15 * megabyte), await ground.push('small:1')];
    const directory = disk(30);
    await using daemon = await openDaemon(directory, `images: ["${large}", "${small}"]\n${noBounds}`);
    await daemon.event('pull', ({ record }) => record.outcome === 'skipped_disk');
    await daemon.event('pull', ({ record }) => record.outcome === 'pulled');
    const image = await daemon.image('large:1');
    assert.equal(image?.phase, 'failed');
    assert.equal(image.lastError?.code, 'E_NO_SPACE');
    assert.match(image.lastError?.message ?? '', /disk\.minFree/);
    const { disk: space } = await daemon.status();
    assert.ok(space.used < 3 * megabyte, 'nothing of it was written');
    assert.deepEqual(references(await daemon.status()), ['small']);
  });

  test('images that nobody configured make room, those unused for longest first', async () => {
    const names = await Promise.all(
      ['old', 'newer', 'wanted'].map((name) => ground.push(`${name}:1`, 4 * megabyte)),
    );
    const directory = disk(25);
    await warmOnce(directory, names[0] ?? '', names[1] ?? '');
    await using daemon = await openDaemon(directory, `images: ["${names[2] ?? ''}"]\n${noBounds}`);
    await daemon.until(({ ready }) => ready, 'readiness');
    assert.deepEqual(references(await daemon.status()), ['newer', 'wanted']);
    const pruned = await daemon.event('prune');
    assert.ok(pruned.reclaimedBytes >= 8 * megabyte, `${pruned.reclaimedBytes}`);
  });

  test('what is configured is not given up for what a build asks for, and nothing is thrown away in vain', async () => {
    const configured = await ground.push('configured:1', 4 * megabyte);
    const lying = await ground.push('lying:1', 2 * megabyte);
    const asked = await ground.push('asked:1', 8 * megabyte);
    const directory = disk(30);
    await warmOnce(directory, lying);
    await using daemon = await openDaemon(
      directory,
      `images: ["${configured}"]\nonDemand: {allow: ["**"]}\n${noBounds}`,
    );
    await daemon.until(({ ready }) => ready, 'readiness');
    await assert.rejects(
      daemon.warming.ensure(
        parseReference(asked),
        hostPlatform(),
        () => undefined,
        new AbortController().signal,
      ),
      (error) => error instanceof KilnError && error.code === 'E_NO_SPACE',
    );
    assert.deepEqual(references(await daemon.status()), ['configured', 'lying']);
  });

  test('what a build stands on stays', async () => {
    const [used, wanted] = [
      await ground.push('used:1', 4 * megabyte),
      await ground.push('pushes:1', 6 * megabyte),
    ];
    const directory = disk(23);
    await warmOnce(directory, used);
    await using builds = await Volume.open(directory, { access: 'read-only' });
    const stored = await builds.find(parseReference(used), hostPlatform());
    const lease = await builds.acquireLayers(stored?.layers ?? []);
    await using daemon = await openDaemon(directory, `images: ["${wanted}"]\n${noBounds}`);
    await daemon.event('pull', ({ record }) => record.outcome === 'skipped_disk');
    assert.deepEqual(references(await daemon.status()), ['used']);
    await lease?.[Symbol.asyncDispose]();
    await daemon.clock.advance(minute);
    await daemon.until(({ ready }) => ready, 'the image, after the build has ended');
    assert.deepEqual(references(await daemon.status()), ['pushes']);
  });

  test('pulls at the same time are not given the same space', async () => {
    const names = await Promise.all(['p1', 'p2', 'p3'].map((name) => ground.push(`${name}:1`, 4 * megabyte)));
    const directory = disk(30);
    await using daemon = await openDaemon(
      directory,
      `images: [${names.map((name) => `"${name}"`).join(', ')}]\n${noBounds}`,
    );
    await daemon.until(
      () => daemon.events.filter((event) => event.type === 'pull').length === 3,
      'three outcomes',
    );
    const outcomes = daemon.events.flatMap((event) => (event.type === 'pull' ? [event.record.outcome] : []));
    assert.deepEqual(outcomes.sort(), ['pulled', 'pulled', 'skipped_disk'], 'none ran into a full disk');
    assert.ok(statfsSync(directory).bavail > 0);
  });

  test('above the high water mark images go until it is below the low one', async () => {
    const names = await Promise.all(
      ['w1', 'w2', 'w3', 'w4'].map((name) => ground.push(`${name}:1`, 4 * megabyte)),
    );
    const directory = disk(50);
    await warmOnce(directory, ...names);
    await using daemon = await openDaemon(
      directory,
      'disk: {minFree: 1%, highWaterMark: 60%, lowWaterMark: 40%, interval: 5m}',
    );
    assert.deepEqual(references(await daemon.status()), ['w1', 'w2', 'w3', 'w4']);
    await daemon.clock.advance(5 * minute);
    await daemon.event('prune');
    const status = await daemon.status();
    assert.deepEqual(references(status), ['w3', 'w4']);
    const { free, total, high, low } = status.disk;
    assert.ok(total - free <= (low ?? 0) && (low ?? 0) < (high ?? 0));
  });

  test('the volume keeps to its own size', async () => {
    const names = await Promise.all(['s1', 's2', 's3'].map((name) => ground.push(`${name}:1`, 4 * megabyte)));
    const directory = disk(100);
    await warmOnce(directory, names[0] ?? '', names[1] ?? '');
    await using daemon = await openDaemon(directory, `images: ["${names[2] ?? ''}"]\ndisk: {maxSize: 23MB}`);
    await daemon.until(({ ready }) => ready, 'readiness');
    const status = await daemon.status();
    assert.ok(status.disk.used <= 23 * megabyte, `${status.disk.used}`);
    assert.deepEqual(references(status), ['s2', 's3']);
  });

  test('what builds asked for, and what is unmanaged, goes when unused for long enough', async () => {
    const [asked, lying, kept] = [
      await ground.push('od:1'),
      await ground.push('um:1'),
      await ground.push('kept:1'),
    ];
    const directory = disk(50);
    await warmOnce(directory, lying);
    const yaml = (keep: string, unused: string): string =>
      `images: ["${kept}"]\nonDemand: {allow: ["**"]}\ndisk: {keepOnDemand: ${keep}, unusedFor: ${unused}, interval: 5m}`;
    await using daemon = await openDaemon(directory, yaml('1h', '1h'));
    await daemon.until(({ ready }) => ready, 'readiness');
    const signal = new AbortController().signal;
    const { lease } = await daemon.warming.ensure(
      parseReference(asked),
      hostPlatform(),
      () => undefined,
      signal,
    );
    await lease[Symbol.asyncDispose]();
    await daemon.clock.advance(6 * minute);
    await daemon.until((status) => references(status).length === 3, 'all three');
    await sleep(1100);
    await daemon.apply(yaml('1s', '1h'));
    await daemon.clock.advance(6 * minute);
    await daemon.until(
      (status) => references(status).join() === 'kept,um',
      'what the build asked for is gone',
    );
    await daemon.apply(yaml('1s', '1s'));
    await daemon.clock.advance(6 * minute);
    await daemon.until((status) => references(status).join() === 'kept', 'what nobody asked for is gone');
  });
});

describe('a pin', () => {
  test('of the configuration is set and taken back, one of a person stays', async () => {
    await using ground = await openDaemonGround();
    const [ours, theirs] = [await ground.push('ours:1'), await ground.push('theirs:1')];
    const volume = ground.path('volume');
    const pinned = ({ images }: WarmingStatus): string =>
      images
        .filter((image) => image.pinned)
        .map(({ reference }) => reference.replace(/^.*\//, ''))
        .sort()
        .join();
    {
      await using daemon = await openDaemon(
        volume,
        `images: [{reference: "${ours}", pin: true}, "${theirs}"]`,
      );
      await daemon.until((status) => status.ready && pinned(status) === 'ours:1', 'the pin');
      await daemon.volume.setPinned(parseReference(theirs), hostPlatform(), true);
    }
    await using daemon = await openDaemon(volume, `images: ["${ours}", "${theirs}"]`);
    await daemon.until(
      (status) => pinned(status) === 'theirs:1',
      'the pin to be taken back, across a restart',
    );
  });
});
