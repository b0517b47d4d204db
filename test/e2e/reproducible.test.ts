import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { inspectConfig, inspectManifest, unpackWithOtherTools } from '../support/check-image.ts';
import { type Ended, type RunOptions, stepsThat } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

const epoch = 1_600_000_000;
const epochText = '2020-09-13T12:26:40.000Z';

/** Every kind of step, two stages that are built at the same time, and what an upper directory of overlayfs can hold. */
const dockerfile = [
  'FROM %BASE% AS one',
  'RUN for i in 9 3 7 1 5; do mkdir -p /made/$i; echo $i > /made/$i/file; done; sleep 0.05; touch /made/late',
  'RUN ln /made/1/file /made/hard; ln -s late /made/soft; rm -r /made/9; chmod 700 /made/3; touch -d "2001-02-03 04:05:06" /made/old',
  'FROM %BASE% AS two',
  'ARG SOURCE_DATE_EPOCH',
  'RUN echo "date $SOURCE_DATE_EPOCH" > /date; rm /bin/wget; touch /etc',
  'FROM %BASE%',
  'COPY files /files/',
  'WORKDIR /work/below',
  'COPY --from=one /made /made/',
  'COPY --from=two --chown=1:2 /date .',
  'COPY <<end text',
  'inline',
  'end',
  'RUN echo end >> text',
  'LABEL a=b',
].join('\n');

/** A step of each source of times: the context and the clock. */
const small = 'FROM %BASE%\nCOPY files /files/\nRUN touch /ran\n';

describe('with a source date, an image', () => {
  let workshop: Workshop;
  let shared: string;
  before(async () => {
    workshop = await openWorkshop();
    // There a directory is read in the order in which its files were made.
    shared = mkdtempSync('/dev/shm/kiln-test-');
  });
  after(async () => {
    rmSync(shared, { recursive: true });
    await workshop[Symbol.asyncDispose]();
  });

  /** A context with these files, made in this order. */
  const context = async (names: readonly string[], text = dockerfile): Promise<string> => {
    const directory = join(shared, workshop.unique('context'));
    await mkdir(join(directory, 'files/deep'), { recursive: true });
    for (const name of names) writeFileSync(join(directory, 'files', name), `content of ${name}\n`);
    writeFileSync(join(directory, 'Dockerfile'), text.replaceAll('%BASE%', workshop.base));
    return directory;
  };
  const names = ['z', 'a', 'm', 'deep/y', 'deep/b', 'k'];

  interface Built {
    readonly image: string;
    readonly digest: string;
    readonly ended: Ended;
  }
  const build = async (
    directory: string,
    args: readonly string[] = [],
    options: RunOptions = { env: { SOURCE_DATE_EPOCH: String(epoch) } },
  ): Promise<Built> => {
    const image = `${workshop.registry.host}/${workshop.unique('image')}:1`;
    const ended = await workshop.build(directory, ['--destination', image, ...args], options);
    assert.equal(ended.code, 0, ended.stderr);
    const digest = execFileSync(
      'skopeo',
      ['inspect', '--tls-verify=false', '--format', '{{.Digest}}', `docker://${image}`],
      { encoding: 'utf8' },
    ).trim();
    return { image, digest, ended };
  };
  const cacheIn = (name: string): string[] => ['--cache', '--cache-repo', `oci:${join(shared, name)}`];

  test('is the same another time, from another directory, on another volume and in another order', async () => {
    const first = await build(await context(names));
    await setTimeout(1100);
    const volume = join(workshop.directory, workshop.unique('volume'));
    const second = await build(await context([...names].reverse()), ['--cache-dir', volume]);
    assert.equal(stepsThat('ran', second.ended).length, stepsThat('ran', first.ended).length);
    assert.deepEqual(inspectManifest(second.image), inspectManifest(first.image));
    assert.equal(second.digest, first.digest);
  });

  test('is the same whichever of its layers come from the cache', async () => {
    const cache = cacheIn(workshop.unique('cache'));
    const directory = await context(names);
    const cold = await build(directory, cache);
    await setTimeout(1100);
    const warm = await build(directory, cache);
    assert.deepEqual(stepsThat('ran', warm.ended), []);
    assert.equal(warm.digest, cold.digest);
    const partly = await build(directory, [...cache, '--cache-run-layers=false']);
    assert.ok(stepsThat('ran', partly.ended).length > 0 && stepsThat('cached', partly.ended).length > 0);
    assert.equal(partly.digest, cold.digest);
  });

  test('has the date in its documents and in no file a later one, and leaves its base as it is', async () => {
    const { image } = await build(await context(names));
    const config = inspectConfig(image);
    const base = inspectConfig(workshop.base);
    assert.equal(config.created, epochText);
    for (const entry of config.history.slice(base.history.length)) assert.equal(entry.created, epochText);
    assert.deepEqual(config.history.slice(0, base.history.length), base.history);
    assert.deepEqual(inspectManifest(image).layers[0], inspectManifest(workshop.base).layers[0]);
    const root = join(unpackWithOtherTools(workshop.directory, image), 'rootfs');
    const time = (path: string): number => statSync(join(root, path)).mtimeMs / 1000;
    for (const path of ['files/a', 'files/deep', 'made/late', 'made/hard', 'work/below', 'work/below/text'])
      assert.equal(time(path), epoch, path);
    assert.equal(time('made/old'), Date.parse('2001-02-03T04:05:06Z') / 1000, 'what is older stays so');
    assert.equal(
      execFileSync('cat', [join(root, 'work/below/date')], { encoding: 'utf8' }),
      `date ${epoch}\n`,
      'a step sees it where it is declared',
    );
  });

  test('is not made of layers of another date, nor of none', async () => {
    const cache = cacheIn(workshop.unique('cache'));
    const directory = await context(names, small);
    const plain = await build(directory, cache, {});
    const dated = await build(directory, cache);
    assert.deepEqual(stepsThat('cached', dated.ended), []);
    const other = await build(directory, cache, { env: { SOURCE_DATE_EPOCH: String(epoch + 1) } });
    assert.deepEqual(stepsThat('cached', other.ended), []);
    const again = await build(directory, cache, {});
    assert.deepEqual(stepsThat('ran', again.ended), []);
    assert.equal(again.digest, plain.digest);
    assert.equal(new Set([plain, dated, other].map(({ digest }) => digest)).size, 3);
  });

  test('has the date of --build-arg before that of the environment, and 1970 with --reproducible alone', async () => {
    const directory = await context(['a'], small);
    const created = (built: Built): unknown => inspectConfig(built.image).created;
    const argument = await build(directory, ['--build-arg', `SOURCE_DATE_EPOCH=${epoch}`], {
      env: { SOURCE_DATE_EPOCH: '7' },
    });
    assert.equal(created(argument), epochText);
    assert.equal(created(await build(directory, ['--reproducible'])), epochText);
    const without = await build(directory, ['--reproducible'], {});
    assert.equal(created(without), '1970-01-01T00:00:00.000Z');
    assert.notEqual(created(await build(directory, ['--reproducible=false'])), epochText);
    assert.notEqual(created(await build(directory, [], { env: { SOURCE_DATE_EPOCH: '' } })), epochText);
    const root = join(unpackWithOtherTools(workshop.directory, without.image), 'rootfs');
    for (const path of ['files/a', 'ran']) assert.equal(statSync(join(root, path)).mtimeMs, 0, path);
  });

  test('is the same for a context that was checked out at another time', async () => {
    const [one, two] = [await context(names, small), await context(names, small)];
    utimesSync(join(two, 'files/a'), epoch + 500, epoch + 500);
    assert.equal((await build(two)).digest, (await build(one)).digest);
  });

  test('is warned of when its date is still to come', async () => {
    const directory = await workshop.context({ Dockerfile: 'FROM %BASE%\nLABEL a=b\n' });
    const future = String(Math.ceil(Date.now() / 1000) + 3600);
    const { ended } = await build(directory, [], { env: { SOURCE_DATE_EPOCH: future } });
    assert.match(ended.stderr, /SOURCE_DATE_EPOCH is in the future/);
  });

  for (const wrong of ['yesterday', '-1', '1.5', '999999999999'])
    test(`is not built when the date is "${wrong}"`, async () => {
      const directory = await workshop.context({ Dockerfile: 'FROM %BASE%\n' });
      const ended = await workshop.build(directory, ['--no-push'], { env: { SOURCE_DATE_EPOCH: wrong } });
      assert.equal(ended.code, 2);
      assert.match(ended.stderr, /SOURCE_DATE_EPOCH ".*" is not a time/);
      assert.match(ended.stderr, /git log -1 --format=%ct/);
    });
});
