import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type CacheKey, keyTag, openLayerCache } from '../../src/layercache/index.ts';
import { mediaTypes, parseReference } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { storeChain } from '../support/cache-chains.ts';
import { type Ended, kiln, stepsThat } from '../support/programs.ts';
import { startRegistry } from '../support/registry.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

interface Listing {
  readonly entries: readonly {
    readonly key: CacheKey;
    readonly instruction: string;
    readonly line: string;
    readonly size: number;
    readonly state: string;
    readonly base: { readonly name: string };
    readonly lastHit: string | null;
    readonly digest: string;
  }[];
  readonly damaged: readonly { readonly tag: string }[];
}

const now = ['--force', '--grace-period', '0s'];

describe('warmer remote', () => {
  let shop: Workshop;
  before(async () => {
    shop = await openWorkshop();
  });
  after(() => shop[Symbol.asyncDispose]());

  const remote = (command: string, cache: string, ...args: readonly string[]): Promise<Ended> =>
    kiln('warmer', ['remote', command, '--cache-repo', cache, ...args]);
  async function list(cache: string): Promise<Listing> {
    const { code, stdout, stderr } = await remote('ls', cache, '-o', 'json');
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout) as Listing;
  }

  async function versions(cache: string): Promise<readonly [string, string]> {
    const dockerfile = [
      'FROM %BASE% AS build',
      'ARG TOKEN',
      'WORKDIR /src',
      'COPY version .',
      'RUN cp version /out',
      'FROM %BASE%',
      'RUN echo base > /base',
      'COPY --from=build /out /app/',
      'RUN cat /app/out',
    ].join('\n');
    const contexts = [];
    for (const version of ['1', '2']) {
      const context = await shop.context({ Dockerfile: dockerfile, version });
      const args = [
        '--cache',
        '--cache-repo',
        cache,
        '--destination',
        `${shop.registry.host}/app:${version}`,
      ];
      const built = await shop.build(context, [...args, '--build-arg', 'TOKEN=hunter2']);
      assert.equal(built.code, 0, built.stderr);
      contexts.push(context);
    }
    return contexts as unknown as readonly [string, string];
  }

  const build = (cache: string, context: string): Promise<Ended> =>
    shop.build(context, ['--cache', '--cache-repo', cache, '--no-push', '--build-arg', 'TOKEN=hunter2']);

  async function showsEntries(cache: string, entries: Listing['entries']): Promise<void> {
    const table = (await remote('ls', cache)).stdout;
    assert.match(table, new RegExp(`^${shop.base.replaceAll('.', '\\.')} \\(linux/`, 'm'));
    assert.match(table, /RUN cp version \/out/);
    const usage = JSON.parse((await remote('du', cache, '-o', 'json')).stdout) as Record<string, number>;
    assert.equal(usage.entries, entries.length);
    assert.ok((usage.savedBySharing ?? 0) > 0, 'a layer under two keys counts once');
    const copy = entries.find(({ instruction }) => instruction === 'COPY version .');
    const shown = await remote('inspect', cache, copy?.key.slice(0, 10) ?? '', '-o', 'json');
    assert.deepEqual(Object.keys((JSON.parse(shown.stdout) as { files: object }).files), ['version']);
    assert.match((await remote('inspect', cache, copy?.key ?? '')).stdout, /below .*WORKDIR \/src/);

    const dry = await remote('prune', cache, '--keep-last', '1', '--dry-run', '--grace-period', '0s');
    assert.match(dry.stdout, /Would remove 5 of \d+ entries/);
    assert.equal((await list(cache)).entries.length, entries.length, 'a dry run changes nothing');
  }

  for (const place of ['a registry', 'an OCI layout'])
    test(`lists, counts, explains and prunes what builds stored in ${place}`, async () => {
      const name = shop.unique('cache');
      const cache =
        place === 'a registry' ? `${shop.registry.host}/${name}` : `oci:${join(shop.directory, name)}`;
      const [first, second] = await versions(cache);

      const { entries } = await list(cache);
      const copies = entries.filter(({ instruction }) => instruction === 'COPY --from=build /out /app/');
      assert.equal(copies.length, 4, 'both versions, each under its own key and by content');
      assert.ok(entries.every(({ line }) => line.startsWith(`${shop.registry.host}/app Dockerfile`)));
      assert.ok(entries.every(({ base, state }) => base.name === shop.base && state === 'sound'));
      assert.ok(entries.some(({ instruction }) => instruction === 'WORKDIR /src'));
      assert.doesNotMatch(JSON.stringify(entries), /hunter2/, 'values of ARG are nowhere');

      if (place === 'a registry') await showsEntries(cache, entries);

      const pruned = await remote('prune', cache, '--keep-last', '1', ...now);
      assert.equal(pruned.code, 0, pruned.stderr);
      const left = (await list(cache)).entries;
      assert.equal(left.length, entries.length - 5, pruned.stdout);
      assert.deepEqual(stepsThat('ran', await build(cache, second)), [], 'the newest still hits throughout');
      if (place !== 'a registry') return;
      const again = await build(cache, first);
      assert.equal(again.code, 0, again.stderr);
      assert.equal(stepsThat('ran', again).length, 4, 'of the older one, what was its own runs');
    });

  test('without DELETE says so, what to do, and deletes nothing', async () => {
    await using registry = await startRegistry({ deletes: false });
    await using client = new RegistryClient();
    const cache = `${registry.host}/cache`;
    await storeChain(openLayerCache(cache, client, 'test'), {
      steps: [
        { run: 'a', hoursAgo: 5 },
        { run: 'b', hoursAgo: 5 },
      ],
    });
    const { code, stderr } = await remote('prune', cache, '--all', '--force');
    assert.equal(code, 4);
    assert.match(stderr, /does not delete; nothing was deleted \[E_DELETE_UNSUPPORTED\]/);
    assert.match(stderr, /remedy: Allow it/);
    assert.equal((await list(cache)).entries.length, 2);
    const dry = await remote('prune', cache, '--all', '--dry-run');
    assert.equal(dry.code, 0, 'a dry run needs no right to delete');
  });

  test('takes no tag along that shares a manifest with what goes', async () => {
    await using client = new RegistryClient();
    const name = shop.unique('shared');
    const cache = `${shop.registry.host}/${name}`;
    const [key] = await storeChain(openLayerCache(cache, client, 'test'), {
      steps: [{ run: 'a', hoursAgo: 5 }],
    });
    assert.ok(key !== undefined);
    const repository = client.repository(parseReference(cache));
    const manifest = await repository.getManifest(keyTag(key));
    assert.ok(manifest !== undefined);
    await repository.putManifest('keep-me', mediaTypes.ociManifest, manifest.bytes);
    const stray = keyTag('0'.repeat(64) as CacheKey);
    await repository.putManifest(stray, mediaTypes.ociManifest, manifest.bytes);

    assert.deepEqual(
      (await list(cache)).damaged.map(({ tag }) => tag),
      [stray],
      'it was made for another key',
    );
    const damaged = await remote('prune', cache, '--unreachable', '--force');
    assert.equal(damaged.code, 3, 'this registry cannot delete one tag alone');
    assert.match(damaged.stdout, /Left: k1-0+, whose manifest has other tags/);
    const { code } = await remote('prune', cache, '--all', '--force');
    assert.equal(code, 3);
    assert.ok((await repository.headManifest('keep-me')) !== undefined, 'the tag of somebody else is there');
    assert.equal((await list(cache)).entries.length, 1);
  });

  test("frees what it said once the registry's collector has run", async () => {
    await using registry = await startRegistry();
    await using client = new RegistryClient();
    const cache = `${registry.host}/cache`;
    const layers = openLayerCache(cache, client, 'test');
    const big = (seed: string): string => seed.repeat(20_000);
    await storeChain(layers, {
      line: 'a',
      steps: [
        { run: 'x', result: big('x'), hoursAgo: 5 },
        { run: 'old', result: big('o'), hoursAgo: 5 },
      ],
    });
    await storeChain(layers, {
      line: 'a',
      steps: [
        { run: 'x', result: big('x'), hoursAgo: 5 },
        { run: 'new', result: big('n'), hoursAgo: 4 },
      ],
    });
    const size = (): number =>
      Number(
        execFileSync('du', ['-sb', join(registry.storage, 'docker/registry/v2/blobs')], {
          encoding: 'utf8',
        }).split('\t')[0],
      );
    const pruned = await remote('prune', cache, '--keep-last', '1', '--force', '-o', 'json');
    assert.equal(pruned.code, 0, pruned.stderr);
    const { reclaimableBytes, freedBy } = JSON.parse(pruned.stdout) as {
      reclaimableBytes: number;
      freedBy: string;
    };
    assert.equal(freedBy, 'registry');
    const before = size();
    execFileSync('docker-registry', ['garbage-collect', registry.configuration], { stdio: 'ignore' });
    // Directories that the collector empties have a size too.
    const freed = before - size();
    assert.ok(
      freed >= reclaimableBytes && freed < reclaimableBytes + 64 * 1024,
      `${freed} of ${reclaimableBytes}`,
    );
    assert.ok(
      reclaimableBytes > 20_000 && reclaimableBytes < 30_000,
      'what is shared with what stays is not counted',
    );
  });

  test('says what is missing, and asks before it deletes', async () => {
    assert.match((await kiln('warmer', ['remote', 'ls'])).stderr, /no layer cache is named/);
    const cache = `${shop.registry.host}/nothing-here`;
    assert.match((await remote('prune', cache, '--all')).stderr, /E_FORCE_REQUIRED/);
    assert.match((await remote('prune', cache, '--force')).stderr, /E_POLICY_EMPTY/);
    const nowhere = `oci:${join(shop.directory, 'nowhere')}`;
    assert.match((await remote('ls', nowhere)).stderr, /E_VOLUME_NOT_FOUND/);
    assert.ok(!existsSync(join(shop.directory, 'nowhere')), 'nothing is made by looking');
    assert.match((await remote('inspect', cache, 'abcd')).stderr, /E_ENTRY_NOT_FOUND/);
  });
});
