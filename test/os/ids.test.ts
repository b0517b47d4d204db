import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { formatIds, hasId, parseIdMap, subordinateMap } from '../../src/os/index.ts';

const alice = { name: 'alice', uid: 1001, gid: 1001 };

describe('the map of a user with subordinate ids', () => {
  test('gives root to the user and the rest to the subordinate ids, in the order of the file', () => {
    const text = 'bob:100000:65536\nalice:165536:65536\n\nalice:400000:10\n';
    assert.deepEqual(subordinateMap(text, alice, 1001), [
      { inside: 0, outside: 1001, count: 1 },
      { inside: 1, outside: 165536, count: 65536 },
      { inside: 65537, outside: 400000, count: 10 },
    ]);
  });

  test('takes lines that name the user by id', () => {
    assert.equal(subordinateMap('1001:200000:65536', alice, 1001)?.[1]?.outside, 200000);
  });

  for (const text of [
    '',
    'bob:100000:65536',
    'alice:x:65536',
    'alice:100000:0',
    'alice:100000',
    'alicia:1:2',
  ])
    test(`is not there for ${JSON.stringify(text)}`, () => {
      assert.equal(subordinateMap(text, alice, 1001), undefined);
    });

  test('has no more lines than the kernel takes', () => {
    const text = Array.from({ length: 500 }, (_, line) => `alice:${100000 + line * 10}:10`).join('\n');
    assert.equal(subordinateMap(text, alice, 1001)?.length, 340);
  });
});

describe('a map of ids', () => {
  const map = parseIdMap(
    '         0       1001          1\n         1     100000      65536\n    100000      5   2\n',
  );

  test('is read as the kernel writes it', () => {
    assert.deepEqual(map[1], { inside: 1, outside: 100000, count: 65536 });
    assert.deepEqual(
      [0, 65536, 65537, 99999, 100001, 100002].map((id) => hasId(map, id)),
      [true, true, false, false, true, false],
    );
  });

  test('is shown as ranges, neighbours as one', () => {
    assert.equal(formatIds(map), '0-65536, 100000-100001');
    assert.equal(formatIds(parseIdMap('0 1001 1')), '0');
  });
});
