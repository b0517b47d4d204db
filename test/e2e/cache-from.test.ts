import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type CacheKey, keyTag, openEntryStore } from '../../src/layercache/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { type Ended, kiln, stepsThat, warningsOf } from '../support/programs.ts';
import { freePort } from '../support/registry.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

describe('--cache-from and --cache-to', () => {
  let shop: Workshop;
  before(async () => {
    shop = await openWorkshop();
  });
  after(() => shop[Symbol.asyncDispose]());

  const succeed = async (context: string, args: readonly string[]): Promise<Ended> => {
    const ended = await shop.build(context, args);
    assert.equal(ended.code, 0, ended.stderr);
    return ended;
  };
  /** The caches that gave the steps, in the order of the steps. */
  const locations = ({ events }: Ended): (string | undefined)[] =>
    events.flatMap((event) => (event.type === 'cache' && event.outcome === 'hit' ? [event.location] : []));
  const writes = async (repository: string): Promise<string[]> =>
    (await shop.registry.accessLog()).filter((line) =>
      new RegExp(`^(?:PUT|POST|PATCH|DELETE) /v2/${repository}/(?!.* 404$)`).test(line),
    );

  test('let a pull request read the main cache and write its own', async () => {
    const name = shop.unique('pull');
    const [main, own] = [`${shop.registry.host}/${name}/main`, `${shop.registry.host}/${name}/own`];
    const context = await shop.context({
      Dockerfile: 'FROM %BASE%\nRUN echo tools > /tools\nCOPY file /file\nRUN cat /file > /made\n',
      file: 'a',
    });
    const destination = (app: string): string[] => [
      '--destination',
      `${shop.registry.host}/${name}/${app}:1`,
    ];
    await succeed(context, ['--cache', '--cache-repo', main, ...destination('app')]);
    await shop.registry.clearLog();
    await writeFile(join(context, 'file'), 'b');
    const request = ['--cache-from', own, '--cache-from', main, '--cache-to', own, ...destination('request')];
    const first = await succeed(context, request);
    assert.deepEqual(stepsThat('cached', first), ['RUN echo tools > /tools']);
    assert.deepEqual(locations(first), [main]);
    assert.deepEqual(await writes(`${name}/main`), [], 'the main cache is only read');
    const log = await shop.registry.accessLog();
    assert.ok(
      log.some((line) =>
        new RegExp(`^POST /v2/${name}/request/.*from=${encodeURIComponent(`${name}/main`)}.* 201$`).test(
          line,
        ),
      ),
      'its layer is mounted across',
    );
    const again = await succeed(context, request);
    assert.deepEqual(stepsThat('ran', again), []);
    assert.deepEqual(locations(again), [main, own, own]);
    const listed = await kiln('warmer', ['remote', 'ls', '--cache-repo', own, '-o', 'json']);
    const { entries } = JSON.parse(listed.stdout) as { entries: readonly { instruction: string }[] };
    assert.deepEqual(entries.map(({ instruction }) => instruction).sort(), [
      'COPY file /file',
      'RUN cat /file > /made',
    ]);
  });

  test('reads and stores nothing elsewhere: --cache-from alone stores nothing, --cache-to alone reads nothing', async () => {
    const name = shop.unique('alone');
    const cache = `oci:${join(shop.directory, name)}`;
    const context = await shop.context({ Dockerfile: 'FROM %BASE%\nRUN echo > /x\n' });
    const args = ['--cache', '--destination', `${shop.registry.host}/${name}:1`];
    await succeed(context, [...args, '--cache-from', cache]);
    await shop.registry.clearLog();
    for (let build = 0; build < 2; build++) {
      const written = await succeed(context, [...args, '--cache-to', cache]);
      assert.equal(stepsThat('ran', written).length, 1);
    }
    assert.deepEqual(stepsThat('cached', await succeed(context, [...args, '--cache-from', cache])), [
      'RUN echo > /x',
    ]);
    const log = await shop.registry.accessLog();
    assert.ok(!log.some((line) => line.includes(`/${name}/cache/`)), 'nothing is inferred beside them');
  });

  test('take the first layer that was made on what is there, in the order in which they are given', async () => {
    const context = await shop.context({
      Dockerfile: 'FROM %BASE%\nRUN head -c 16 /dev/urandom > /random\nRUN cp /random /copy\n',
    });
    const [main, own] = ['main', 'own'].map((name) => `oci:${join(shop.directory, shop.unique(name))}`);
    assert.ok(main !== undefined && own !== undefined);
    for (const cache of [main, own]) await succeed(context, ['--cache', '--cache-repo', cache, '--no-push']);
    const both = ['--cache', '--cache-repo', own, '--cache-from', main, '--no-push'];
    const built = await succeed(context, both);
    assert.deepEqual(locations(built), [own, own]);
    // Of the first one, only the layer that was made on its own first step is left.
    const [first] = built.events.flatMap((event) => (event.type === 'cache' ? [event.key as CacheKey] : []));
    assert.ok(first !== undefined);
    await using client = new RegistryClient();
    await openEntryStore(own, client).deleteTag(keyTag(first));
    assert.deepEqual(locations(await succeed(context, both)), [main, main]);
  });

  test('of which one cannot be asked, are warned of once and do without it', async () => {
    const context = await shop.context({ Dockerfile: 'FROM %BASE%\nRUN echo > /x\nRUN echo > /y\n' });
    const cache = `oci:${join(shop.directory, shop.unique('cache'))}`;
    const broken = `127.0.0.1:${await freePort()}/cache`;
    await succeed(context, ['--cache', '--cache-repo', cache, '--no-push']);
    const built = await succeed(context, [
      ...['--cache-from', broken, '--cache-from', cache, '--no-push'],
      ...['--push-retry', '0', '--image-download-retry', '0'],
    ]);
    assert.equal(stepsThat('cached', built).length, 2);
    const warnings = warningsOf(built).filter((text) => text.includes('cannot be read'));
    assert.equal(warnings.length, 1);
    assert.ok(warnings[0]?.includes(broken));
  });

  test('are refused where they contradict others, and off with --cache=false', async () => {
    const context = await shop.context({ Dockerfile: 'FROM %BASE%\nRUN echo > /x\n' });
    const cases: readonly (readonly [string[], RegExp])[] = [
      [['--cache', '--cache-repo', 'oci:a', '--cache-to', 'oci:b'], /--cache-repo and --cache-to both say/],
      [['--cache-to', 'oci:b', '--no-push-cache'], /--no-push-cache that none are/],
      [['--cache-from', 'not a repository'], /not a repository/],
    ];
    for (const [args, message] of cases) {
      const { code, stderr } = await shop.build(context, [...args, '--no-push']);
      assert.equal(code, 2, stderr);
      assert.match(stderr, message);
    }
    const cache = `oci:${join(shop.directory, shop.unique('off'))}`;
    await succeed(context, ['--cache=false', '--cache-from', cache, '--cache-to', cache, '--no-push']);
    assert.ok(!existsSync(cache.slice('oci:'.length)));
    const explained = await kiln('executor', ['explain', '--context', context, '--cache-to', cache]);
    assert.equal(explained.code, 2);
    assert.match(explained.stderr, /Name what builds read with --cache-from/);
  });
});
