import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { decodeManifest, hostPlatform, parseReference } from '../../src/oci/index.ts';
import { KilnError } from '../../src/support/index.ts';
import type { Ensured } from '../../warmer/daemon/types.ts';
import { eventually, openDaemon, type TestDaemon } from '../support/daemon.ts';
import { asked, type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { openGateway } from '../support/gateway.ts';

interface Heard {
  readonly progress: (readonly [number, number])[];
  readonly images: string[];
}

async function ensure(
  { warming }: TestDaemon,
  name: string,
  options: { readonly signal?: AbortSignal; readonly heard?: Heard } = {},
): Promise<Ensured> {
  const { signal = new AbortController().signal, heard } = options;
  return warming.ensure(
    parseReference(name),
    hostPlatform(),
    (bytes, total) => heard?.progress.push([bytes, total]),
    signal,
    (image) => heard?.images.push(decodeManifest(image.manifestBytes).layers[0]?.digest ?? ''),
  );
}

function withHeard(heard: Heard | undefined): { readonly heard?: Heard } {
  return heard === undefined ? {} : { heard };
}

/** Ensures an image, gives the lease back, and says how it went. */
async function outcomeOf(daemon: TestDaemon, name: string): Promise<Ensured['outcome']> {
  const { lease, outcome } = await ensure(daemon, name);
  await lease[Symbol.asyncDispose]();
  return outcome;
}

function requests(daemon: TestDaemon): string[] {
  return daemon.events.flatMap((event) => (event.type === 'request' ? [event.result] : []));
}

function code(wanted: string): (error: unknown) => boolean {
  return (error) => error instanceof KilnError && error.code === wanted;
}

describe('an image that a build asks for', () => {
  let ground: DaemonGround;
  before(async () => {
    ground = await openDaemonGround();
  });
  after(() => ground[Symbol.asyncDispose]());
  const allowAll = 'onDemand: {allow: ["**"]}';

  test('is fetched once for all who ask, and held for each', async () => {
    const name = await ground.push('crowd:1', 3_000_000);
    await using daemon = await openDaemon(ground.path('volume'), allowAll);
    await ground.registry.clearLog();
    const all = await Promise.all(Array.from({ length: 40 }, () => ensure(daemon, name)));
    const log = await ground.registry.accessLog();
    assert.equal(asked(log, 'HEAD', '/manifests/').length, 1);
    assert.equal(asked(log, 'GET', '/blobs/').length, 2, 'configuration and layer');
    assert.deepEqual(all.map(({ outcome }) => outcome).sort(), [
      ...Array<string>(39).fill('joined'),
      'pulled',
    ]);
    assert.deepEqual([...new Set(all.map(({ digest }) => digest))], [ground.digest(name)]);
    await Promise.all(all.map(({ lease }) => lease[Symbol.asyncDispose]()));
    assert.deepEqual(requests(daemon).sort(), [...Array<string>(39).fill('joined'), 'pulled']);
    assert.equal((await daemon.image(name))?.source, 'on-demand');
  });

  test('is told of as it arrives: the documents first, then bytes of all', async () => {
    const name = await ground.push('told:1', 5_000_000);
    await using daemon = await openDaemon(ground.path('volume'), allowAll);
    const heard: Heard = { progress: [], images: [] };
    const { lease } = await ensure(daemon, name, { heard });
    await using _lease = lease;
    const stored = await daemon.volume.find(parseReference(name), hostPlatform());
    const size = stored?.manifest.layers[0]?.size ?? 0;
    assert.deepEqual(heard.images, [stored?.manifest.layers[0]?.digest]);
    assert.deepEqual(heard.progress[0], [0, size]);
    assert.deepEqual(heard.progress.at(-1), [size, size]);
    const bytes = heard.progress.map(([done]) => done);
    assert.deepEqual(
      bytes,
      bytes.toSorted((a, b) => a - b),
      'it never goes back',
    );
  });

  test('that is warm is served at once', async () => {
    const name = await ground.push('warm:1');
    await using daemon = await openDaemon(ground.path('volume'), `images: ["${name}"]`);
    await daemon.until(({ ready }) => ready, 'readiness');
    await ground.registry.clearLog();
    assert.equal(await outcomeOf(daemon, name), 'warm');
    assert.equal(await outcomeOf(daemon, `${name.replace(/:1$/, '')}:1`), 'warm');
    assert.deepEqual(await ground.registry.accessLog(), [], 'it was confirmed a moment ago');
    assert.deepEqual(requests(daemon), ['hit', 'hit']);
  });

  test('that has moved since is brought anew', async () => {
    const name = await ground.push('stale:1');
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: [{reference: "${name}", refresh: 1d}]`,
    );
    await daemon.until(({ ready }) => ready, 'readiness');
    await ground.push('stale:1');
    await daemon.clock.advance(60_000);
    const { digest, outcome, lease } = await ensure(daemon, name);
    await using _lease = lease;
    assert.equal(outcome, 'pulled');
    assert.equal(digest, ground.digest(name));
    assert.equal((await daemon.image(name))?.source, 'configured');
  });

  test('that is warm is served although its registry is down', async () => {
    const name = await ground.push('outage:1');
    await using gateway = await openGateway(ground.registry.host);
    const through = name.replace(ground.registry.host, gateway.host);
    await using daemon = await openDaemon(ground.path('volume'), `images: ["${through}"]`);
    await daemon.until(({ ready }) => ready, 'readiness');
    gateway.treat = () => 'cut';
    await daemon.clock.advance(60_000);
    assert.equal(await outcomeOf(daemon, through), 'warm');
    const { length } = gateway.requests;
    assert.equal(await outcomeOf(daemon, through), 'warm');
    assert.equal(gateway.requests.length, length, 'the second build does not wait for it again');
  });

  for (const [what, yaml, name] of [
    ['that nothing allows', '{}', 'any:1'],
    ['that another pattern allows', 'onDemand: {allow: ["other.example/**"]}', 'any:1'],
    ['that is denied', 'onDemand: {allow: ["**"], deny: ["**/secret:*"]}', 'team/secret:1'],
    ['while it is switched off', 'onDemand: {enabled: false, allow: ["**"]}', 'any:1'],
  ] as const)
    test(`${what} is refused, and nobody is asked`, async () => {
      await using daemon = await openDaemon(ground.path('volume'), yaml);
      await ground.registry.clearLog();
      await assert.rejects(ensure(daemon, `${ground.registry.host}/${name}`), code('E_NOT_ALLOWED'));
      assert.deepEqual(await ground.registry.accessLog(), []);
      assert.deepEqual(requests(daemon), ['denied']);
    });

  test('that does not exist is an error to all who asked, and no other', async () => {
    await using daemon = await openDaemon(ground.path('volume'), allowAll);
    const missing = `${ground.registry.host}/missing:1`;
    const all = await Promise.allSettled([ensure(daemon, missing), ensure(daemon, missing)]);
    for (const result of all)
      assert.ok(result.status === 'rejected' && code('E_MANIFEST_NOT_FOUND')(result.reason));
    const name = await ground.push('exists:1');
    assert.equal(await outcomeOf(daemon, name), 'pulled');
  });

  test('goes on for the others when one of them leaves', async () => {
    const name = await ground.push('left:1');
    await using gateway = await openGateway(ground.registry.host);
    // The configuration passes, the layers do not: so it shows when both have joined the pull.
    let blobs = 0;
    gateway.treat = (line) => (line.includes('/blobs/') && blobs++ > 0 ? 'hold' : 'pass');
    const through = name.replace(ground.registry.host, gateway.host);
    await using daemon = await openDaemon(ground.path('volume'), allowAll);
    const leaving = new AbortController();
    const heard: readonly Heard[] = [0, 1].map(() => ({ progress: [], images: [] }));
    const hears = (index: number): Promise<unknown> =>
      eventually(() => Promise.resolve(heard[index]?.images.length === 1 || undefined), `asker ${index}`);
    // One after the other, so that it is the one who started the pull that leaves.
    const left = ensure(daemon, through, { signal: leaving.signal, ...withHeard(heard[0]) });
    await hears(0);
    const stays = ensure(daemon, through, withHeard(heard[1]));
    await hears(1);
    leaving.abort();
    await assert.rejects(left, { name: 'AbortError' });
    gateway.treat = () => 'pass';
    gateway.release();
    const { outcome, lease } = await stays;
    await lease[Symbol.asyncDispose]();
    assert.equal(outcome, 'joined');
    assert.deepEqual(requests(daemon), ['joined'], 'who has left is not counted');
  });

  test('does not wait for images that are pulled on schedule', async () => {
    const [slow, quick] = [await ground.push('scheduled:1'), await ground.push('urgent:1')];
    await using gateway = await openGateway(ground.registry.host);
    const held: string[] = [];
    gateway.treat = (line) => {
      if (!line.includes('/scheduled/blobs/')) return 'pass';
      held.push(line);
      return held.length === 2 ? 'hold' : 'pass';
    };
    const through = slow.replace(ground.registry.host, gateway.host);
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: ["${through}", "${ground.registry.host}/waiting:1"]\nconcurrency: {images: 1, layers: 4}\n${allowAll}`,
    );
    await ground.push('waiting:1');
    await daemon.until(({ images }) => images.some(({ phase }) => phase === 'pulling'), 'the slow pull');
    assert.equal(await outcomeOf(daemon, quick), 'pulled');
    await daemon.clock.advance(60_000);
    await sleep(100);
    // The second image of the schedule waits for the first; a build that wants it does not.
    assert.equal(await outcomeOf(daemon, `${ground.registry.host}/waiting:1`), 'joined');
  });

  test('is not asked for while its registry wants to be left alone', async () => {
    const name = await ground.push('limit:1');
    await using gateway = await openGateway(ground.registry.host);
    const through = name.replace(ground.registry.host, gateway.host);
    gateway.treat = () => ({ status: 429, headers: { 'retry-after': '300' } });
    await using daemon = await openDaemon(ground.path('volume'), allowAll);
    await assert.rejects(ensure(daemon, through), /429/);
    const { length } = gateway.requests;
    await assert.rejects(ensure(daemon, through), code('E_REGISTRY_RATE_LIMITED'));
    assert.equal(gateway.requests.length, length);
    gateway.treat = () => 'pass';
    await daemon.clock.advance(301_000);
    assert.equal(await outcomeOf(daemon, through), 'pulled');
  });

  test('is refused with a clear error while the daemon stops', async () => {
    const name = await ground.push('stopping:1');
    await using gateway = await openGateway(ground.registry.host);
    gateway.treat = (line) => (line.includes('/blobs/') ? 'hold' : 'pass');
    const daemon = await openDaemon(ground.path('volume'), allowAll);
    const waiting = ensure(daemon, name.replace(ground.registry.host, gateway.host));
    await daemon.until(({ images }) => images.some(({ phase }) => phase === 'checking'), 'the question');
    const refused = assert.rejects(waiting, code('E_WARMER_STOPPING'));
    await daemon[Symbol.asyncDispose]();
    await refused;
    await assert.rejects(ensure(daemon, name), code('E_WARMER_STOPPING'));
  });
});
