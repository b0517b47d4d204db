import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { formatPlatform, hostPlatform } from '../../src/oci/index.ts';
import { NodeClient } from '../../src/volume/index.ts';
import { eventually } from '../support/daemon.ts';
import { ConfigMapMount, startDaemonProcess } from '../support/daemon-process.ts';
import { asked, type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { openGateway } from '../support/gateway.ts';
import { kiln } from '../support/programs.ts';

describe('warmer daemon', () => {
  let ground: DaemonGround;
  before(async () => {
    ground = await openDaemonGround();
  });
  after(() => ground[Symbol.asyncDispose]());

  const pulled = (name: string) => (line: { type: string; [field: string]: unknown }) =>
    line.type === 'pull' && line.outcome === 'pulled' && line.reference === name;

  test('follows a ConfigMap as kubelet changes it, and keeps the last good version', async () => {
    const names = await Promise.all(['cm1:1', 'cm2:1', 'cm3:1'].map((name) => ground.push(name)));
    const [first = '', second = '', third = ''] = names;
    const mount = new ConfigMapMount(ground.path('etc'));
    await mount.update({ 'warmer.yaml': `images: ["${first}"]`, 'other.txt': '1' });
    const volume = ground.path('volume');
    await using daemon = await startDaemonProcess([
      '--config',
      join(mount.directory, 'warmer.yaml'),
      '--cache-dir',
      volume,
    ]);
    await daemon.line(pulled(first), 'the first image');
    await mount.update({ 'warmer.yaml': `images: ["${first}", "${second}"]`, 'other.txt': '1' });
    await daemon.line(pulled(second), 'the second image');
    await mount.update({ 'warmer.yaml': `images: ["${first}"]\nimagse: []`, 'other.txt': '1' });
    const rejected = await daemon.line(
      ({ type, accepted }) => type === 'reload' && accepted === false,
      'the rejection',
    );
    assert.equal(rejected.level, 'warn');
    assert.match(rejected.message, /warmer\.yaml:2: imagse: there is no such field. Did you mean images\?/);
    await mount.update({ 'warmer.yaml': `images: ["${third}"]`, 'other.txt': '2' });
    await daemon.line(pulled(third), 'the third image');
    const ended = await daemon.end('SIGTERM');
    assert.equal(ended.code, 0, ended.stderr);
    const listed = await kiln('warmer', ['ls', '--cache-dir', volume, '-o', 'json']);
    assert.deepEqual(
      (JSON.parse(listed.stdout) as { reference: string }[]).map(({ reference }) => reference).sort(),
      names.sort(),
    );
  });

  test('follows a plain file, one that is renamed into place, and SIGHUP', async () => {
    const [first, second, third] = await Promise.all(
      ['plain1:1', 'plain2:1', 'plain3:1'].map((name) => ground.push(name)),
    );
    const config = ground.path('warmer.yaml');
    await writeFile(config, '{}');
    await using daemon = await startDaemonProcess(['--config', config, '--cache-dir', ground.path('volume')]);
    await daemon.line(({ message }) => message.startsWith('keeping'), 'the start');
    await writeFile(config, `images: ["${first ?? ''}"]`);
    await daemon.line(pulled(first ?? ''), 'the first image');
    await writeFile(`${config}.new`, `images: ["${second ?? ''}"]`);
    await rename(`${config}.new`, config);
    await daemon.line(pulled(second ?? ''), 'the second image');
    await writeFile(config, `images: ["${third ?? ''}"]`);
    daemon.signal('SIGHUP');
    await daemon.line(pulled(third ?? ''), 'the third image');
    assert.equal((await daemon.end('SIGINT')).code, 0);
  });

  test('stops soon while images are on their way, and the next one goes on where it stopped', async () => {
    const name = await ground.push('large:1', 30_000_000);
    await using gateway = await openGateway(ground.registry.host);
    gateway.slow = 2_000_000;
    const config = ground.path('warmer.yaml');
    await writeFile(config, `images: ["${name.replace(ground.registry.host, gateway.host)}"]`);
    const volume = ground.path('volume');
    const args = ['--config', config, '--cache-dir', volume];
    await using daemon = await startDaemonProcess(args);
    const partial = await untilPartial(volume, 3_000_000);
    const started = performance.now();
    const ended = await daemon.end('SIGTERM');
    assert.equal(ended.code, 0, ended.stderr);
    assert.ok(performance.now() - started < 5000, 'it does not wait for the transfer');
    assert.deepEqual(
      readdirSync(join(volume, 'ingest')).filter((file) => !file.endsWith('.partial')),
      [],
      'nothing else is left',
    );
    gateway.slow = undefined;
    gateway.ranges.length = 0;
    await using again = await startDaemonProcess(args);
    await again.line(({ type, outcome }) => type === 'pull' && outcome === 'pulled', 'the image');
    const [range] = gateway.ranges;
    assert.ok(
      Number(/bytes=([0-9]+)-/.exec(range ?? '')?.[1]) >= partial,
      `${String(range)} from ${partial} on`,
    );
    assert.equal((await again.end('SIGTERM')).code, 0);
  });

  test('killed at once has its state on the volume, and the next one works', async () => {
    const name = await ground.push('state:1');
    const config = ground.path('warmer.yaml');
    await writeFile(config, `images: ["${name}"]`);
    const volume = ground.path('volume');
    const args = ['--config', config, '--cache-dir', volume];
    {
      await using daemon = await startDaemonProcess(args);
      await daemon.line(pulled(name), 'the image');
      await untilFile(join(volume, 'warmer-state.json'));
      await daemon.end('SIGKILL');
    }
    assert.equal(
      (JSON.parse(await readFile(join(volume, 'warmer-state.json'), 'utf8')) as { version: number }).version,
      1,
    );
    // Damage is no reason not to start.
    await writeFile(join(volume, 'warmer-state.json'), '{"version":1,"adopted":[{"reference":"UP PER"}],');
    await ground.registry.clearLog();
    await using daemon = await startDaemonProcess(args);
    await daemon.line(({ message }) => message.includes('warmer-state.json is not used'), 'the warning');
    await daemon.line(({ message }) => message.startsWith('keeping'), 'the start');
    assert.equal((await daemon.end('SIGTERM')).code, 0);
    assert.deepEqual(asked(await ground.registry.accessLog(), 'GET', '/blobs/'), [], 'everything was there');
  });

  test('serves builds over its socket, and metrics and probes over HTTP; a second one on the volume is refused', async () => {
    const [name, asked] = [await ground.push('served:1'), await ground.push('asked:1')];
    const config = ground.path('warmer.yaml');
    await writeFile(config, `images: ["${name}"]\nonDemand: {allow: ["${asked}"]}\n`);
    const volume = ground.path('volume');
    const args = ['--config', config, '--cache-dir', volume];
    await using daemon = await startDaemonProcess(args);
    const { message } = await daemon.line(({ message }) => message.startsWith('keeping'), 'the start');
    const [address = ''] = /127\.0\.0\.1:[0-9]+/.exec(message) ?? [];
    const get = (path: string): Promise<Response> => fetch(`http://${address}${path}`);
    await eventually(async () => ((await get('/readyz')).status === 200 ? true : undefined), 'readiness');
    assert.equal((await get('/livez')).status, 200);
    const metrics = await (await get('/metrics')).text();
    assert.match(metrics, /kiln_warm_pulls_total\{[^}]*result="pulled"[^}]*\} 1/);
    assert.match(await (await get('/')).text(), /served:1/);
    const client = new NodeClient(volume);
    const request = { platform: formatPlatform(hostPlatform()), build: 'test' };
    const image = await client.ensure({ ...request, reference: asked });
    assert.equal(image.outcome, 'pulled');
    await assert.rejects(client.ensure({ ...request, reference: `${asked}0` }), { code: 'E_NOT_ALLOWED' });
    const second = await kiln('warmer', ['daemon', '--listen', 'off', ...args]);
    assert.equal(second.code, 3, second.stderr);
    assert.match(second.stderr, /E_WARMER_RUNNING/);
    const ended = await daemon.end('SIGTERM');
    assert.equal(ended.code, 0, ended.stderr);
  });

  test('--check says what is wrong, all of it, and touches no volume', async () => {
    const config = ground.path('warmer.yaml');
    const volume = ground.path('volume');
    await writeFile(config, 'images: [{reference: a, pinn: true}]\nrefresh: 5\n');
    const check = ['daemon', '--config', config, '--cache-dir', volume, '--check'];
    const bad = await kiln('warmer', check);
    assert.equal(bad.code, 2);
    assert.match(bad.stderr, /:1: images\[0\]\.pinn: .*Did you mean pin\?/);
    assert.match(bad.stderr, /:2: refresh: it must be a text, not 5/);
    await writeFile(config, `images: [debian]\ndockerfiles: [{path: nowhere}]\n`);
    assert.match((await kiln('warmer', check)).stderr, /nowhere/);
    await writeFile(config, `images: [debian]\n`);
    const good = await kiln('warmer', check);
    assert.equal(good.code, 0, good.stderr);
    assert.match(good.stdout, /is valid: 1 images/);
    assert.throws(() => readdirSync(volume), 'no volume was made');
  });

  for (const [what, args, code, says] of [
    ['no configuration', [], 2, /--config/],
    ['a configuration that is not there', ['--config', '/no/such/warmer.yaml'], 2, /\/no\/such\/warmer.yaml/],
    ['an address that is none', ['--config', '/dev/null', '--listen', 'here'], 2, /127\.0\.0\.1:9456/],
  ] as const)
    test(`refuses ${what} with one clear error`, async () => {
      const ended = await kiln('warmer', ['daemon', ...args, '--cache-dir', ground.path('volume')]);
      assert.equal(ended.code, code, ended.stderr);
      assert.match(ended.stderr, says);
      assert.ok(ended.stderr.trim().split('\n').length <= 3, ended.stderr);
    });
});

async function untilFile(path: string): Promise<void> {
  await eventually(() => readFile(path).catch(() => undefined), path);
}

/** Waits until so much of a blob has arrived. @returns its size then. */
async function untilPartial(volume: string, bytes: number): Promise<number> {
  return eventually(async () => {
    const names = await readdir(join(volume, 'ingest')).catch(() => []);
    const partial = names.find((name) => name.endsWith('.partial'));
    const size = partial === undefined ? 0 : (await stat(join(volume, 'ingest', partial))).size;
    return size >= bytes ? size : undefined;
  }, 'a part of the blob');
}
