import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { inspectConfig, inspectManifest, runWithRunc, unpackWithOtherTools } from '../support/check-image.ts';
import { debianTar } from '../support/debian.ts';
import { pushTestImage } from '../support/images.ts';
import { kiln, mountsBelow, stepsThat, temporaryDirectory, writeFiles } from '../support/programs.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';

const dockerfile = `
ARG BASE
FROM \${BASE} AS build
WORKDIR /src
COPY main.sh ./
RUN perl -e 'print "made by perl\\n"' > made && install -m 755 main.sh /usr/local/bin/main
FROM \${BASE} AS unneeded
RUN exit 9
FROM \${BASE}
ENV GREETING="hello there"
RUN useradd --create-home --uid 1234 app && apt-get --version > /apt-version
COPY --from=build --chown=app /src/made /home/app/made
COPY --from=build /usr/local/bin/main /usr/local/bin/main
RUN chmod 4755 /usr/local/bin/main
RUN rm /etc/issue && touch /etc/new
USER app
WORKDIR /home/app
EXPOSE 80
CMD ["main"]
`;

describe('a Debian base', () => {
  let registry: TestRegistry;
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  let base: string;
  let image: string;
  let context: string;
  let volume: string;

  before(async () => {
    registry = await startRegistry();
    scratch = await temporaryDirectory();
    base = `${registry.host}/debian:bookworm`;
    image = `${registry.host}/team/app:1`;
    volume = join(scratch.path, 'volume');
    await pushTestImage(scratch.path, base, { layers: [await debianTar()] });
    context = await writeFiles(join(scratch.path, 'context'), {
      Dockerfile: dockerfile,
      'main.sh': '#!/bin/sh\necho "$GREETING, $(id -un)"\ncat made\n',
    });
  });
  after(async () => {
    await registry[Symbol.asyncDispose]();
    await scratch[Symbol.asyncDispose]();
  });

  const build = (cacheDirectory: string, ...more: string[]): ReturnType<typeof kiln> =>
    kiln('executor', [
      ...['--context', context, '--cache-dir', cacheDirectory, '--build-arg', `BASE=${base}`],
      ...['--destination', image, '--cache', '--log-format', 'json', ...more],
    ]);

  test('is warmed once, then only asked about', async () => {
    const warm = (): ReturnType<typeof kiln> =>
      kiln('warmer', [
        '--cache-dir',
        volume,
        '--dockerfile',
        join(context, 'Dockerfile'),
        '--build-arg',
        `BASE=${base}`,
      ]);
    const first = await warm();
    assert.equal(first.code, 0, first.stderr);
    assert.match(first.stdout, /^pulled .*\/debian:bookworm/);
    const listed = await kiln('warmer', ['ls', '--cache-dir', volume, '-o', 'json']);
    const [entry] = JSON.parse(listed.stdout) as { unpackedSize: number; unpacked: boolean }[];
    assert.equal(entry?.unpacked, true);
    assert.ok((entry?.unpackedSize ?? 0) >= 150_000_000, `${entry?.unpackedSize ?? 0} bytes`);
    await registry.clearLog();
    const second = await warm();
    assert.equal(second.code, 0, second.stderr);
    assert.match(second.stdout, /^fresh /);
    assert.deepEqual(await registry.accessLog(), ['HEAD /v2/debian/manifests/bookworm 200']);
  });

  test('carries an image that other tools pull, unpack and run', async () => {
    const built = await build(volume);
    assert.equal(built.code, 0, built.stderr);
    assert.equal(stepsThat('cached', built).length, 0);
    assert.deepEqual(stepsThat('failed', built), []);
    const bundle = unpackWithOtherTools(scratch.path, image);
    assert.equal(runWithRunc(bundle), 'hello there, app\nmade by perl\n');
    const root = join(bundle, 'rootfs');
    assert.equal(statSync(join(root, 'home/app/made')).uid, 1234);
    assert.equal(statSync(join(root, 'usr/local/bin/main')).mode & 0o7777, 0o4755);
    assert.ok(!readdirSync(join(root, 'etc')).includes('issue'));
    assert.ok(readdirSync(join(root, 'etc')).includes('new'));
    assert.match(readFileSync(join(root, 'apt-version'), 'utf8'), /^apt /);
    const { config, history, rootfs } = inspectConfig(image);
    assert.equal(config.User, 'app');
    assert.equal(config.WorkingDir, '/home/app');
    assert.deepEqual(config.ExposedPorts, { '80/tcp': {} });
    assert.equal(history.filter((entry) => entry.empty_layer !== true).length, rootfs.diff_ids.length);
    assert.deepEqual(mountsBelow(scratch.path), []);
  });

  test('keeps its layer byte for byte', () => {
    assert.deepEqual(inspectManifest(image).layers[0], inspectManifest(base).layers[0]);
  });

  test('is neither pulled nor unpacked by a fresh executor when every step hits', async () => {
    const digest = execFileSync(
      'skopeo',
      ['inspect', '--tls-verify=false', '--format', '{{.Digest}}', `docker://${image}`],
      {
        encoding: 'utf8',
      },
    );
    await registry.clearLog();
    const empty = join(scratch.path, 'empty-volume');
    const built = await build(empty, '--digest-file', join(scratch.path, 'digest'));
    assert.equal(built.code, 0, built.stderr);
    assert.deepEqual(stepsThat('ran', built), []);
    assert.ok(stepsThat('cached', built).length >= 4);
    const layers = new Set(inspectManifest(image).layers.map((layer) => layer.digest));
    const moved = (await registry.accessLog()).filter(
      (line) =>
        /^(?:GET|PATCH|PUT) .*\/blobs\//.test(line) &&
        [...layers].some((layer) => line.includes(layer.slice(7))),
    );
    assert.deepEqual(moved, []);
    assert.equal(
      readFileSync(join(scratch.path, 'digest'), 'utf8').trim(),
      digest.trim(),
      'the image is the same',
    );
    assert.deepEqual(readdirSync(join(empty, 'layers')), []);
  });
});
