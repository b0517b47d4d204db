import assert from 'node:assert/strict';
import { chmod, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { explainStages } from '../../executor/explain/explain.ts';
import { explanationDocument, explanationText } from '../../executor/explain/report.ts';
import { noCacheRules } from '../../executor/plan.ts';
import {
  EntryForest,
  keyTag,
  openEntryStore,
  openLayerCache,
  readInventory,
} from '../../src/layercache/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { Progress } from '../../src/support/index.ts';
import { pushTestImage, randomLayer } from '../support/images.ts';
import { type PlanSetting, planOf } from '../support/plan.ts';
import { temporaryDirectory, writeFiles } from '../support/programs.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';
import { storePlan } from '../support/stored-plan.ts';

interface Version extends PlanSetting {
  readonly dockerfile?: string;
  readonly files?: Readonly<Record<string, string>>;
  /** Done to the context after its files are written. */
  readonly alter?: (context: string) => Promise<unknown>;
}

interface Change {
  /** What the user did. */
  readonly change: string;
  readonly before: Version;
  readonly after: Version;
  /** The step that is asked about, by its beginning (default: the first that is no hit), and what is said of it. */
  readonly step?: string;
  readonly outcome?: string;
  readonly says: string;
  readonly hoursAgo?: number;
  readonly results?: string;
}

const files = { 'src/a.ts': 'a', 'src/b.ts': 'b', 'package.json': '{}' };
const node = (version: string): string => `FROM scratch\nENV NODE_VERSION=${version}\nRUN ["install"]`;
const run = (command: string): string => `FROM scratch\nRUN ${command}`;
const copy = (line: string): string => `FROM scratch\n${line}`;
const copied = copy('COPY src /src');
const arg = 'FROM scratch\nARG VERSION=1\nRUN ["build"]';
const twoStages = (command: string): string =>
  `FROM scratch AS build\nRUN ["${command}"]\nFROM scratch\nCOPY --from=build /out /out`;

/** Each is one thing that a user may change between two builds, and what the second is told. */
const changes: readonly Change[] = [
  {
    change: 'nothing',
    before: { dockerfile: node('1') },
    after: { dockerfile: node('1') },
    step: 'RUN',
    outcome: 'hit',
    says: '',
  },
  {
    change: 'the value of an ENV',
    before: { dockerfile: node('1') },
    after: { dockerfile: node('2') },
    says: 'ENV NODE_VERSION changed',
  },
  {
    change: 'an ENV more',
    before: { dockerfile: run('["x"]') },
    after: { dockerfile: 'FROM scratch\nENV A=1\nRUN ["x"]' },
    says: 'ENV A is new',
  },
  {
    change: 'an ENV less',
    before: { dockerfile: 'FROM scratch\nENV A=1\nRUN ["x"]' },
    after: { dockerfile: run('["x"]') },
    says: 'A is no longer set',
  },
  {
    change: 'a build argument',
    before: { dockerfile: arg },
    after: { dockerfile: arg, arguments: { VERSION: '2' } },
    says: 'ARG VERSION changed',
  },
  {
    change: 'the default of an ARG',
    before: { dockerfile: arg },
    after: { dockerfile: arg.replace('=1', '=3') },
    says: 'ARG VERSION changed',
  },
  {
    change: 'a command',
    before: { dockerfile: run('make all') },
    after: { dockerfile: run('make test') },
    says: 'the command changed, it was: RUN make all',
  },
  {
    change: 'the text of a here-document',
    before: { dockerfile: run('<<E\nmake\nE') },
    after: { dockerfile: run('<<E\nmake -j\nE') },
    says: 'the here-document changed',
  },
  {
    change: 'SHELL',
    before: { dockerfile: run('make') },
    after: { dockerfile: 'FROM scratch\nSHELL ["/bin/bash", "-c"]\nRUN make' },
    says: 'SHELL changed from /bin/sh -c to /bin/bash -c',
  },
  {
    change: 'USER',
    before: { dockerfile: run('["x"]') },
    after: { dockerfile: 'FROM scratch\nUSER app\nRUN ["x"]' },
    says: 'USER changed from root to app',
  },
  {
    change: 'the working directory',
    before: { dockerfile: 'FROM scratch\nWORKDIR /a\nRUN ["x"]' },
    after: { dockerfile: 'FROM scratch\nWORKDIR /b\nRUN ["x"]' },
    says: 'the directory changed from /a to /b',
  },
  {
    change: 'the working directory, two steps on',
    before: { dockerfile: 'FROM scratch\nWORKDIR /a\nRUN ["x"]' },
    after: { dockerfile: 'FROM scratch\nWORKDIR /b\nRUN ["x"]' },
    step: 'RUN',
    says: 'the working directory changed from /a to /b',
  },
  {
    change: 'a file',
    before: { dockerfile: copied },
    after: { dockerfile: copied, files: { ...files, 'src/a.ts': 'A' } },
    says: 'file src/a.ts changed',
  },
  {
    change: 'a file more',
    before: { dockerfile: copied },
    after: { dockerfile: copied, files: { ...files, 'src/c.ts': 'c' } },
    says: 'file src/c.ts is new',
  },
  {
    change: 'a file less',
    before: { dockerfile: copied },
    after: { dockerfile: copied, alter: (context) => rm(join(context, 'src/b.ts')) },
    says: 'file src/b.ts is gone',
  },
  {
    change: 'the mode of a file',
    before: { dockerfile: copied },
    after: { dockerfile: copied, alter: (context) => chmod(join(context, 'src/a.ts'), 0o755) },
    says: 'file src/a.ts changed',
  },
  {
    change: 'where a link leads',
    before: { dockerfile: copied, alter: (context) => symlink('a.ts', join(context, 'src/link')) },
    after: { dockerfile: copied, alter: (context) => symlink('b.ts', join(context, 'src/link')) },
    says: 'file src/link changed',
  },
  {
    change: 'five files',
    before: { dockerfile: copied },
    after: {
      dockerfile: copied,
      alter: (context) => Promise.all([1, 2, 3, 4, 5].map((n) => writeFile(join(context, `src/n${n}`), ''))),
    },
    says: '2 more files changed',
  },
  {
    change: '.dockerignore',
    before: { dockerfile: copy('COPY . /') },
    after: { dockerfile: copy('COPY . /'), files: { ...files, '.dockerignore': 'src/b.ts\n.dockerignore' } },
    says: 'file src/b.ts is gone',
  },
  {
    change: 'the destination of a copy',
    before: { dockerfile: copied },
    after: { dockerfile: copy('COPY src /app') },
    says: 'the destination changed from /src to /app',
  },
  {
    change: '--chown',
    before: { dockerfile: copied },
    after: { dockerfile: copy('COPY --chown=1:1 src /src') },
    says: '--chown is new: 1:1',
  },
  {
    change: '--chmod',
    before: { dockerfile: copy('COPY --chmod=644 src /src') },
    after: { dockerfile: copy('COPY --chmod=755 src /src') },
    says: '--chmod changed from 644 to 755',
  },
  {
    change: 'COPY to ADD',
    before: { dockerfile: copied },
    after: { dockerfile: copy('ADD src /src') },
    says: 'COPY became ADD, which unpacks archives',
  },
  {
    change: 'a here-document that is copied',
    before: { dockerfile: copy('COPY <<conf /etc/\na=1\nconf') },
    after: { dockerfile: copy('COPY <<conf /etc/\na=2\nconf') },
    says: 'the here-document conf changed',
  },
  {
    change: 'a step before it',
    before: { dockerfile: 'FROM scratch\nRUN ["a"]\nRUN ["z"]' },
    after: { dockerfile: 'FROM scratch\nRUN ["b"]\nRUN ["z"]' },
    step: 'RUN ["z"]',
    says: '[stage-0 1/2] RUN changed',
  },
  {
    change: 'a step put between two',
    before: { dockerfile: 'FROM scratch\nRUN ["a"]\nRUN ["z"]' },
    after: { dockerfile: 'FROM scratch\nRUN ["a"]\nRUN install curl\nRUN ["z"]' },
    says: 'nothing like it is in the cache: the instruction is new',
  },
  {
    change: 'the stage that is copied from',
    before: { dockerfile: twoStages('a') },
    after: { dockerfile: twoStages('b') },
    step: 'COPY',
    says: 'stage build changed',
  },
  {
    change: 'what is copied from a stage',
    before: { dockerfile: twoStages('a') },
    after: { dockerfile: twoStages('a').replace('/out /out', '/bin /out') },
    step: 'COPY',
    says: 'the sources changed from /out to /bin',
  },
  {
    change: 'the content of the base',
    before: { dockerfile: 'FROM %HOST%/moving:1\nRUN ["x"]' },
    after: { dockerfile: 'FROM %HOST%/moved:1\nRUN ["x"]' },
    says: 'the base is now %HOST%/moved:1, it was %HOST%/moving:1',
  },
  {
    change: 'time, beyond --cache-ttl',
    before: { dockerfile: node('1') },
    after: { dockerfile: node('1') },
    hoursAgo: 339,
    outcome: 'expired',
    says: 'expired 3 hours ago',
  },
  {
    change: 'time, beyond a ttl of the step',
    before: { dockerfile: run('["x"]') },
    after: { dockerfile: 'FROM scratch\n# kiln: ttl=24h\nRUN ["x"]' },
    hoursAgo: 26,
    outcome: 'expired',
    says: 'expired 2 hours ago',
  },
  {
    change: '--no-cache',
    before: { dockerfile: node('1') },
    after: { dockerfile: node('1'), rules: { noCache: true } },
    outcome: 'not-asked',
    says: '--no-cache',
  },
  {
    change: '--no-cache-filter',
    before: { dockerfile: twoStages('a') },
    after: { dockerfile: twoStages('a'), rules: { noCacheStages: ['build'] } },
    outcome: 'not-asked',
    says: '--no-cache-filter build',
  },
  {
    change: 'a comment directive',
    before: { dockerfile: run('["x"]') },
    after: { dockerfile: 'FROM scratch\n# kiln: no-cache\nRUN ["x"]' },
    outcome: 'not-asked',
    says: '# kiln: no-cache',
  },
  {
    change: 'an ARG that is ignored',
    before: { dockerfile: arg, rules: { ignoredArguments: new Set(['VERSION']) } },
    after: {
      dockerfile: arg,
      arguments: { VERSION: '2' },
      rules: { ignoredArguments: new Set(['VERSION']) },
    },
    step: 'RUN',
    outcome: 'hit',
    says: '',
  },
];

describe('executor explain', () => {
  let registry: TestRegistry;
  let scratch: AsyncDisposable & { readonly path: string };
  let client: RegistryClient;
  before(async () => {
    registry = await startRegistry();
    scratch = await temporaryDirectory();
    client = new RegistryClient();
    for (const name of ['moving', 'moved', 'same'])
      await pushTestImage(join(scratch.path, name), `${registry.host}/${name}:1`, {
        layers: [await randomLayer(scratch.path, name)],
      });
  });
  after(async () => {
    await client[Symbol.asyncDispose]();
    await scratch[Symbol.asyncDispose]();
    await registry[Symbol.asyncDispose]();
  });

  let contexts = 0;
  async function planned(version: Version): ReturnType<typeof planOf> {
    const context = await writeFiles(join(scratch.path, `context-${++contexts}`), version.files ?? files);
    await version.alter?.(context);
    const dockerfile = (version.dockerfile ?? '').replaceAll('%HOST%', registry.host);
    return planOf(dockerfile, context, version);
  }
  const location = (): string => `oci:${join(scratch.path, `cache-${++contexts}`)}`;
  async function explained(
    at: string | readonly string[],
    version: Version,
  ): ReturnType<typeof explainStages> {
    const rules = { ...noCacheRules, ...version.rules };
    const cache = {
      sources: [at].flat(),
      target: undefined,
      onVolume: false,
      maxAgeSeconds: 336 * 3600,
      signKey: undefined,
      verifyKeys: [],
      rules,
      runLayers: true,
      copyLayers: true,
    };
    return explainStages(await planned(version), cache, client, new Progress(), new AbortController().signal);
  }

  test('is asked about thirty kinds of change and more', () => {
    assert.ok(changes.length >= 30);
  });

  for (const { change, before, after, step, outcome = 'miss', says, hoursAgo } of changes)
    test(`says of ${change}: ${says || 'a hit'}`, async () => {
      const at = location();
      await storePlan(
        openLayerCache(at, client, 'test'),
        await planned(before),
        hoursAgo === undefined ? {} : { hoursAgo },
      );
      const steps = (await explained(at, after)).flatMap((stage) => stage.steps);
      const found = steps.find((one) =>
        step === undefined ? one.outcome !== 'hit' : one.step.written.startsWith(step),
      );
      assert.equal(
        found?.outcome,
        outcome,
        JSON.stringify(steps.map((one) => [one.step.written, one.outcome, one.reasons])),
      );
      const words = says.replaceAll('%HOST%', registry.host);
      if (words === '') assert.deepEqual(found.reasons, []);
      else
        assert.ok(
          found.reasons.some((reason) => reason.startsWith(words)),
          found.reasons.join('; '),
        );
    });

  test('says that a base of the same name has other content', async () => {
    const at = location();
    const version = { dockerfile: 'FROM %HOST%/same:1\nRUN ["x"]' };
    await storePlan(openLayerCache(at, client, 'test'), await planned(version));
    await pushTestImage(join(scratch.path, 'again'), `${registry.host}/same:1`, {
      layers: [await randomLayer(scratch.path, 'again')],
    });
    const [found] = (await explained(at, version)).flatMap(({ steps }) => steps);
    assert.deepEqual(found?.reasons, [`base content changed: ${registry.host}/same:1`]);
  });

  test('says that a layer was made on another rootfs, and what stands on a step that runs', async () => {
    const at = location();
    const version = { dockerfile: 'FROM scratch\nRUN ["date"]\nRUN ["use"]\nRUN ["more"]' };
    const cache = openLayerCache(at, client, 'test');
    const [stage] = await planned(version);
    assert.ok(stage !== undefined);
    await storePlan(cache, [stage]);
    // The first step made anew, with another result.
    await storePlan(cache, [{ ...stage, steps: stage.steps.slice(0, 1) }], { results: 'tuesday' });
    const steps = (await explained(at, version)).flatMap((one) => one.steps);
    assert.deepEqual(
      steps.map((one) => [one.outcome, ...one.reasons]),
      [
        ['hit'],
        ['other-rootfs', 'made on another rootfs'],
        ['found', 'used if [stage-0 2/3] RUN comes out as it did when this was made'],
      ],
    );
  });

  test('takes a copy that is made on nothing for a hit on any base, and knows what stands on it', async () => {
    const at = location();
    const version = (base: string): Version => ({
      dockerfile: `FROM %HOST%/${base}:1\nRUN ["x"]\nCOPY --link src /src\nRUN ["y"]`,
    });
    const before = await planned(version('moving'));
    await storePlan(openLayerCache(at, client, 'test'), before);
    const steps = (await explained(at, version('moved'))).flatMap((one) => one.steps);
    assert.deepEqual(
      steps.map((one) => one.outcome),
      ['miss', 'hit', 'miss'],
    );
    assert.deepEqual(steps[2]?.reasons, ['[stage-0 1/3] RUN changed']);
    const { entries } = await readInventory(openEntryStore(at, client));
    const forest = new EntryForest(entries);
    assert.deepEqual(
      entries.map((entry) => forest.unreachable(entry)),
      [undefined, undefined, undefined],
    );
    const last = entries.find(({ key }) => key === before[0]?.steps[2]?.key);
    assert.ok(last !== undefined);
    assert.equal(forest.below(last).length, 2, 'the step and the copy below it');
    for (const missing of forest.below(last)) {
      const rest = new EntryForest(entries.filter((entry) => entry !== missing));
      assert.equal(rest.unreachable(last), 'gap');
    }
  });

  test('says that a cache is empty, and that one is damaged', async () => {
    const [empty] = (await explained(location(), { dockerfile: run('["x"]') })).flatMap(({ steps }) => steps);
    assert.deepEqual(empty?.reasons, ['the cache has nothing yet to compare with']);
    const at = location();
    const cache = openLayerCache(at, client, 'test');
    const plan = await planned({ dockerfile: run('["x"]') });
    await storePlan(cache, await planned({ dockerfile: run('["y"]') }));
    const key = plan[0]?.steps[0]?.key;
    assert.ok(key !== undefined);
    await openEntryStore(at, client).putArtifact({
      tag: keyTag(key),
      type: 'text/plain',
      content: Buffer.from('x'),
    });
    const [damaged] = (await explained(at, { dockerfile: run('["x"]') })).flatMap(({ steps }) => steps);
    assert.equal(damaged?.outcome, 'corrupt');
    assert.match(damaged.reasons[0] ?? '', /not valid/);
  });

  test('of several caches names the one that has a step, or what is most like it', async () => {
    const [main, own] = [location(), location()];
    const before = await planned({ dockerfile: run('["echo", "x"]') });
    const changed = { dockerfile: run('["echo", "y"]') };
    await storePlan(openLayerCache(main, client, 'test'), before);
    const missed = await explained([own, main], changed);
    assert.match(explanationText([own, main], missed), new RegExp(`compared with .*, in ${main}\\n`));
    await storePlan(openLayerCache(main, client, 'test'), await planned(changed));
    const hit = await explained([own, main], changed);
    assert.match(explanationText([own, main], hit), new RegExp(`hit .*\\n +in ${main}\\n`));
    assert.match(JSON.stringify(explanationDocument([own, main], hit)), new RegExp(`"location":"${main}"`));
    // Of two that have it the order decides.
    await storePlan(openLayerCache(own, client, 'test'), await planned(changed));
    const both = await explained([own, main], changed);
    assert.equal(both[0]?.steps[0]?.hit?.place.location, own);
  });

  test('names directories where there are too many files to name each', async () => {
    const at = location();
    const fill = async (context: string): Promise<void> => {
      for (let directory = 0; directory < 50; directory++) {
        await mkdir(join(context, `src/d${directory}`), { recursive: true });
        for (let file = 0; file < 50; file++)
          await writeFile(join(context, `src/d${directory}/${file}`), 'x');
      }
    };
    await storePlan(openLayerCache(at, client, 'test'), await planned({ dockerfile: copied, alter: fill }));
    const alter = async (context: string): Promise<void> => {
      await fill(context);
      await writeFile(join(context, 'src/d7/3'), 'y');
    };
    const stages = await explained(at, { dockerfile: copied, alter });
    assert.deepEqual(stages[0]?.steps[0]?.reasons, ['files below src/d7/ changed']);
    assert.match(
      explanationText([at], stages),
      /miss +\[stage-0 1\/1\] COPY src \/src\n +files below src\/d7\/ changed\n +compared with [0-9a-f]{12}, made 1 hour ago/,
    );
  });
});
