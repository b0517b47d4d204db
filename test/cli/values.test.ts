import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseSeconds, parseSize, parseSizeOrShare } from '../../src/cli/index.ts';

describe('values of flags and fields', () => {
  test('sizes are decimal unless they say otherwise', () => {
    for (const [text, bytes] of [
      ['0', 0],
      ['512', 512],
      ['512MB', 512e6],
      ['20G', 20e9],
      ['1.5GiB', 1.5 * 1024 ** 3],
      ['2 Ti', 2 * 1024 ** 4],
      ['10kb', 10_000],
    ] as const)
      assert.equal(parseSize(text), bytes, text);
    for (const text of ['', 'MB', '-1', '1e9', '5 apples', '1.2.3G', '9'.repeat(30)])
      assert.throws(() => parseSize(text), /is not a size/, text);
  });

  test('a share is at most the whole', () => {
    assert.deepEqual(parseSizeOrShare('12.5%'), { share: 0.125 });
    assert.deepEqual(parseSizeOrShare('1GB'), { bytes: 1e9 });
    assert.throws(() => parseSizeOrShare('101%'), /more than the whole/);
  });

  test('durations add up', () => {
    assert.equal(parseSeconds('1d2h3m4s'), 86_400 + 7200 + 180 + 4);
    assert.throws(() => parseSeconds('5'), /is not a duration/);
  });
});
