import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { keysOf } from '../support/plan.ts';
import { temporaryDirectory, writeFiles } from '../support/programs.ts';

/*
 * What the flags of COPY and ADD do to keys.
 */

let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
let context = '';
before(async () => {
  scratch = await temporaryDirectory();
  context = await writeFiles(join(scratch.path, 'context'), {
    'dir/a': 'a',
    'dir/b.md': 'b',
    'dir/sub/c': 'c',
  });
});
after(() => scratch[Symbol.asyncDispose]());

const keys = (...lines: string[]): Promise<string[]> =>
  keysOf(['FROM scratch', ...lines, ''].join('\n'), context);
const lastKey = async (...lines: string[]): Promise<string> => (await keys(...lines)).at(-1) ?? '';

describe('the key of a copy', () => {
  test('differs with each flag that changes what it makes', async () => {
    const found = await Promise.all(
      [
        ...[
          'COPY dir /to',
          'COPY --exclude=*.md dir /to',
          'COPY --exclude=sub dir /to',
          'COPY --parents dir /to',
        ],
        ...['COPY --parents dir/./sub /to', 'COPY --chmod=644 dir /to', 'COPY --chmod=+x dir /to'],
        ...[
          'COPY --chmod=u+x dir /to',
          'COPY --chown=1:2 dir /to',
          'ADD dir /to',
          'ADD --unpack=false dir /to',
        ],
      ].map((line) => lastKey(line)),
    );
    // ADD that unpacks nothing is COPY.
    assert.equal(found.pop(), found[0]);
    assert.equal(new Set(found).size, found.length);
  });

  test('with --link does not know what is below it, and the keys above it do', async () => {
    const copy = 'COPY --link dir /to';
    const [one, other] = [
      await keys('COPY dir/a /one', copy, 'WORKDIR /w'),
      await keys('COPY dir/a /other', copy, 'WORKDIR /w'),
    ];
    assert.equal(one[1], other[1]);
    assert.notEqual(one[2], other[2]);
    assert.notEqual(await lastKey(copy, 'COPY dir/a /x'), await lastKey('COPY dir/a /x'));
  });

  test('does not know what is excluded', async () => {
    const [before, all] = [await lastKey('COPY --exclude=*.md dir /to'), await lastKey('COPY dir /to')];
    writeFileSync(join(context, 'dir/b.md'), 'changed');
    assert.equal(await lastKey('COPY --exclude=*.md dir /to'), before);
    assert.notEqual(await lastKey('COPY dir /to'), all);
  });
});
