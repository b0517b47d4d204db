import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { unpackLayout } from '../support/check-image.ts';
import { busyboxLayer, writeTestLayout } from '../support/images.ts';
import { buildInProcess } from '../support/in-process.ts';
import { temporaryDirectory, writeFiles } from '../support/programs.ts';

interface Config {
  readonly config: { readonly OnBuild?: readonly string[]; readonly Env: readonly string[] };
  readonly history: readonly { readonly created_by: string }[];
}

test('what ONBUILD left in a base image is carried out once, with what it copies, and is told of as if it were written here', async () => {
  await using scratch = await temporaryDirectory();
  const { path } = scratch;
  const layers = [await busyboxLayer(path)];
  const bases = await Promise.all(
    Object.entries({
      plain: [],
      copying: ['COPY --from=assets /made /from-assets', 'COPY --from=plain /etc/group /group', 'ENV A=1'],
      failing: ['RUN exit 3'],
    }).map(([name, OnBuild]) =>
      writeTestLayout(join(path, name), name, { layers, config: { Env: ['PATH=/bin'], OnBuild } }),
    ),
  );
  const build = (place: string, dockerfile: string): ReturnType<typeof buildInProcess> =>
    buildInProcess({
      ...{ dockerfile, place: join(path, place), context, volume: join(path, 'volume') },
      contexts: bases.map((layout) => {
        const name = layout.split('/').at(-1) ?? '';
        return `${name}=oci-layout://${layout}:${name}`;
      }),
    });
  const context = await writeFiles(join(path, 'context'), { a: 'a' });
  const dockerfile =
    'FROM plain AS assets\nRUN echo made > /made\nFROM copying AS app\nRUN echo $A > /a\nFROM app\nLABEL last=1\n';
  const { layout } = await build('two', dockerfile);
  const root = join(unpackLayout(path, layout), 'rootfs');
  assert.equal(readFileSync(join(root, 'from-assets'), 'utf8'), 'made\n');
  assert.equal(readFileSync(join(root, 'group'), 'utf8'), readFileSync(join(root, 'etc/group'), 'utf8'));
  assert.equal(readFileSync(join(root, 'a'), 'utf8'), '1\n');
  const directory = layout.replace(/:latest$/, '');
  const read = (digest: string): unknown =>
    JSON.parse(readFileSync(join(directory, 'blobs', digest.replace(':', '/')), 'utf8'));
  const { manifests } = JSON.parse(readFileSync(join(directory, 'index.json'), 'utf8')) as {
    manifests: [{ digest: string }];
  };
  const manifest = read(manifests[0].digest) as { config: { digest: string } };
  const { config, history } = read(manifest.config.digest) as Config;
  assert.equal(config.OnBuild, undefined);
  assert.deepEqual(
    history.map(({ created_by }) => created_by),
    [
      'test base',
      'COPY /made /from-assets # buildkit',
      'COPY /etc/group /group # buildkit',
      'ENV A=1',
      'RUN /bin/sh -c echo $A > /a # buildkit',
      'LABEL last=1',
    ],
  );
  await assert.rejects(build('three', 'FROM plain\n\nFROM failing\nRUN echo never\n'), {
    code: 'E_RUN_FAILED',
    where: 'Dockerfile:3',
    message: 'the command ended with exit code 3: ONBUILD RUN exit 3',
  });
});
