import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openDaemon, type TestDaemon } from '../support/daemon.ts';
import { asked, type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { type Gateway, openGateway } from '../support/gateway.ts';

const minute = 60_000;

function outcomes(daemon: TestDaemon): string[] {
  return daemon.events.flatMap((event) => (event.type === 'pull' ? [event.record.outcome] : []));
}

describe('when a registry fails', () => {
  let ground: DaemonGround;
  let gateway: Gateway;
  before(async () => {
    ground = await openDaemonGround();
    gateway = await openGateway(ground.registry.host);
  });
  after(async () => {
    await gateway[Symbol.asyncDispose]();
    await ground[Symbol.asyncDispose]();
  });
  beforeEach(() => {
    gateway.treat = () => 'pass';
    gateway.requests.length = 0;
  });
  /** Pushes images, and gives their names as the gateway has them. */
  const push = (...names: readonly string[]): Promise<string[]> =>
    Promise.all(
      names.map(async (name) => (await ground.push(name)).replace(ground.registry.host, gateway.host)),
    );
  const list = (names: readonly string[]): string =>
    `images: [${names.map((name) => `"${name}"`).join(', ')}]`;

  test('a warm volume is ready at once although it is stopped, and is refreshed when it is back', async () => {
    const name = await ground.push('down:1');
    const volume = ground.path('volume');
    {
      await using daemon = await openDaemon(volume, list([name]));
      await daemon.until(({ ready }) => ready, 'readiness');
    }
    await ground.registry.stop();
    await using daemon = await openDaemon(volume, list([name]));
    assert.equal((await daemon.status()).ready, true, 'nothing had to be asked for that');
    await daemon.event('pull', ({ record }) => record.outcome === 'failed');
    const image = await daemon.image(name);
    assert.equal(image?.phase, 'warm', 'what is there is not the worse for it');
    assert.equal(image.failures, 1);
    assert.equal(image.lastError?.code, 'E_REGISTRY_UNAVAILABLE');
    assert.equal((await daemon.status()).ready, true);
    await ground.registry.restart();
    await daemon.clock.advance(minute);
    await daemon.event('pull', ({ record }) => record.outcome === 'fresh');
    assert.equal((await daemon.image(name))?.failures, 0);
  });

  test('all its images leave it alone, longer each time, and one finds out whether it is back', async () => {
    const names = await push('away1:1', 'away2:1', 'away3:1', 'away4:1');
    gateway.treat = () => 'cut';
    await using daemon = await openDaemon(ground.path('volume'), list(names));
    await daemon.until(
      ({ images }) => images.every(({ nextRefreshAt }) => nextRefreshAt !== undefined),
      'failures',
    );
    await daemon.event('pull');
    const closedUntil = Math.max(
      ...(await daemon.status()).images.map(({ nextRefreshAt }) => nextRefreshAt?.getTime() ?? 0),
    );
    const pause = closedUntil - daemon.clock.now();
    assert.ok(pause >= 2500 && pause <= 7500, `${pause}`);
    gateway.requests.splice(0);
    await daemon.clock.advance(pause - 100);
    await sleep(50);
    assert.equal(gateway.requests.length, 0, 'nobody asks before that');
    await daemon.clock.advance(200);
    await daemon.until(() => gateway.requests.length > 0, 'the probe');
    await daemon.until(
      ({ images }) => images.every(({ nextRefreshAt }) => nextRefreshAt !== undefined),
      'its failure',
    );
    const askedFor = new Set(gateway.requests.map((line) => line.split('/')[2]));
    assert.equal(askedFor.size, 1, 'one image asks for all');
    const next = (await daemon.status()).images.map(({ nextRefreshAt }) => nextRefreshAt?.getTime() ?? 0);
    assert.ok(Math.max(...next) - daemon.clock.now() > pause * 1.2, 'the second pause is longer');
    gateway.treat = () => 'pass';
    for (let round = 0; round < 40 && !(await daemon.status()).ready; round++) {
      await daemon.clock.advance(2000);
      await sleep(100);
    }
    assert.equal((await daemon.status()).ready, true);
  });

  test('images of other registries go on', async () => {
    const [away] = await push('elsewhere:1');
    const here = await ground.push('near:1');
    gateway.treat = () => ({ status: 503 });
    await using daemon = await openDaemon(ground.path('volume'), list([away ?? '', here]));
    await daemon.event('pull', ({ record }) => record.outcome === 'pulled');
    assert.equal((await daemon.image('near:1'))?.phase, 'warm');
    assert.equal((await daemon.image('elsewhere:1'))?.phase, 'failed');
  });

  test('a limit with Retry-After is obeyed by all its images', async () => {
    const names = await push('limited1:1', 'limited2:1', 'limited3:1');
    gateway.treat = () => ({ status: 429, headers: { 'retry-after': '120' } });
    await using daemon = await openDaemon(ground.path('volume'), list(names));
    await daemon.event('pull', ({ record }) => record.outcome === 'rate_limited');
    await daemon.until(
      ({ images }) => images.every(({ nextRefreshAt }) => nextRefreshAt !== undefined),
      'pauses',
    );
    assert.ok(gateway.requests.length <= names.length, 'none asked twice');
    assert.ok(
      gateway.requests.every((line) => line.startsWith('HEAD ')),
      gateway.requests.join('\n'),
    );
    gateway.requests.length = 0;
    await daemon.clock.advance(119_000);
    await sleep(50);
    assert.equal(gateway.requests.length, 0);
    gateway.treat = () => 'pass';
    for (let round = 0; round < 40 && !(await daemon.status()).ready; round++) {
      await daemon.clock.advance(2000);
      await sleep(100);
    }
    assert.equal((await daemon.status()).ready, true);
    assert.equal(outcomes(daemon).filter((outcome) => outcome === 'pulled').length, 3);
  });

  test('what had arrived of a pull is not fetched again', async () => {
    const [name = ''] = await push('resumed:1');
    let cut = 0;
    gateway.treat = (line) => (line.includes('/blobs/') && cut++ === 1 ? 'cut' : 'pass');
    await using daemon = await openDaemon(ground.path('volume'), list([name]));
    for (let round = 0; round < 20 && !(await daemon.status()).ready; round++) {
      await daemon.clock.advance(5000);
      await sleep(50);
    }
    assert.equal((await daemon.status()).ready, true);
    assert.equal(
      asked(await ground.registry.accessLog(), 'GET', '/resumed/blobs/').length,
      2,
      'configuration and layer',
    );
  });

  test('a tag that moved to what cannot be had has failed, and the old image still serves', async () => {
    const [name = ''] = await push('half:1');
    await using daemon = await openDaemon(ground.path('volume'), list([name]));
    await daemon.until(({ ready }) => ready, 'readiness');
    const old = (await daemon.image(name))?.digest;
    await push('half:1');
    gateway.treat = (line) => (line.includes('/blobs/') ? { status: 404 } : 'pass');
    await daemon.clock.advance(20 * minute);
    await daemon.event('pull', ({ record }) => record.outcome === 'failed');
    const image = await daemon.image(name);
    assert.equal(image?.digest, old);
    assert.equal((await daemon.status()).ready, true);
    gateway.treat = () => 'pass';
    await daemon.clock.advance(minute);
    await daemon.until(({ images: [now] }) => now?.digest !== old && now?.phase === 'warm', 'the new image');
  });
});
