import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Command } from 'commander';
import { addKanikoFlags, type KanikoFlag, kanikoNotes, kanikoTable, respell } from '../../src/cli/index.ts';

const flags: readonly KanikoFlag[] = [
  { name: 'same', verdict: 'same' },
  { name: 'mode', verdict: 'not needed', takes: 'value', remark: 'there is [one](x.md) `mode`' },
  { name: 'old', verdict: 'not needed', takes: 'boolean', remark: 'it is always so' },
  { name: 'other', verdict: 'refused', fork: true, takes: 'boolean', remark: 'use `--same`' },
  { name: 'oldMode', verdict: 'respelt', remark: 'mode' },
];

function command(): Command {
  const made = new Command('x').exitOverride().option('--same');
  addKanikoFlags(made, flags);
  return made;
}

describe("kaniko's flags that have no effect here", () => {
  test('are taken, and a line says why they have none', () => {
    const made = command().parse(['--mode', 'redo', '--old=false'], { from: 'user' });
    assert.deepEqual(kanikoNotes(made, flags), [
      '--mode has no effect: there is one mode',
      '--old has no effect: it is always so',
    ]);
    assert.deepEqual(kanikoNotes(command().parse([], { from: 'user' }), flags), []);
  });

  test('are left out of the help', () => {
    assert.doesNotMatch(command().helpInformation(), /--mode|--old|--other/);
  });

  test('are refused where something else must be used, unless they are switched off', () => {
    assert.throws(() => command().parse(['--other'], { from: 'user' }), {
      code: 'E_FLAG_REFUSED',
      remedy: 'Use --same.',
    });
    command().parse(['--other=false'], { from: 'user' });
  });

  test('older spellings are written as those of today, with their values', () => {
    assert.deepEqual(respell(['--oldMode=redo', '--oldMode', 'full', 'oldMode'], flags), [
      '--mode=redo',
      '--mode',
      'full',
      'oldMode',
    ]);
  });

  test('make a table in the order of the alphabet', () => {
    assert.deepEqual(kanikoTable(flags).split('\n').slice(2), [
      '| `--mode` | not needed | there is [one](x.md) `mode` |',
      '| `--old` | not needed | it is always so |',
      '| `--oldMode` | same | an older spelling of `--mode` |',
      '| `--other` | refused | *fork*; use `--same` |',
      '| `--same` | same | |',
    ]);
  });
});
