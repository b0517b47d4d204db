import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseReferencePattern } from '../../src/oci/index.ts';
import { type PrunePolicy, bytesToFree, meetsFilters, requirePolicy } from '../../src/volume/prune-policy.ts';

const total = 1000;

test('a policy that says nothing is refused, unless it says that all may go', () => {
  for (const policy of [
    {},
    { references: [], filters: [] },
    { minimumAgeSeconds: 5 },
    { unpackedOnly: false },
  ])
    assert.throws(() => requirePolicy(policy, total), { code: 'E_PRUNE_POLICY_EMPTY' });
  const said: PrunePolicy[] = [
    { all: true },
    { olderThanSeconds: 0 },
    { unpackedOnly: true },
    { references: [parseReferencePattern('debian')] },
    { filters: [{ key: 'type', operator: '=', value: 'blob' }] },
    { maxUsedSpace: { bytes: 0 } },
  ];
  for (const policy of said) requirePolicy(policy, total);
});

test('a low water mark above the high one is refused, also when one is a share and the other is not', () => {
  const refused = (policy: PrunePolicy): void =>
    assert.throws(() => requirePolicy(policy, total), { code: 'E_PRUNE_POLICY_INVALID' });
  refused({ highWaterMark: { share: 0.8 }, lowWaterMark: { share: 0.85 } });
  refused({ highWaterMark: { share: 0.8 }, lowWaterMark: { bytes: 801 } });
  refused({ lowWaterMark: { share: 0.8 } });
  requirePolicy({ highWaterMark: { share: 0.8 }, lowWaterMark: { bytes: 800 } }, total);
});

test('a filter of a value that never is, or no regular expression, is refused', () => {
  for (const filter of [
    { key: 'type', operator: '=', value: 'images' },
    { key: 'inuse', operator: '!=', value: 'no' },
    { key: 'repo', operator: '~=', value: '(' },
  ] as const)
    assert.throws(() => requirePolicy({ filters: [filter] }, total), { code: 'E_PRUNE_POLICY_INVALID' });
});

test('filters compare for equality, difference and by regular expression', () => {
  const subject = {
    type: 'image',
    pinned: false,
    repo: 'registry.example/team/app',
    inuse: () => true,
  } as const;
  const meets = (
    key: 'type' | 'inuse' | 'pinned' | 'repo',
    operator: '=' | '!=' | '~=',
    value: string,
  ): boolean => meetsFilters([{ key, operator, value }], subject);
  assert.ok(meets('type', '=', 'image') && !meets('type', '!=', 'image') && meets('type', '!=', 'blob'));
  assert.ok(meets('inuse', '=', 'true') && !meets('inuse', '=', 'false'));
  assert.ok(meets('pinned', '=', 'false') && meets('repo', '~=', '/team/') && !meets('repo', '~=', '^team'));
});

test('bounds say how much is to be freed', () => {
  const space = { used: 600, free: 200, total };
  const cases: [PrunePolicy, number][] = [
    [{ all: true }, Infinity],
    [{ unusedForSeconds: 1 }, Infinity],
    [{ maxUsedSpace: { bytes: 450 } }, 150],
    [{ maxUsedSpace: { share: 0.7 } }, 0],
    [{ minFreeSpace: { share: 0.25 } }, 50],
    [{ maxUsedSpace: { bytes: 590 }, minFreeSpace: { bytes: 230 } }, 30],
    // What is reserved stays whatever the other bounds say; alone it says what stays.
    [{ maxUsedSpace: { bytes: 100 }, reservedSpace: { bytes: 500 } }, 100],
    [{ minFreeSpace: { bytes: 900 }, reservedSpace: { bytes: 700 } }, 0],
    [{ reservedSpace: { bytes: 550 } }, 50],
    // 800 of 1000 are used.
    [{ highWaterMark: { share: 0.81 }, lowWaterMark: { share: 0.5 } }, 0],
    [{ highWaterMark: { share: 0.8 }, lowWaterMark: { share: 0.7 } }, 100],
    [{ highWaterMark: { bytes: 750 } }, 50],
  ];
  for (const [policy, wanted] of cases)
    assert.equal(bytesToFree(policy, space), wanted, JSON.stringify(policy));
});
