import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { join } from 'node:path';
import { type Ended, kiln, temporaryDirectory, writeFiles } from '../support/programs.ts';

/*
 * `executor check`, and the same checks in a build. What each rule finds is tested where the rules are.
 */

const dockerfile = `FROM scratch AS base
ENV name value

FROM base AS app
COPY file $nowhere /to/
MAINTAINER me
`;

let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
let count = 0;
before(async () => {
  directory = await temporaryDirectory();
});
after(() => directory[Symbol.asyncDispose]());

const contextOf = (text: string): Promise<string> =>
  writeFiles(join(directory.path, `context-${count++}`), { Dockerfile: text, file: 'x' });
const check = async (text: string, ...args: string[]): Promise<Ended> =>
  kiln('executor', ['check', '--context', await contextOf(text), '--cache-dir', '/nonexistent', ...args]);
const build = async (text: string, ...args: string[]): Promise<Ended> =>
  kiln('executor', [
    ...['--context', await contextOf(text), '--cache-dir', join(directory.path, 'volume')],
    ...['--log-format', 'json', ...args],
  ]);

interface Report {
  readonly warnings: readonly { readonly rule: string; readonly line: number; readonly page: string }[];
  readonly error?: { readonly code: string; readonly where: string };
}
const rulesOf = ({ stdout }: Ended): string[] =>
  (JSON.parse(stdout) as Report).warnings.map(({ rule, line }) => `${rule} ${line}`);

describe('executor check', () => {
  test('shows each finding with its line, a mark, the remedy and the page of its rule', async () => {
    const { code, stdout, stderr } = await check(dockerfile);
    assert.equal(code, 0);
    assert.equal(stderr, '');
    assert.match(
      stdout,
      /^Dockerfile:2: LegacyKeyValueFormat: .*\n {4}2 \| ENV name value\n {6}\| {5}\^{4}\n {2}remedy: /m,
    );
    assert.match(stdout, /^Dockerfile:5: UndefinedVar: .*\n.*\n {6}\| {12}\^{7}$/m);
    assert.match(
      stdout,
      /^ {2}see https:\/\/docs\.docker\.com\/go\/dockerfile\/rule\/maintainer-deprecated\/$/m,
    );
    assert.match(stdout, /^Dockerfile: 3 warnings$/m);
  });

  test('says so when it finds nothing', async () => {
    const { code, stdout } = await check('FROM scratch\nCOPY file /\n');
    assert.deepEqual([code, stdout], [0, 'Dockerfile: nothing found\n']);
  });

  test('looks at the stages that a target needs', async () => {
    assert.deepEqual(rulesOf(await check(dockerfile, '-o', 'json', '--target', 'base')), [
      'LegacyKeyValueFormat 2',
    ]);
    assert.deepEqual(rulesOf(await check(dockerfile, '-o', 'json')), [
      'LegacyKeyValueFormat 2',
      'UndefinedVar 5',
      'MaintainerDeprecated 6',
    ]);
  });

  test('fails on findings with --check-error, and with the directive', async () => {
    const flagged = await check(dockerfile, '--check-error', '-o', 'json');
    assert.equal(flagged.code, 1);
    assert.equal(rulesOf(flagged).length, 3);
    assert.match(flagged.stderr, /Dockerfile:2: .*3 problems.*E_CHECK_FAILED/);
    assert.equal((await check(`# check=error=true\n${dockerfile}`)).code, 1);
    assert.equal((await check('# check=error=true\nFROM scratch\n', '--check-error')).code, 0);
    assert.equal((await check(`# check=skip=all;error=true\n${dockerfile}`)).code, 0);
  });

  test('tells of what is no Dockerfile, also to programs', async () => {
    const { code, stdout, stderr } = await check('FROM scratch\nCOPPY a b\n', '-o', 'json');
    assert.equal(code, 1);
    const { error, warnings } = JSON.parse(stdout) as Report;
    assert.deepEqual([error?.code, error?.where, warnings], ['E_DOCKERFILE_SYNTAX', 'Dockerfile:2', []]);
    assert.match(stderr, /Did you mean COPY\?/);
  });

  test('knows what .dockerignore leaves out, and where the Dockerfile is', async () => {
    const context = await writeFiles(join(directory.path, 'ignoring'), {
      '.dockerignore': 'secret*\n',
      'sub/Dockerfile': 'FROM scratch\nCOPY secrets /\n',
    });
    const args = ['check', '-c', context, '-f', 'sub/Dockerfile', '-o', 'json'];
    assert.deepEqual(rulesOf(await kiln('executor', args)), ['CopyIgnoredFile 2']);
  });

  test('takes build arguments, and any platform', async () => {
    const text = 'ARG BASE=scratch\nFROM $BASE AS Mixed\nFROM --platform=$BUILDPLATFORM scratch\n';
    const args = ['--build-arg', 'BASE=registry.example/base:1', '--platform', 'linux/s390x', '-o', 'json'];
    const ended = await check(text, ...args);
    assert.deepEqual([ended.code, rulesOf(ended)], [0, ['StageNameCasing 2']]);
  });
});

test('executor check refuses a flag that its kind of check has no use for', async () => {
  for (const [flag, ...args] of [
    ['--target', 'app', '--environment'],
    ['--scratch-dir', directory.path],
  ] as const) {
    const { code, messages, stdout } = await kiln('executor', ['check', flag, ...args]);
    assert.deepEqual([code, stdout], [2, '']);
    assert.match(messages, new RegExp(`${flag} says nothing`));
  }
});

describe('a build', () => {
  test('tells what the checks find, once each, also when every step is cached', async () => {
    const text = 'FROM scratch\nENV a b\nCOPY file /\nMAINTAINER me\n';
    for (let round = 0; round < 2; round++) {
      const { code, events } = await build(text);
      assert.equal(code, 0);
      const found = events.flatMap((event) =>
        event.type === 'check' ? [`${event.file}:${event.line} ${event.rule}`] : [],
      );
      assert.deepEqual(found, ['Dockerfile:2 LegacyKeyValueFormat', 'Dockerfile:4 MaintainerDeprecated']);
    }
  });

  test('of some stages leaves the others unchecked', async () => {
    const { events } = await build('FROM scratch AS one\nMAINTAINER me\nFROM scratch\nCOPY file /\n');
    assert.deepEqual(
      events.filter(({ type }) => type === 'check'),
      [],
    );
  });

  test('fails on findings before anything is made, when that is asked for', async () => {
    const text = 'FROM scratch\nMAINTAINER me\nCOPY file /\n';
    for (const ended of [await build(text, '--check-error'), await build(`# check=error=true\n${text}`)]) {
      assert.equal(ended.code, 1);
      assert.match(ended.messages, /E_CHECK_FAILED/);
      assert.ok(!ended.events.some(({ type }) => type === 'step-start'));
    }
  });

  test('warns of rules that it does not know, and goes on', async () => {
    const { code, events } = await build('# check=skip=RuleOfTomorrow\nFROM scratch\nCOPY file /\n');
    assert.equal(code, 0);
    assert.ok(events.some((event) => event.type === 'log' && event.message.includes('RuleOfTomorrow')));
  });
});
