import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Command } from 'commander';
import { parse } from 'yaml';
import {
  addConfiguration,
  addFlags,
  booleanFlag,
  listFlag,
  parseCommandLine,
  parseSeconds,
  valueFlag,
} from '../../src/cli/index.ts';
import { UsageError } from '../../src/support/index.ts';

/** A program with two commands; tells what the first one was given. */
function program(given: (flags: Record<string, unknown>) => void): Command {
  const root = new Command('program');
  const first = root.command('first', { isDefault: true }).action((flags: Record<string, unknown>) => {
    given(flags);
  });
  addFlags(first, [
    valueFlag('--name <text>', 'a text'),
    valueFlag('--ttl <duration>', 'a time').argParser(parseSeconds).default(3600, '1h'),
    valueFlag('--kind <kind>', 'one of three').choices(['a', 'b', 'c']),
    listFlag('--arg <name=value>', 'several'),
    booleanFlag('--fast', 'quickly', false),
  ]);
  addFlags(
    root.command('second').action(() => undefined),
    [valueFlag('--other <text>', 'of the second alone')],
  );
  addConfiguration(root);
  return root;
}

let directory: string;
let file: string;

/** The flags that a command line gives with a file of this text. */
async function run(text: string, ...argv: string[]): Promise<Record<string, unknown>> {
  await writeFile(file, text);
  let flags: Record<string, unknown> = {};
  const commands = program((given) => (flags = given));
  await parseCommandLine(commands, ['--config', file, ...argv]);
  return flags;
}

describe('flags from a file', () => {
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kiln-config-'));
    file = join(directory, 'build.yaml');
  });
  after(() => rm(directory, { recursive: true }));

  test('are read as if they stood on the command line', async () => {
    const flags = await run('name: 1.10\nttl: 2h\nkind: b\nfast: true\narg:\n  - A=1\n  - B\n');
    assert.equal(flags.name, '1.10');
    assert.equal(flags.ttl, 7200);
    assert.equal(flags.kind, 'b');
    assert.equal(flags.fast, true);
    assert.deepEqual(flags.arg, ['A=1', 'B']);
  });

  test('a list may be a mapping, or one value', async () => {
    assert.deepEqual((await run('arg: {A: 1, B: "two words"}')).arg, ['A=1', 'B=two words']);
    assert.deepEqual((await run('arg: A=1')).arg, ['A=1']);
  });

  test('count less than the environment, and that less than the command line', async () => {
    process.env.KILN_NAME = 'environment';
    try {
      assert.equal((await run('name: file')).name, 'environment');
      assert.equal((await run('name: file', '--name', 'line')).name, 'line');
    } finally {
      delete process.env.KILN_NAME;
    }
    assert.equal((await run('name: file')).name, 'file');
    assert.equal((await run('')).name, undefined);
    // A list of the command line is not added to that of the file.
    assert.deepEqual((await run('arg: [A=1]', '--arg', 'B=2')).arg, ['B=2']);
  });

  test('a file may have flags of another command, which this one leaves alone', async () => {
    assert.equal((await run('other: text\nname: x')).other, undefined);
  });

  test('KILN_CONFIG names the file too', async () => {
    await writeFile(file, 'name: file');
    process.env.KILN_CONFIG = file;
    try {
      let name: unknown;
      await parseCommandLine(
        program((flags) => (name = flags.name)),
        [],
      );
      assert.equal(name, 'file');
    } finally {
      delete process.env.KILN_CONFIG;
    }
  });

  for (const [what, text, line, message] of [
    ['a flag that is not there', '# flags\nnmae: x\n', 2, /there is no flag --nmae/],
    ['a value that is none of those allowed', 'name: x\nkind: d', 2, /kind: .*a, b, c/],
    ['a value that cannot be read', 'ttl: soon', 1, /ttl: "soon" is not a duration/],
    ['a list where one value is due', 'name:\n  - a\n', 1, /name takes one value/],
    ['no value', 'name:\n', 1, /name has no value/],
    ['a mapping in a list', 'arg:\n- {A: {B: 1}}\n', 2, /arg has a value that is no text/],
    ['a file that is a list', '- name: x', 1, /not a mapping/],
    ['a file that is no YAML', 'name: [', 1, /Flow sequence/],
    ['a flag that a file cannot give', 'config: x', 1, /--config cannot be given in a file/],
    ['a flag twice', 'name: a\nname: b\n', 2, /unique/],
  ] as const)
    test(`${what} is an error that names the line`, async () => {
      await assert.rejects(run(text), (error) => {
        assert.ok(error instanceof UsageError);
        assert.equal(error.where, `${file}:${line}`);
        assert.match(error.message, message);
        return true;
      });
    });

  test('a file that is not there is an error that names it', async () => {
    await assert.rejects(
      parseCommandLine(
        program(() => undefined),
        ['--config', join(directory, 'none.yaml')],
      ),
      (error) =>
        error instanceof UsageError &&
        error.code === 'E_CONFIG_UNREADABLE' &&
        /none\.yaml/.test(error.message),
    );
  });

  test('a mistyped flag comes with the one that was meant', async () => {
    await assert.rejects(run('nmae: x'), { remedy: 'Did you mean name?' });
  });
});

describe('--print-config', () => {
  test('prints each flag with where it comes from, hides credentials, reads as a file, and runs nothing', async (context) => {
    const directoryOfTest = await mkdtemp(join(tmpdir(), 'kiln-config-'));
    context.after(() => rm(directoryOfTest, { recursive: true }));
    const path = join(directoryOfTest, 'build.yaml');
    await writeFile(path, 'ttl: 90m\narg: [A=https://user:secret@host.example/]\n');
    let printed = '';
    context.mock.method(process.stdout, 'write', (text: string) => {
      printed += text;
      return true;
    });
    let ran = false;
    const command = program(() => (ran = true));
    await parseCommandLine(command, ['--config', path, '--print-config', '--name', 'x', '--fast']);
    context.mock.restoreAll();
    assert.equal(ran, false);
    assert.match(printed, /^name: x # command line$/m);
    assert.match(printed, new RegExp(`^ttl: 90m # ${path}$`, 'm'));
    assert.doesNotMatch(printed, /secret/);
    assert.deepEqual(parse(printed), {
      name: 'x',
      ttl: '90m',
      fast: true,
      arg: ['A=https://***@host.example/'],
    });
  });
});
