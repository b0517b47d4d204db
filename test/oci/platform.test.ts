import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { chooseByPlatform, formatPlatform, parsePlatform, platformServes } from '../../src/oci/index.ts';

describe('of an index, the image for a platform is', () => {
  const choose = (wanted: string, ...offered: readonly string[]): string | undefined => {
    const entries = offered.map((text) => ({ platform: parsePlatform(text) }));
    const found = chooseByPlatform(entries, parsePlatform(wanted));
    return found && formatPlatform(found.platform);
  };

  for (const [what, wanted, offered, expected] of [
    ['the very one', 'linux/arm64', ['linux/amd64', 'linux/arm64'], 'linux/arm64'],
    [
      'the very variant, not the first that runs',
      'linux/arm/v7',
      ['linux/arm/v6', 'linux/arm/v7'],
      'linux/arm/v7',
    ],
    ['one for an older processor', 'linux/arm/v7', ['linux/arm/v5', 'linux/arm/v6'], 'linux/arm/v6'],
    ['never one for a newer processor', 'linux/arm/v6', ['linux/arm/v7'], undefined],
    [
      'the newest that runs',
      'linux/amd64/v3',
      ['linux/amd64', 'linux/amd64/v2', 'linux/amd64/v4'],
      'linux/amd64/v2',
    ],
    ['not one that wants more than amd64', 'linux/amd64', ['linux/amd64/v2'], undefined],
    ['of 32 bits if there is no other', 'linux/amd64', ['linux/386'], 'linux/386'],
    ['of 32 bits if there is no other', 'linux/arm64', ['linux/amd64', 'linux/arm/v7'], 'linux/arm/v7'],
    ['of its own operating system', 'linux/amd64', ['windows/amd64'], undefined],
    ['named in other words', 'linux/aarch64', ['linux/arm64/v8'], 'linux/arm64'],
    ['arm/v7 when no variant is said', 'linux/arm', ['linux/arm/v6', 'linux/arm/v7'], 'linux/arm/v7'],
    ['of another architecture never', 'linux/riscv64', ['linux/amd64', 'linux/arm64'], undefined],
  ] as const)
    test(`${what}: ${wanted} of ${offered.join(', ')}`, () =>
      assert.equal(choose(wanted, ...offered), expected));

  test('not an entry without a platform', () => {
    assert.equal(chooseByPlatform([{}], parsePlatform('linux/amd64')), undefined);
  });
});

test('an image alone serves its platform and newer processors', () => {
  const serves = (offered: string, wanted: string): boolean =>
    platformServes(parsePlatform(offered), parsePlatform(wanted));
  assert.ok(serves('linux/amd64', 'linux/amd64/v3'));
  assert.ok(serves('linux/arm64/v8', 'linux/arm64'));
  assert.ok(!serves('linux/amd64/v3', 'linux/amd64'));
  assert.ok(!serves('linux/arm64', 'linux/amd64'));
});
