import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { inspectManifest, unpackWithOtherTools } from '../support/check-image.ts';
import { type Ended, stepsThat } from '../support/programs.ts';
import { listTree } from '../support/trees.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

/*
 * `COPY --link`: a layer made on nothing. What it does to the tree is tested as others see it, its reuse in builds.
 */

let workshop: Workshop;
before(async () => {
  workshop = await openWorkshop();
});
after(() => workshop[Symbol.asyncDispose]());

interface Built extends Ended {
  readonly reference: string;
  readonly layers: readonly string[];
}

async function build(name: string, context: string, ...args: string[]): Promise<Built> {
  const reference = `${workshop.registry.host}/${name}:1`;
  const ended = await workshop.build(context, ['--destination', reference, '--cache', ...args]);
  assert.equal(ended.code, 0, ended.stderr);
  return { ...ended, reference, layers: inspectManifest(reference).layers.map(({ digest }) => digest) };
}

const treeOf = ({ reference }: Built): string[] =>
  listTree(join(unpackWithOtherTools(workshop.directory, reference), 'rootfs')).filter(
    (line) => !line.startsWith('bin/') && !/^(?:dev|proc|sys|etc\/resolv)/.test(line),
  );

describe('COPY --link', () => {
  test('makes real directories where the base has links, and hides nothing else', async () => {
    const name = workshop.unique('links');
    const context = await workshop.context({
      Dockerfile: [
        'FROM %BASE%',
        'RUN mkdir -p /real/kept /plain/kept && ln -s real /link && chmod 700 /plain',
        'COPY --link file /link/to/',
        'COPY --link file /plain/to/',
        'RUN test -d /link -a ! -L /link && test -e /real/kept && test -e /plain/kept && touch /after',
      ].join('\n'),
      file: 'x',
    });
    const tree = treeOf(await build(name, context)).filter((line) => /^(?:real|link|plain|after)/.test(line));
    assert.deepEqual(tree, [
      'after f 644 0:0',
      'link d 755 0:0',
      'link/to d 755 0:0',
      'link/to/file f 644 0:0',
      'plain d 755 0:0',
      'plain/kept d 755 0:0',
      'plain/to d 755 0:0',
      'plain/to/file f 644 0:0',
      'real d 755 0:0',
      'real/kept d 755 0:0',
    ]);
  });

  test('has the same layer on every base, taken from the cache when only the base changed', async () => {
    const name = workshop.unique('bases');
    const dockerfile = (base: string): string =>
      `FROM %BASE%\nRUN echo ${base} > /base\nCOPY --link file /deep/to/\nCOPY file /plain\n`;
    const context = await workshop.context({ Dockerfile: dockerfile('one'), file: 'content' });
    const one = await build(name, context);
    writeFileSync(join(context, 'Dockerfile'), dockerfile('two').replaceAll('%BASE%', workshop.base));
    const two = await build(name, context);
    assert.deepEqual(stepsThat('cached', two), ['COPY file /deep/to/']);
    assert.equal(two.layers.at(-2), one.layers.at(-2));
    assert.notEqual(two.layers.at(-3), one.layers.at(-3));
    writeFileSync(join(context, 'file'), 'changed');
    assert.deepEqual(stepsThat('cached', await build(name, context)), ['RUN echo two > /base']);
  });

  test('needs neither its base nor its source unpacked when it hits', async () => {
    const name = workshop.unique('unneeded');
    const context = await workshop.context({
      Dockerfile: [
        'FROM %BASE% AS build',
        'RUN echo x > /made',
        'FROM %BASE%',
        'RUN touch /changing-1',
        'COPY --link --from=build /made /',
      ].join('\n'),
    });
    await build(name, context);
    const text = `FROM ${workshop.base} AS build\nRUN echo x > /made\nFROM ${workshop.base}\nRUN touch /other\nCOPY --link --from=build /made /\n`;
    writeFileSync(join(context, 'Dockerfile'), text);
    const again = await build(name, context);
    assert.deepEqual(stepsThat('ran', again), ['RUN touch /other']);
    assert.ok(!stepsThat('cached', again).includes('RUN echo x > /made'), 'nobody looks at the source stage');
  });

  test('is the base of steps that know what is below it', async () => {
    const name = workshop.unique('below');
    const text = (base: string): string =>
      `FROM ${workshop.base}\nRUN echo ${base} > /base\nCOPY --link file /\nRUN cat /base /file > /seen\n`;
    const context = await workshop.context({ Dockerfile: text('one'), file: 'linked\n' });
    await build(name, context);
    writeFileSync(join(context, 'Dockerfile'), text('two'));
    const two = await build(name, context);
    const seen = join(unpackWithOtherTools(workshop.directory, two.reference), 'rootfs/seen');
    assert.equal(execFileSync('cat', [seen], { encoding: 'utf8' }), 'two\nlinked\n');
    writeFileSync(join(context, 'Dockerfile'), text('one'));
    assert.deepEqual(stepsThat('ran', await build(name, context)), [], 'both results are kept');
  });

  test('with --chmod goes through links, as without --link', async () => {
    const context = await workshop.context({
      Dockerfile: 'FROM %BASE%\nRUN mkdir /real && ln -s real /link\nCOPY --link --chmod=600 file /link/\n',
      file: 'x',
    });
    const tree = treeOf(await build(workshop.unique('chmod'), context));
    assert.ok(tree.includes('link l 777 0:0') && tree.includes('real/file f 600 0:0'), tree.join('\n'));
  });

  test('takes owners as numbers, and refuses names, which it cannot know', async () => {
    const dockerfile = (chown: string): string => `FROM %BASE%\nCOPY --link --chown=${chown} file /to/\n`;
    const context = await workshop.context({ Dockerfile: dockerfile('12:34'), file: 'x' });
    chmodSync(join(context, 'file'), 0o640);
    const tree = treeOf(await build(workshop.unique('owners'), context));
    assert.ok(tree.includes('to d 755 12:34') && tree.includes('to/file f 640 12:34'), tree.join('\n'));
    const named = await workshop.context({ Dockerfile: dockerfile('nobody'), file: 'x' });
    const ended = await workshop.build(named, ['--no-push']);
    assert.equal(ended.code, 1);
    assert.match(
      ended.messages,
      /Dockerfile:2: .*--link.*\[E_USER_NOT_FOUND\]\n.*\n.*\^{6}\n {2}remedy: .*1000/,
    );
  });
});
