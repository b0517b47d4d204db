import assert from 'node:assert/strict';
import { rmSync, utimesSync, writeFileSync } from 'node:fs';
import { cp, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { busyboxLayer, writeTestLayout } from '../support/images.ts';
import { buildInProcess, type InProcessResult } from '../support/in-process.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { SeededRandom } from '../support/random.ts';
import { plant } from '../support/trees.ts';

/*
 * Random small Dockerfiles. With a source date an image is a function of what it is made from, so every way to come by it must
 * give the same bytes: with no cache, an empty one, a full one, and one that has lost some of its entries.
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

const files = ['a', 'b', 'dir/c', 'dir/d.txt', 'dir/sub/e', 'dir/sub/f.txt'];

/** A Dockerfile that can be built. */
function randomDockerfile(random: SeededRandom): string {
  const stages = 1 + random.below(3);
  const lines: string[] = ['ARG OUTER=outer'];
  for (let stage = 0; stage < stages; stage++) {
    const from = stage > 0 && random.chance(0.4) ? `stage-${random.below(stage)}` : undefined;
    const image = from ?? 'base';
    lines.push(`FROM ${image} AS stage-${stage}`, `COPY a /made-${stage}`);
    for (let count = 1 + random.below(4); count > 0; count--) lines.push(randomInstruction(random, stage));
  }
  return `${lines.join('\n')}\n`;
}

function randomInstruction(random: SeededRandom, stage: number): string {
  const name = `n${random.below(5)}`;
  const flags = [
    ...(random.chance(0.2) ? ['--chown=12:34'] : []),
    ...(random.chance(0.2) ? [`--chmod=${random.pick(['640', '+x', 'u=rwX,go=rX'])}`] : []),
    ...(random.chance(0.3) ? ['--link'] : []),
    ...(random.chance(0.2) ? [`--exclude=${random.pick(['*.txt', '**/f.txt', 'sub'])}`] : []),
  ].join(' ');
  switch (random.below(9)) {
    case 0:
      return `RUN echo ${random.below(1000)} > /${name}-ran && mkdir -p /made/${name}`;
    case 1:
      return `ENV ${name.toUpperCase()}=${random.below(100)}`;
    case 2:
      return `ARG ${name}=${random.below(100)}\nRUN echo $${name} > /arg-${name}`;
    case 3:
      return `WORKDIR ${random.pick(['/w', 'x', `/w/${name}`])}`;
    case 4:
      return `LABEL ${name}=${random.below(100)}`;
    case 5:
      return `COPY ${flags} --parents ${random.pick(['dir/**/*.txt', 'dir/./sub', 'a'])} /parents-${name}/`;
    case 6:
      return stage === 0
        ? `COPY ${flags} dir /dir-${name}`
        : `COPY ${flags} --from=stage-${random.below(stage)} /made-${random.below(1)} /from-${name}/`;
    case 7:
      return `ADD ${flags} ${random.pick(files)} ${random.pick(files)} /to-${name}/`;
    default:
      return `COPY ${flags} <<EOF /doc-${name}\n${random.below(100)} $OUTER\nEOF`;
  }
}

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
    const dockerfile = randomDockerfile(random);
    const place = join(directory, `round-${rounds}`);
    const contextDirectory = join(place, 'context');
    plant(contextDirectory, Object.fromEntries(files.map((path) => [path, `${path} ${random.below(1000)}`])));
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
    const [none, empty] = [await build('none', false), await build('empty', true)];
    assert.equal(empty.digest, none.digest, `an empty cache changes nothing, ${why}`);
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
