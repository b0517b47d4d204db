import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { type LocalBuilds, openLocalBuilds } from '../support/local-builds.ts';
import { stepsThat } from '../support/programs.ts';

let builds: LocalBuilds;
let context = '';
before(async () => {
  builds = await openLocalBuilds();
  context = await builds.context({ file: 'x' });
  copyFileSync('/bin/busybox', join(context, 'busybox'));
});
after(() => builds[Symbol.asyncDispose]());

const dockerfile = `FROM scratch
COPY busybox /bin/sh
RUN mkdir -p /out /skipped/deep && echo a > /skipped/deep/a && echo b > /out/b
RUN test -e /skipped/deep/a && echo c > /out/c
COPY file /skipped/file
`;

describe('--ignore-path', () => {
  test('leaves a path out of all layers, while steps of one build see it', async () => {
    const args = ['--ignore-path', '/skipped/deep/', '--ignore-path=/skipped/file'];
    const first = await builds.build(dockerfile, { context, args });
    assert.equal(first.code, 0, first.stderr);
    assert.deepEqual(
      first.tree('%P').filter((path) => /skipped|out/.test(path)),
      ['out', 'out/b', 'out/c', 'skipped'],
    );
    const again = await builds.build(dockerfile, { context, args });
    assert.equal(stepsThat('ran', again).length, 0);
    const without = await builds.build(dockerfile, { context });
    assert.equal(stepsThat('cached', without).length, 0, 'its layers are others');
    assert.ok(without.tree('%P').includes('skipped/deep/a'));
  });

  test('that is no path in the image is an error', async () => {
    for (const path of ['var/cache', '/', '/..'])
      assert.equal(
        (await builds.build(dockerfile, { context, args: ['--ignore-path', path] })).code,
        2,
        path,
      );
  });
});

describe('--single-snapshot', () => {
  test('makes one layer of all steps, of the same files, and stores nothing', async () => {
    const one = await builds.build(dockerfile, { context, args: ['--single-snapshot'] });
    assert.equal(one.code, 0, one.stderr);
    const several = await builds.build(dockerfile, { context, args: ['--no-cache'] });
    assert.deepEqual(one.tree('%P %m'), several.tree('%P %m'));
    assert.equal(one.manifest().layers.length, 1);
    assert.equal(several.manifest().layers.length, 4);
    const again = await builds.build(dockerfile, { context, args: ['--single-snapshot'] });
    assert.equal(stepsThat('ran', again).length, 4);
  });
});
