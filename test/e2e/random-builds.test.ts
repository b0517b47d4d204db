import assert from 'node:assert/strict';
import { rmSync, utimesSync, writeFileSync } from 'node:fs';
import { cp, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { busyboxLayer, writeTestLayout } from '../support/images.ts';
import { buildInProcess, type InProcessResult } from '../support/in-process.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { SeededRandom } from '../support/random.ts';
import { randomContext, randomDockerfile } from '../support/random-dockerfile.ts';
import { plant } from '../support/trees.ts';

/*
 * Random small Dockerfiles. With a source date an image is a function of what it is made from, so every way to come by it must
 * give the same bytes: with no cache, an empty one, a full one, and one that has lost some of its entries, alone and beside another
 * build. e2e/isolation-parity.test.ts builds such Dockerfiles in every way that steps can run.
 */

let directory = '';
let base = '';
let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
before(async () => {
  scratch = await temporaryDirectory();
  directory = scratch.path;
  const layers = [await busyboxLayer(directory)];
  base = await writeTestLayout(join(directory, 'base'), 'base', { layers });
});
after(() => scratch[Symbol.asyncDispose]());

/** Seconds of building; `KILN_FUZZ_SECONDS` for more. */
const seconds = Number(process.env.KILN_FUZZ_SECONDS ?? 10);

function outcomes({ events }: InProcessResult): string[] {
  return events.flatMap((event) => (event.type === 'step-end' ? [event.outcome] : []));
}

/** Takes about half of the entries out of a cache that is a layout. */
async function loseEntries(random: SeededRandom, cache: string): Promise<void> {
  const file = join(cache, 'index.json');
  const index = JSON.parse(await readFile(file, 'utf8')) as { manifests: unknown[] };
  index.manifests = index.manifests.filter(() => random.chance(0.5));
  await writeFile(file, JSON.stringify(index));
}

test('a build gives the same image however full its cache is', async (context) => {
  const seed = Number(process.env.KILN_TEST_SEED ?? Date.now() % 1_000_000);
  context.diagnostic(`seed ${seed}`);
  const started = performance.now();
  let rounds = 0;
  for (; rounds < 2 || performance.now() - started < seconds * 1000; rounds++) {
    const random = new SeededRandom(seed + rounds);
    const dockerfile = randomDockerfile(random, 'base');
    const place = join(directory, `round-${rounds}`);
    const contextDirectory = join(place, 'context');
    plant(contextDirectory, randomContext(random));
    const [volume, cache] = [join(directory, 'volume'), join(place, 'cache')];
    const build = (name: string, cached: boolean): Promise<InProcessResult> =>
      buildInProcess({
        ...{
          dockerfile,
          volume,
          context: contextDirectory,
          place: join(place, name),
          sourceDate: 1_700_000_000,
        },
        contexts: [`base=oci-layout://${base}:base`],
        cache: cached ? `oci:${cache}` : undefined,
      });
    const why = `seed ${seed + rounds}:\n${dockerfile}`;
    // Beside each other, on one volume and one cache.
    const [none, empty, beside] = await Promise.all([
      build('none', false),
      build('empty', true),
      build('beside', true),
    ]);
    assert.equal(empty.digest, none.digest, `an empty cache changes nothing, ${why}`);
    assert.equal(beside.digest, none.digest, `a build beside it changes nothing, ${why}`);
    // Times do not count in keys; those after the source date not in layers either.
    utimesSync(join(contextDirectory, 'a'), 1_800_000_000, 1_800_000_000);
    const full = await build('full', true);
    assert.deepEqual([...new Set(outcomes(full))], ['cached'], `all is taken from the cache, ${why}`);
    assert.equal(full.digest, none.digest, `a full cache changes nothing, ${why}`);
    await cp(cache, join(place, 'kept'), { recursive: true });
    await loseEntries(random, cache);
    const partly = await build('partly', true);
    assert.equal(partly.digest, none.digest, `a cache that lost entries changes nothing, ${why}`);
    writeFileSync(join(contextDirectory, 'a'), 'changed');
    const changed = await build('changed', true);
    assert.notEqual(changed.digest, none.digest, `another file gives another image, ${why}`);
    assert.ok(outcomes(changed).includes('ran'), why);
    rmSync(place, { recursive: true });
  }
  context.diagnostic(`${rounds} rounds`);
  assert.deepEqual(
    (await readdir(directory)).filter((name) => name.startsWith('round-')),
    [],
  );
});
