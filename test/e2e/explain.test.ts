import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Ended, kiln, stepsThat } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

interface Explanation {
  readonly keys: readonly string[];
  readonly stages: readonly {
    readonly stage: string;
    readonly steps: readonly {
      readonly instruction: string;
      readonly outcome: string;
      readonly reasons: readonly string[];
    }[];
  }[];
}

describe('why a step is not taken from the cache', () => {
  let shop: Workshop;
  before(async () => {
    shop = await openWorkshop();
  });
  after(() => shop[Symbol.asyncDispose]());

  const dockerfile = [
    'FROM %BASE% AS build',
    'ARG VERSION=1',
    'COPY main.c util.c /src/',
    'RUN cat /src/*.c > /out',
    'FROM %BASE%',
    'RUN echo tools > /tools',
    'COPY --from=build /out /out',
  ].join('\n');
  const files = { Dockerfile: dockerfile, 'main.c': 'main', 'util.c': 'util' };
  const details = ({ events }: Ended): (string | undefined)[] =>
    events.flatMap((event) => (event.type === 'step-end' && event.outcome === 'ran' ? [event.detail] : []));

  async function explain(context: string, args: readonly string[]): Promise<Explanation> {
    const common = ['explain', '--context', context, '--cache-dir', shop.volume, '-o', 'json'];
    const { code, stdout, stderr } = await kiln('executor', [...common, ...args]);
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout) as Explanation;
  }

  test('is told by explain before the build, and by the build in a few words', async () => {
    const cache = `${shop.registry.host}/${shop.unique('cache')}`;
    const context = await shop.context(files);
    const args = ['--cache', '--cache-repo', cache, '--no-push'];
    const first = await shop.build(context, args);
    assert.equal(first.code, 0, first.stderr);
    assert.deepEqual(
      details(first),
      [undefined, undefined, undefined, undefined],
      'there is nothing to compare with',
    );

    await writeFile(join(context, 'util.c'), 'better');
    const explained = await explain(context, ['--cache-repo', cache]);
    assert.deepEqual(
      explained.stages.map(({ stage, steps }) => [
        stage,
        ...steps.map(({ outcome, reasons }) => [outcome, ...reasons]),
      ]),
      [
        ['build', ['miss', 'file util.c changed'], ['miss', '[build 2/3] COPY changed']],
        ['stage-1', ['hit'], ['miss', 'stage build changed']],
      ],
    );

    await shop.registry.clearLog();
    const second = await shop.build(context, args);
    assert.equal(second.code, 0, second.stderr);
    assert.deepEqual(details(second).sort(), [
      '[build 2/3] COPY changed',
      'files that it copies changed',
      'stage build changed',
    ]);
    const log = await shop.registry.accessLog();
    assert.equal(log.filter((line) => /^GET .*\/k1-last-/.test(line)).length, 1, 'one record is asked for');
    assert.ok(!log.some((line) => line.includes('tags/list')), 'a build lists nothing');

    await shop.registry.clearLog();
    const third = await shop.build(context, args);
    assert.deepEqual(stepsThat('ran', third), []);
    assert.ok(
      !(await shop.registry.accessLog()).some((line) => line.includes('k1-last-')),
      'and none when all hits',
    );

    const plain = await kiln('executor', [
      '--context',
      context,
      '--cache-dir',
      shop.volume,
      ...args,
      '--build-arg',
      'VERSION=2',
    ]);
    assert.match(plain.stderr, /\[build 3\/3\] done in [0-9.]+s \(ARG VERSION changed\)/);
  });

  test('can be asked of a Dockerfile that a prune is to keep', async () => {
    const cache = `${shop.registry.host}/${shop.unique('cache')}`;
    const old = await shop.context({ ...files, 'util.c': 'old' });
    const now = await shop.context(files);
    for (const context of [old, now])
      assert.equal((await shop.build(context, ['--cache', '--cache-repo', cache, '--no-push'])).code, 0);
    const prune = ['remote', 'prune', '--cache-repo', cache, '--force', '--grace-period', '0s'];
    const env = { KILN_CACHE_DIR: shop.volume };
    const pruned = await kiln('warmer', [...prune, '--keep-dockerfile', 'Dockerfile', '--context', old], {
      env,
    });
    assert.equal(pruned.code, 0, pruned.stderr);
    assert.match(pruned.stdout, /Removed 4 of 9 entries/);
    const again = await shop.build(old, ['--cache', '--cache-repo', cache, '--no-push', '--no-push-cache']);
    assert.deepEqual(stepsThat('ran', again), [], 'what was kept hits throughout');
    const { keys } = await explain(now, ['--cache-repo', cache, '--all-stages']);
    const list = join(shop.directory, 'keys.json');
    await writeFile(list, JSON.stringify({ keys }));
    const left = await kiln('warmer', [...prune, '--keep-keys', list]);
    assert.match(left.stdout, /Removed 4 of 5 entries/, left.stderr);
    const broken = await kiln('warmer', [...prune, '--keep-dockerfile', 'None', '--context', old], { env });
    assert.match(broken.stderr, /what None can hit cannot be told; nothing was deleted/);
  });

  test('can be that it is not to be: for a build, a stage, a step', async () => {
    const cache = `oci:${join(shop.directory, shop.unique('cache'))}`;
    const context = await shop.context({
      ...files,
      Dockerfile: dockerfile.replace(
        'RUN cat',
        '# kiln: no-cache\nRUN head -c 8 /dev/urandom > /random; cat',
      ),
    });
    const args = ['--cache', '--cache-repo', cache, '--no-push'];
    assert.equal((await shop.build(context, args)).code, 0);
    const stepwise = await shop.build(context, args);
    assert.deepEqual(details(stepwise), ['# kiln: no-cache']);
    assert.equal(
      stepsThat('cached', stepwise).length,
      3,
      'its copy gives the same files, and what is beside it is the same',
    );
    const filtered = await shop.build(context, [
      ...args,
      '--no-cache-filter',
      'stage-1',
      '--no-cache-filter',
      'nothing',
    ]);
    assert.deepEqual(stepsThat('ran', filtered).length, 3);
    assert.match(filtered.stderr, /--no-cache-filter nothing: no stage of that name is built/);
    const anew = await shop.build(context, [...args, '--no-cache']);
    assert.deepEqual(stepsThat('cached', anew), []);
    // Stages run beside each other, so their steps end in any order.
    assert.deepEqual(details(anew).sort(), ['# kiln: no-cache', '--no-cache', '--no-cache', '--no-cache']);
  });

  test('is never a mistyped directive that nobody reads', async () => {
    for (const [line, says] of [
      ['# kiln: nocache\nRUN true', /"nocache" is nothing that a step can be told/],
      ['# kiln: ttl=soon\nRUN true', /"soon" is not a duration/],
      ['# kiln: no-cache\nENV A=1', /stands above ENV, which is no step/],
    ] as const) {
      const context = await shop.context({ Dockerfile: `FROM %BASE%\n${line}` });
      const { code, stderr } = await shop.build(context, ['--no-push']);
      assert.equal(code, 1);
      assert.match(stderr, says);
      assert.match(stderr, /E_KILN_DIRECTIVE/);
    }
  });

  test('is not an ARG that is ignored, of which a command that mentions it is warned', async () => {
    const cache = `oci:${join(shop.directory, shop.unique('cache'))}`;
    const context = await shop.context({
      Dockerfile: 'FROM %BASE%\nARG BUILD_ID\nARG OTHER\nRUN echo $BUILD_ID > /id\nRUN true',
    });
    const args = ['--cache', '--cache-repo', cache, '--no-push', '--cache-ignore-arg', 'BUILD_ID'];
    const build = (id: string, ...more: string[]): Promise<Ended> =>
      shop.build(context, [...args, '--build-arg', `BUILD_ID=${id}`, ...more]);
    const first = await build('1');
    assert.equal(first.code, 0, first.stderr);
    assert.match(
      first.stderr,
      /the command mentions BUILD_ID, which --cache-ignore-arg leaves out of its key/,
    );
    assert.equal(first.stderr.match(/mentions BUILD_ID/g)?.length, 1, 'once, for the step that does');
    assert.deepEqual(stepsThat('ran', await build('2')), []);
    assert.equal(stepsThat('ran', await build('2', '--build-arg', 'OTHER=x')).length, 2);
  });
});
