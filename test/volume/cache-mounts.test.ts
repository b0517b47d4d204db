import assert from 'node:assert/strict';
import { existsSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import {
  acquireCacheMount,
  type CacheMountLease,
  type CacheMountRequest,
  listCacheMounts,
  Volume,
} from '../../src/volume/index.ts';
import { kiln, temporaryDirectory } from '../support/programs.ts';

/* Caches of RUN steps on a volume: who has one when, and what prune takes. */

let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
let volume: Volume;
before(async () => {
  scratch = await temporaryDirectory();
  volume = await Volume.open(join(scratch.path, 'volume'), { access: 'read-write' });
});
after(async () => {
  await volume[Symbol.asyncDispose]();
  await scratch[Symbol.asyncDispose]();
});

const acquire = (
  id: string,
  sharing: CacheMountRequest['sharing'] = 'shared',
  more: Partial<CacheMountRequest> = {},
): Promise<CacheMountLease> =>
  acquireCacheMount(volume.directory, {
    ...{ id, sharing, variant: null, owner: { uid: 0, gid: 0 }, mode: 0o755 },
    ...more,
  });

/** Makes a cache with a file of so many bytes, last used so many days ago. */
async function make(id: string, bytes: number, days = 0): Promise<void> {
  await using lease = await acquire(id);
  writeFileSync(join(lease.directory, 'file'), Buffer.alloc(bytes));
  const then = new Date(Date.now() - days * 24 * 3600_000);
  utimesSync(join(lease.directory, '../about.json'), then, then);
}

test('shared ones are one directory, private ones are not', async () => {
  await using one = await acquire('sharing');
  await using other = await acquire('sharing');
  await using own = await acquire('sharing', 'private');
  assert.equal(other.directory, one.directory);
  assert.notEqual(own.directory, one.directory);
});

test('a locked one is waited for, until the build is stopped', async () => {
  await using _holder = await acquire('locked', 'locked');
  let waits = 0;
  const stopped = new AbortController();
  const waiting = acquireCacheMount(
    volume.directory,
    {
      ...{ id: 'locked', sharing: 'locked', variant: null, owner: { uid: 0, gid: 0 }, mode: 0o755 },
      onWait: () => {
        waits++;
        stopped.abort();
      },
    },
    stopped.signal,
  );
  await assert.rejects(waiting, { name: 'AbortError' });
  assert.equal(waits, 1);
});

test('one that cannot be filled is not there', async () => {
  const fill = (): Promise<void> => Promise.reject(new Error('no files'));
  await assert.rejects(acquire('broken', 'shared', { fill }), /no files/);
  await using lease = await acquire('broken');
  assert.deepEqual(readdirSync(lease.directory), []);
});

test('prune takes caches by id, age and size, and none in use', async () => {
  await make('old', 3000, 40);
  await make('new', 2000);
  await using busy = await acquire('busy');
  writeFileSync(join(busy.directory, 'file'), Buffer.alloc(1000));
  const ids = async (): Promise<string[]> =>
    (await listCacheMounts(volume.directory)).map(({ id }) => id).filter((id) => /old|new|busy/.test(id));

  const old = await volume.planPrune({ unusedForSeconds: 30 * 24 * 3600 });
  assert.deepEqual(
    old.items.map((item) => (item.kind === 'cache-mount' ? [item.id, item.bytes] : item.kind)),
    [['old', 3000]],
  );
  const named = await volume.prune({ filters: [{ key: 'id', operator: '=', value: 'busy' }] });
  assert.deepEqual([named.removed.length, named.skipped.in_use], [0, 1]);
  // Also what came into use after it was planned.
  const planned = await volume.planPrune({ filters: [{ key: 'id', operator: '~=', value: '^(old|new)$' }] });
  {
    await using _lease = await acquire('new');
    const { reclaimedBytes, skipped } = await volume.prune(planned);
    assert.deepEqual([reclaimedBytes, skipped.in_use], [3000, 1]);
  }
  assert.deepEqual(await ids(), ['busy', 'new']);
  const bounded = await volume.prune({ maxUsedSpace: { bytes: 0 } });
  assert.equal(bounded.skipped.in_use, 1);
  assert.deepEqual(await ids(), ['busy']);
  assert.equal(existsSync(join(busy.directory, 'file')), true);
});

test('the warmer lists them', async () => {
  await make('/root/.npm', 5000);
  const { code, stdout } = await kiln('warmer', ['mounts', '--cache-dir', volume.directory, '-o', 'json']);
  assert.equal(code, 0);
  const listed = JSON.parse(stdout) as { id: string; files: number; bytes: number }[];
  const found = listed.find(({ id }) => id === '/root/.npm');
  assert.deepEqual([found?.files, found?.bytes], [1, 5000]);
});
