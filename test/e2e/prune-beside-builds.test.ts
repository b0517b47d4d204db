import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openEntryStore, planEntryPrune, pruneEntries, readInventory } from '../../src/layercache/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { compilePrograms } from '../support/compiled.ts';
import { stepsThat } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

/** All at the same time. */
const builds = 20;
/** Different images that they make: each is made by several of them. */
const images = 4;

describe('a prune beside running builds', () => {
  let shop: Workshop;
  before(async () => {
    shop = await openWorkshop();
  });
  after(() => shop[Symbol.asyncDispose]());

  test('that takes all it can, again and again, without any time of grace, breaks none of twenty', async (t) => {
    await using client = new RegistryClient();
    const cache = `${shop.registry.host}/${shop.unique('cache')}`;
    const context = await shop.context({
      Dockerfile: [
        'FROM %BASE% AS build',
        'RUN echo shared > /shared',
        'ARG N',
        'COPY file /file',
        'RUN echo $N > /n',
        'FROM %BASE%',
        'RUN echo tools > /tools',
        'COPY --from=build /n /shared /file /made/',
        'ARG N',
        'RUN test "$(cat /made/n)" = "$N" && test "$(cat /made/shared /made/file /tools | tr -d "\\n")" = sharedfiletools',
      ].join('\n'),
      file: 'file',
    });
    const compiled = await compilePrograms(join(shop.directory, 'programs'));
    let hits = 0;
    const build = async (number: number): Promise<void> => {
      const args = [
        '--cache',
        '--cache-repo',
        cache,
        '--destination',
        `${shop.registry.host}/app${number}:1`,
      ];
      const built = await shop.build(context, [...args, '--build-arg', `N=${number % images}`], { compiled });
      assert.equal(built.code, 0, built.stderr);
      hits += stepsThat('cached', built).length;
    };
    const several = (count: number): Promise<unknown> =>
      Promise.all(Array.from({ length: count }, (_, number) => build(number)));
    // So that there is something to be hit, and to be pruned, from the beginning.
    await several(images);
    hits = 0;
    let running = true;
    let removed = 0;
    const pruning = (async () => {
      const store = openEntryStore(cache, client);
      while (running) {
        const inventory = await readInventory(store);
        const plan = planEntryPrune(inventory, { all: true, graceSeconds: 0 });
        const result = await pruneEntries(store, inventory, plan, { graceSeconds: 0 });
        removed += result.removed.length;
        assert.deepEqual(result.shared, []);
        await sleep(20);
      }
    })();
    try {
      await several(builds);
    } finally {
      running = false;
      await pruning;
    }
    assert.ok(removed > 0, 'there was something to prune while they ran');
    t.diagnostic(`${removed} entries were pruned, ${hits} steps hit`);
    for (const number of [0, 7, 19]) {
      const repository = client.repository({ registry: shop.registry.host, repository: `app${number}` });
      assert.ok((await repository.headManifest('1')) !== undefined, 'the image is there');
    }
  });
});
