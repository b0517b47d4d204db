import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import {
  pushTestImage,
  randomLayer,
  type TestImage,
  writeTestIndex,
  writeTestLayout,
} from '../support/images.ts';
import { type Ended, kiln } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

describe('executor index', () => {
  let workshop: Workshop;
  let amd64: TestImage;
  let arm64: TestImage;
  before(async () => {
    workshop = await openWorkshop();
    const { directory } = workshop;
    amd64 = { layers: [await randomLayer(directory, 'amd64', 2000)] };
    arm64 = { layers: [await randomLayer(directory, 'arm64', 2000)], architecture: 'arm64', variant: 'v8' };
    await pushTestImage(directory, `${workshop.registry.host}/parts/amd64:1`, amd64);
  });
  after(() => workshop[Symbol.asyncDispose]());

  const index = (...args: readonly string[]): Promise<Ended> =>
    kiln('executor', ['index', '--log-format', 'json', ...args]);
  const skopeo = (...args: readonly string[]): string =>
    execFileSync('skopeo', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  const raw = (
    image: string,
  ): { mediaType: string; manifests: { platform: object; digest: string }[]; annotations?: object } =>
    JSON.parse(skopeo('inspect', '--raw', '--tls-verify=false', image)) as ReturnType<typeof raw>;

  test('joins an image of a registry and one of a layout, mounting what the registry has', async () => {
    const { directory, registry } = workshop;
    const layout = await writeTestLayout(join(directory, 'arm64'), 'built', arm64);
    const destination = `${registry.host}/joined:1`;
    const file = join(directory, 'digest');
    await registry.clearLog();
    const ended = await index(
      ...['--destination', destination, '--digest-file', file, '--annotation', 'org.example.team=a'],
      ...['--oci-layout-path', join(directory, 'joined')],
      ...[`${registry.host}/parts/amd64:1`, `oci:${layout}:built`],
    );
    assert.equal(ended.code, 0, ended.stderr);
    const found = raw(`docker://${destination}`);
    assert.equal(found.mediaType, 'application/vnd.oci.image.index.v1+json');
    assert.deepEqual(found.annotations, { 'org.example.team': 'a' });
    assert.deepEqual(
      found.manifests.map(({ platform }) => platform),
      [
        { os: 'linux', architecture: 'amd64' },
        { os: 'linux', architecture: 'arm64' },
      ],
    );
    const digest = readFileSync(file, 'utf8');
    assert.deepEqual(raw(`docker://${registry.host}/joined@${digest}`), found);
    const part = skopeo(
      'inspect',
      '--tls-verify=false',
      '--format',
      '{{.Digest}}',
      `docker://${registry.host}/parts/amd64:1`,
    );
    assert.equal(found.manifests[0]?.digest, part.trim(), 'the manifest stays as it is');
    const mounts = (await registry.accessLog()).filter((line) => line.includes('mount='));
    assert.ok(mounts.length > 0);
    // Each image is all there, in the registry and in the layout.
    for (const [number, source] of [
      `docker://${destination}`,
      `oci:${join(directory, 'joined')}:1`,
    ].entries())
      skopeo(
        'copy',
        '--quiet',
        '--all',
        '--src-tls-verify=false',
        source,
        `oci:${join(directory, `copy-${number}`)}:x`,
      );
  });

  test('takes all images of an index', async () => {
    const { directory, registry } = workshop;
    const riscv64 = { layers: [await randomLayer(directory, 'riscv64', 100)], architecture: 'riscv64' };
    const layout = await writeTestIndex(join(directory, 'two'), 'two', [arm64, riscv64]);
    const ended = await index(
      ...['--oci-layout-path', join(directory, 'three')],
      ...[`${registry.host}/parts/amd64:1`, `oci:${layout}:two`],
    );
    assert.equal(ended.code, 0, ended.stderr);
    assert.equal(raw(`oci:${join(directory, 'three')}:latest`).manifests.length, 3);
  });

  test('refuses what cannot be joined, and writes nothing', async () => {
    const { registry } = workshop;
    const part = `${registry.host}/parts/amd64:1`;
    const destination = `${registry.host}/refused:1`;
    for (const [args, code, message] of [
      [
        ['--destination', destination, part, part],
        2,
        /are both for linux\/amd64 \[E_INDEX_DUPLICATE_PLATFORM\]/,
      ],
      [['--destination', destination, part, `${part}0`], 4, /there is no image .*10 \[E_IMAGE_NOT_FOUND\]/],
      [['--destination', destination, part, 'oci:/nowhere:x'], 3, /there is no image layout/],
      [[part], 2, /not said where the index goes/],
    ] as const) {
      const ended = await index(...args);
      assert.equal(ended.code, code, ended.stderr);
      assert.match(ended.messages, message);
    }
    assert.throws(() => raw(`docker://${destination}`));
  });
});
