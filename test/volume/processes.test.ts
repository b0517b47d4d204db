import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, readdir, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { test } from 'node:test';
import { Lease, Volume } from '../../src/volume/index.ts';
import { FakeRegistry, amd64, debian, temporaryDirectory, testImage } from './fixtures.ts';

const writable = { access: 'read-write' } as const;
const childPath = join(import.meta.dirname, 'child.ts');

function start(...args: readonly string[]): ChildProcess {
  return spawn(process.execPath, [childPath, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
}

async function result(child: ChildProcess): Promise<Record<string, unknown>> {
  assert.ok(child.stdout);
  return JSON.parse(await text(child.stdout)) as Record<string, unknown>;
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
}

async function requireWhole(directory: string, seeds: readonly string[]): Promise<void> {
  await using volume = await Volume.open(directory, writable);
  const image = await volume.find(debian, amd64);
  assert.ok(image);
  await using lease = await volume.acquireLayers(image.layers);
  for (const [position, seed] of seeds.entries()) {
    const file = await stat(join(lease?.paths[position] ?? '', `layer-${seed}`));
    assert.equal(file.size, 300_000);
  }
}

test('two processes that pull the same image at once share the work', async () => {
  await using directory = await temporaryDirectory();
  const children = [1, 2].map(() => start('pull', directory.path, 'a,b,c', '20'));
  const results = await Promise.all(children.map(result));
  const { image } = await testImage(['a', 'b', 'c'], 300_000);
  const size = image.manifest.layers.reduce((sum, layer) => sum + layer.size, 0);
  assert.equal(
    results.reduce((sum, { fetched }) => sum + Number(fetched), 0),
    size,
  );
  await requireWhole(directory.path, ['a', 'b', 'c']);
});

test('a pull killed at any moment leaves nothing wrong, and the next one completes it', async () => {
  for (let moment = 150; moment <= 500; moment += 50) {
    await using directory = await temporaryDirectory();
    const child = start('pull', directory.path, 'a,b', '15');
    await delay(moment);
    await kill(child);
    {
      await using volume = await Volume.open(directory.path, writable);
      const found = await volume.find(debian, amd64);
      const sealed = await readdir(join(directory.path, 'layers'));
      for (const name of sealed) await stat(join(directory.path, 'layers', name, 'sealed'));
      if (found !== undefined) assert.equal(found.layers.length, 2);
    }
    await result(start('pull', directory.path, 'a,b', '0'));
    await requireWhole(directory.path, ['a', 'b']);
  }
});

test('what a killed process left in ingest is cleaned up later, what is in use is not', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  await using scratch = await volume.scratch('in-use-');
  const ingest = join(directory.path, 'ingest');
  await writeFile(join(ingest, 'blob-left'), 'x');
  const child = start('pull', directory.path, 'a', '50', '4000000');
  for (let waited = 0; waited < 1500; waited += 1) {
    if ((await readdir(ingest)).some((name) => name.endsWith('.partial'))) break;
    await delay(20);
  }
  await kill(child);
  // Leave time for nothing: the clock is moved instead.
  const { cleanIngest } = await import('../../src/volume/ingest.ts');
  await cleanIngest(ingest, Date.now() + 120_000);
  const after = await readdir(ingest);
  assert.ok(after.includes(scratch.path.split('/').at(-1) ?? ''));
  assert.ok(after.some((name) => name.endsWith('.partial')));
  assert.ok(!after.includes('blob-left'));
  await cleanIngest(ingest, Date.now() + 48 * 3600_000);
  assert.ok(!(await readdir(ingest)).some((name) => name.endsWith('.partial')));
});

test('a lease of another process holds until that process is killed', async () => {
  await using directory = await temporaryDirectory();
  await result(start('pull', directory.path, 'a'));
  const child = start('hold', directory.path);
  assert.ok(child.stdout);
  await once(child.stdout, 'data');
  const [name = ''] = await readdir(join(directory.path, 'layers'));
  const layer = join(directory.path, 'layers', name);
  assert.equal(await Lease.tryAcquireExclusive(layer), undefined);
  await kill(child);
  await using exclusive = await Lease.tryAcquireExclusive(layer);
  assert.ok(exclusive);
});

test('a corrupt index database is no loss to a reader and is rebuilt by a writer', async () => {
  await using directory = await temporaryDirectory();
  const registry = new FakeRegistry();
  registry.push(debian, await testImage(['a']));
  const pull = async (): Promise<void> => {
    await using volume = await Volume.open(directory.path, writable);
    await volume.pull(registry.client, debian, amd64);
    await using _lease = await volume.acquireLayers((await volume.find(debian, amd64))?.layers ?? []);
  };
  await pull();
  const database = join(directory.path, 'index.db');
  const sound = await readFile(database);
  const damages = [
    Buffer.from('this is not a database at all, but text'),
    sound.subarray(0, 4096),
    Buffer.concat([sound.subarray(0, 4096), Buffer.alloc(sound.length - 4096, 0xaa)]),
  ];
  for (const [number, damage] of damages.entries()) {
    await writeFile(database, damage);
    await using reader = await Volume.open(directory.path, { access: 'read-only' });
    assert.ok(await reader.find(debian, amd64));
    assert.equal((await reader.images()).length, 1);
    await pull();
    assert.equal((await reader.images())[0]?.uses, 1, `after damage ${number}`);
  }
  const aside = (await readdir(directory.path)).filter((name) => name.startsWith('index.db.corrupt-'));
  assert.equal(aside.length, damages.length);
});

test('a locked or missing index database stops neither readers nor lists', async () => {
  await using directory = await temporaryDirectory();
  await result(start('pull', directory.path, 'a'));
  const { default: Sqlite } = await import('better-sqlite3');
  const other = new Sqlite(join(directory.path, 'index.db'));
  other.exec('BEGIN EXCLUSIVE');
  await using volume = await Volume.open(directory.path, { access: 'read-only' });
  assert.ok(await volume.find(debian, amd64));
  assert.equal((await volume.images()).length, 1);
  other.close();
});

test('a damaged index.json is no image to readers, and a pull makes a new one from the blobs', async () => {
  await using directory = await temporaryDirectory();
  await result(start('pull', directory.path, 'a,b'));
  await writeFile(join(directory.path, 'index.json'), '{"schemaVersion":2,"manif');
  {
    await using reader = await Volume.open(directory.path, { access: 'read-only' });
    assert.equal(await reader.find(debian, amd64), undefined);
  }
  assert.deepEqual(await result(start('pull', directory.path, 'a,b')), { outcome: 'pulled', fetched: 0 });
  await requireWhole(directory.path, ['a', 'b']);
});

const isRoot = process.getuid?.() === 0;

test('a read-only bind mount serves everything and is not written', { skip: !isRoot }, async () => {
  await using directory = await temporaryDirectory();
  await using mountPoint = await temporaryDirectory();
  await result(start('pull', directory.path, 'a,b'));
  await writeFile(join(directory.path, 'index.db-journal'), Buffer.alloc(1024, 1));
  const script = `mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && exec "$3" "$4" find "$2"`;
  const child = spawn(
    'unshare',
    ['-m', 'sh', '-c', script, 'sh', directory.path, mountPoint.path, process.execPath, childPath],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const { paths, count } = await result(child);
  assert.equal((paths as string[]).length, 2);
  assert.equal(count, 1);
});

test('opening for reading what is not there says so', async () => {
  await using directory = await temporaryDirectory();
  await assert.rejects(Volume.open(directory.path, { access: 'read-only' }), { code: 'E_VOLUME_NOT_FOUND' });
});

test('a read-only file system is named when a volume is to be written there', { skip: !isRoot }, async () => {
  await using directory = await temporaryDirectory();
  const { mount, mountFlags, unmount } = await import('../../src/os/index.ts');
  mount('tmpfs', directory.path, 'tmpfs', mountFlags.readOnly, null);
  try {
    await assert.rejects(Volume.open(directory.path, writable), { code: 'E_VOLUME_READ_ONLY' });
  } finally {
    unmount(directory.path, { detach: true });
  }
});

test('an image that cannot fit is refused before anything is fetched', { skip: !isRoot }, async () => {
  await using directory = await temporaryDirectory();
  const { mount, unmount } = await import('../../src/os/index.ts');
  mount('tmpfs', directory.path, 'tmpfs', 0, 'size=1m');
  try {
    await using volume = await Volume.open(directory.path, writable);
    const registry = new FakeRegistry();
    registry.push(debian, await testImage(['a'], 2_000_000));
    await assert.rejects(volume.pull(registry.client, debian, amd64), { code: 'E_NO_SPACE' });
    assert.equal(registry.opened.length, 0);
  } finally {
    unmount(directory.path, { detach: true });
  }
});

test('old copies in ingest are recognised by their times', async () => {
  await using directory = await temporaryDirectory();
  await using volume = await Volume.open(directory.path, writable);
  const left = join(volume.directory, 'ingest', 'file-left');
  await writeFile(left, '');
  await utimes(left, 1, 1);
  // The change time is recent, so the file may still be in use.
  await using _again = await Volume.open(directory.path, writable);
  assert.ok(await stat(left));
});
