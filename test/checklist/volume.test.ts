import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostPlatform, mediaTypes, parseReference } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { Volume } from '../../src/volume/index.ts';
import { unpackWithOtherTools } from '../support/check-image.ts';
import { eventually } from '../support/daemon.ts';
import { pushTestImage, randomLayer } from '../support/images.ts';
import { basesOf, type Ended, kiln, outputOf, stepsThat } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

let workshop: Workshop;
before(async () => {
  workshop = await openWorkshop();
});
after(() => workshop[Symbol.asyncDispose]());

const newVolume = (): string => join(workshop.directory, workshop.unique('volume'));

async function warm(volume: string, ...args: string[]): Promise<Ended> {
  const ended = await kiln('warmer', ['--cache-dir', volume, ...args]);
  assert.equal(ended.code, 0, ended.stderr);
  return ended;
}

async function build(volume: string, dockerfile: string, ...args: string[]): Promise<Ended> {
  const context = await workshop.context({ Dockerfile: dockerfile });
  const ended = await workshop.build(context, ['--cache-dir', volume, ...args]);
  assert.equal(ended.code, 0, ended.stderr);
  return ended;
}

describe('a volume', () => {
  test('that is warmed twice is left as it is, with exit code 0', async () => {
    const volume = newVolume();
    const args = ['--image', workshop.base, '--image', workshop.base];
    await warm(volume, ...args);
    const names = (): Promise<string[]> => readdir(volume, { recursive: true });
    const before = await names();
    await workshop.registry.clearLog();
    await warm(volume, ...args);
    assert.deepEqual(await names(), before);
    const log = await workshop.registry.accessLog();
    assert.deepEqual(
      log.filter((line) => !line.startsWith('HEAD ')),
      [],
      'only the tag was asked for',
    );
  });

  test('that is pruned of everything while a build stands on it lets that build end rightly', async () => {
    const volume = newVolume();
    const name = workshop.unique('pruned');
    const image = `${workshop.registry.host}/${name}:1`;
    const mark = join(workshop.directory, workshop.unique('mark'));
    const context = await workshop.context({
      Dockerfile:
        'FROM %BASE%\nRUN echo ready; sleep 3; cat /etc/passwd > /copy\nRUN cat /copy /etc/group > /all\n',
    });
    const building = workshop.build(context, ['--cache-dir', volume, '--destination', image], {
      onStart: (child) =>
        void child.stderr?.on('data', (text: Buffer) => {
          if (text.includes('"output"')) writeFileSync(mark, '');
        }),
    });
    await eventually(() => Promise.resolve(existsSync(mark) ? true : undefined), 'the first step');
    const pruned = await kiln('warmer', [
      ...['prune', '--cache-dir', volume, '--all', '--force', '--grace-period', '0s', '-o', 'json'],
    ]);
    assert.equal(pruned.code, 0, pruned.stderr);
    assert.equal((JSON.parse(pruned.stdout) as { skipped: { in_use: number } }).skipped.in_use, 1);
    const built = await building;
    assert.equal(built.code, 0, built.stderr);
    const root = join(unpackWithOtherTools(workshop.directory, image), 'rootfs');
    const read = (file: string): string => readFileSync(join(root, file), 'utf8');
    assert.equal(read('all'), read('etc/passwd') + read('etc/group'));
  });

  test('that becomes full during a pull says so, keeps nothing half written, and takes the image when there is space', async () => {
    const volume = newVolume();
    execFileSync('mkdir', [volume]);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=40m', 'tmpfs', volume]);
    try {
      const name = `${workshop.registry.host}/${workshop.unique('large')}:1`;
      const layers = [await randomLayer(workshop.directory, 'large', 8_000_000)];
      await pushTestImage(join(workshop.directory, workshop.unique('push')), name, { layers });
      const [reference, platform] = [parseReference(name), hostPlatform()];
      const filler = join(volume, 'filler');
      {
        await using client = new RegistryClient();
        await using open = await Volume.open(volume, { access: 'read-write' });
        const pulling = open.pull(client, reference, platform, {
          onProgress: (bytes) => {
            // It had been found to fit.
            if (bytes > 0 && !existsSync(filler))
              execFileSync('sh', ['-c', `cat /dev/zero > ${filler} 2> /dev/null || true`]);
          },
        });
        await assert.rejects(pulling, { code: 'E_NO_SPACE' });
        assert.deepEqual(await open.images(), []);
        assert.deepEqual(await readdir(join(volume, 'layers')), []);
      }
      rmSync(filler);
      await warm(volume, '--image', name);
      assert.equal((await kiln('warmer', ['verify', '--cache-dir', volume])).code, 0);
    } finally {
      execFileSync('umount', [volume]);
    }
  });
});

describe('an image', () => {
  test('is warm by the digest of the multi-platform index that its tag names', async () => {
    const volume = newVolume();
    const repository = `${workshop.registry.host}/busybox`;
    const digest = await pushIndex();
    await warm(volume, '--image', `${repository}:index`);
    await workshop.registry.clearLog();
    const ended = await build(volume, `FROM ${repository}@${digest}\nRUN true\n`, '--no-push');
    assert.deepEqual(
      basesOf(ended).map(({ outcome }) => outcome),
      ['warm'],
    );
    assert.deepEqual(await workshop.registry.accessLog(), [], 'a digest asks nobody');
  });

  /** Pushes an index with the base image for this machine. @returns its digest. */
  async function pushIndex(): Promise<string> {
    const manifests = `http://${workshop.registry.host}/v2/busybox/manifests`;
    const head = await fetch(`${manifests}/1`, {
      method: 'HEAD',
      headers: { accept: mediaTypes.ociManifest },
    });
    const manifest = {
      mediaType: mediaTypes.ociManifest,
      digest: head.headers.get('docker-content-digest'),
      size: Number(head.headers.get('content-length')),
      platform: hostPlatform(),
    };
    const put = await fetch(`${manifests}/index`, {
      method: 'PUT',
      headers: { 'content-type': mediaTypes.ociIndex },
      body: JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [manifest] }),
    });
    assert.equal(put.status, 201);
    return put.headers.get('docker-content-digest') ?? '';
  }

  test('whose time is over is not lost when it cannot be refreshed, and is refreshed when it can', async () => {
    await using other = await openWorkshop();
    const volume = newVolume();
    const args = ['--cache-dir', volume, '--image', other.base, '--cache-ttl', '1ms'];
    await warm(volume, '--image', other.base);
    await other.registry.stop();
    assert.notEqual((await kiln('warmer', args)).code, 0, 'it is not said to be fresh');
    const offline = await build(volume, `FROM ${other.base}\nRUN true\n`, '--no-push');
    assert.equal(basesOf(offline)[0]?.outcome, 'warm');
    await other.registry.restart();
    assert.match((await warm(volume, ...args)).stdout, /^fresh/);
  });
});

test('an entry of the layer cache whose time is over is made again, and hits then', async () => {
  const volume = newVolume();
  const name = workshop.unique('expired');
  const args = ['--cache', '--destination', `${workshop.registry.host}/${name}:1`];
  const dockerfile = 'FROM %BASE%\nRUN date +%s%N > /now\n';
  await build(volume, dockerfile, ...args);
  const between = performance.now();
  await sleep(4000);
  const again = await build(volume, dockerfile, ...args, '--cache-ttl', '1ms');
  assert.equal(stepsThat('ran', again).length, 1);
  // Too short for the first entry, and long enough for the second.
  const age = Math.floor(performance.now() - between);
  const third = await build(volume, dockerfile, ...args, '--cache-ttl', `${age}ms`);
  assert.deepEqual(stepsThat('ran', third), []);
});

test('builds one after another in one container do not see each other’s files', async () => {
  const volume = newVolume();
  const list = 'find / -xdev -name "*secret*" -not -path "/proc/*"; cat /tmp/* /root/* 2> /dev/null; ls /';
  const clean = await build(volume, `FROM %BASE%\nRUN ${list}\n`, '--no-push', '--no-push-cache');
  const first = [
    'FROM %BASE% AS stage',
    'RUN echo secret > /tmp/secret && echo secret > /root/secret && mkdir /secret && echo secret > /etc/passwd',
    'FROM %BASE%',
    'COPY --from=stage /secret /secret',
    'RUN cp -r /secret /other-secret',
  ].join('\n');
  await build(volume, first, '--no-push', '--no-push-cache');
  const second = await build(volume, `FROM %BASE%\nRUN ${list}\n`, '--no-push', '--no-push-cache');
  assert.equal(outputOf(second), outputOf(clean));
  assert.deepEqual(
    (await readdir(join(volume, 'ingest'))).filter((name) => !name.endsWith('.lock')),
    [],
  );
});
