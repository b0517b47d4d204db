import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { openDaemon } from '../support/daemon.ts';
import { type DaemonGround, openDaemonGround } from '../support/daemon-ground.ts';
import { randomLayer, writeTestLayout } from '../support/images.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';

const minute = 60_000;

describe('a registry that wants a login', () => {
  let ground: DaemonGround;
  let registry: TestRegistry;
  let image: string;
  before(async () => {
    ground = await openDaemonGround();
    registry = await startRegistry({ user: 'node', password: 'right' });
    image = `${registry.host}/private:1`;
    const layers = [await randomLayer(ground.directory, 'private')];
    const layout = await writeTestLayout(ground.path('layout'), 'image', { layers });
    const copy = ['copy', '--quiet', '--dest-tls-verify=false', '--dest-creds', 'node:right'];
    execFileSync('skopeo', [...copy, `oci:${layout}:image`, `docker://${image}`], { stdio: 'pipe' });
  });
  after(async () => {
    await registry[Symbol.asyncDispose]();
    await ground[Symbol.asyncDispose]();
  });

  const secret = (password: string): string =>
    JSON.stringify({
      auths: { [registry.host]: { auth: Buffer.from(`node:${password}`).toString('base64') } },
    });

  for (const [what, file, named] of [
    ['a mounted Secret', '.dockerconfigjson', ''],
    ["Docker's directory", 'config.json', ''],
    ['a file', 'pull.json', 'pull.json'],
  ] as const)
    test(`is given the pull secret of an image, from ${what}`, async () => {
      const directory = ground.path('secret');
      await mkdir(directory);
      await writeFile(join(directory, file), secret('right'));
      await using daemon = await openDaemon(
        ground.path('volume'),
        `images: [{reference: "${image}", pullSecret: "${join(directory, named)}"}]`,
      );
      await daemon.until(({ ready }) => ready, 'readiness');
    });

  test('is given a secret that was corrected the next time', async () => {
    const directory = ground.path('secret');
    await mkdir(directory);
    await writeFile(join(directory, '.dockerconfigjson'), secret('wrong'));
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: ["${image}"]\npullSecret: "${directory}"`,
    );
    await daemon.event('pull', ({ record }) => record.outcome === 'failed');
    assert.equal((await daemon.image(image))?.lastError?.code, 'E_REGISTRY_UNAUTHORIZED');
    await writeFile(join(directory, '.dockerconfigjson'), secret('right'));
    await daemon.clock.advance(minute);
    await daemon.until(({ ready }) => ready, 'readiness');
  });

  test('and a secret that is not there is said so', async () => {
    const missing = ground.path('no-secret');
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: [{reference: "${image}", pullSecret: "${missing}"}]`,
    );
    await daemon.event('pull', ({ record }) => record.outcome === 'failed');
    assert.equal((await daemon.image(image))?.lastError?.code, 'E_PULL_SECRET_NOT_FOUND');
  });
});

describe('a limit of bandwidth', () => {
  test('holds for all pulls together, whatever credentials they use', async () => {
    await using ground = await openDaemonGround();
    const names = await Promise.all(['slow1:1', 'slow2:1'].map((name) => ground.push(name, 1_000_000)));
    const secret = ground.path('config.json');
    await writeFile(secret, '{}');
    const started = performance.now();
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: ["${names[0] ?? ''}", {reference: "${names[1] ?? ''}", pullSecret: "${secret}"}]\nbandwidth: 1MB`,
    );
    await daemon.until(({ ready }) => ready, 'readiness');
    assert.ok(performance.now() - started > 1700, 'two megabytes take two seconds');
  });
});

describe('a registry with a mirror', () => {
  test('need not be there itself', async () => {
    await using ground = await openDaemonGround();
    await ground.push('hub/team/app:1');
    await using daemon = await openDaemon(
      ground.path('volume'),
      `images: ["registry.invalid/team/app:1"]\nregistries: [{host: registry.invalid, mirrors: ["${ground.registry.host}/hub"]}]`,
    );
    const { images } = await daemon.until(({ ready }) => ready, 'readiness');
    assert.deepEqual(
      images.map(({ reference, digest }) => [reference, digest]),
      [['registry.invalid/team/app:1', ground.digest(`${ground.registry.host}/hub/team/app:1`)]],
    );
  });

  test('that is configured while pulls go on is used from then on', async () => {
    await using ground = await openDaemonGround();
    await ground.push('team/late:1');
    const images = 'images: ["registry.invalid/team/late:1"]';
    await using daemon = await openDaemon(ground.path('volume'), images);
    await daemon.event('pull', ({ record }) => record.outcome === 'failed');
    await daemon.apply(
      `${images}\nregistries: [{host: registry.invalid, mirrors: ["${ground.registry.host}"]}]`,
    );
    await daemon.clock.advance(minute);
    await daemon.until(({ ready }) => ready, 'readiness');
  });
});
