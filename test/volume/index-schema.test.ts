import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import Sqlite from 'better-sqlite3';
import { parseReference } from '../../src/oci/index.ts';
import { Progress } from '../../src/support/index.ts';
import { Volume } from '../../src/volume/index.ts';
import { type Ended, kiln } from '../support/programs.ts';
import { amd64, FakeRegistry, temporaryDirectory, testImage } from './fixtures.ts';

const names = ['docker.io/library/used:1', 'docker.io/library/unused:1', 'docker.io/library/pinned:1'];
const platform = 'linux/amd64';

describe('the index database of another version', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let database: string;
  before(async () => {
    directory = await temporaryDirectory();
    database = join(directory.path, 'index.db');
    const registry = new FakeRegistry();
    await using volume = await Volume.open(directory.path, { access: 'read-write', durable: false });
    for (const name of names) {
      registry.push(parseReference(name), await testImage(['base', name]));
      await volume.pull(registry.client, parseReference(name), amd64);
    }
    await volume.setPinned(parseReference(names[2] ?? ''), undefined, true);
  });
  after(() => directory[Symbol.asyncDispose]());

  /** Puts a database there as Kiln wrote it before it kept uses by day and an inventory. */
  async function writeFirstVersion(): Promise<void> {
    await writeFile(database, '');
    const connection = new Sqlite(database);
    connection.exec(`
      PRAGMA journal_mode = DELETE;
      CREATE TABLE images (
        reference TEXT NOT NULL, platform TEXT NOT NULL, manifest_digest TEXT NOT NULL, size INTEGER NOT NULL,
        pulled_at INTEGER NOT NULL, checked_at INTEGER NOT NULL, last_used_at INTEGER,
        uses INTEGER NOT NULL DEFAULT 0, pinned INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (reference, platform)
      ) STRICT, WITHOUT ROWID;
      PRAGMA user_version = 1;`);
    const insert = connection.prepare(`INSERT INTO images VALUES (?, ?, 'sha256:00', 1000, 1, 1, ?, ?, ?)`);
    insert.run(names[0], platform, 1_750_000_000_000, 41, 0);
    insert.run(names[1], platform, null, 0, 0);
    insert.run(names[2], platform, 1_760_000_000_000, 7, 1);
    connection.close();
  }

  async function state(access: 'read-only' | 'read-write'): Promise<unknown[]> {
    await using volume = await Volume.open(directory.path, { access, durable: false });
    if (access === 'read-write') await volume.prepareIndex();
    return (await volume.images()).map((image) => [
      ...[image.reference, image.platform, image.complete, image.unpacked, image.pinned],
      ...[image.uses, image.lastUsedAt?.getTime()],
    ]);
  }

  const expected = (uses: readonly (readonly [number, number | undefined])[]): unknown[] =>
    names.map((name, index) => [name, platform, true, true, index === 2, ...(uses[index] ?? [])]);
  const all = expected([
    [41, 1_750_000_000_000],
    [0, undefined],
    [7, 1_760_000_000_000],
  ]);
  const none = expected(names.map(() => [0, undefined] as const));

  test('is brought up to date with everything in it, when it is older', async () => {
    await writeFirstVersion();
    const before = await readFile(database);
    assert.deepEqual(await state('read-only'), none, 'whoever cannot write it does without');
    assert.deepEqual(await readFile(database), before, 'and leaves it alone');
    assert.deepEqual(await state('read-write'), all);
    assert.deepEqual(await state('read-only'), all);
    using connection = opened(database);
    const tables = connection.prepare(`SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name`);
    assert.deepEqual(tables.pluck().all(), ['daily_uses', 'snapshot', 'uses']);
    assert.equal(connection.pragma('user_version', { simple: true }), 2);
    assert.deepEqual(await aside(), []);
  });

  test('is brought up to date as a whole or not at all', async () => {
    await writeFirstVersion();
    {
      using connection = opened(database);
      connection.exec(`CREATE TABLE snapshot (x)`);
    }
    const before = await readFile(database);
    const warnings: string[] = [];
    const progress = new Progress();
    progress.listen((event) => event.type === 'log' && warnings.push(event.message));
    await using volume = await Volume.open(directory.path, {
      access: 'read-write',
      durable: false,
      progress,
    });
    await volume.prepareIndex();
    const [kept, ...others] = await aside();
    assert.ok(kept !== undefined && others.length === 0);
    assert.deepEqual(await readFile(join(directory.path, kept)), before, 'it is kept as it was');
    assert.match(warnings.join('\n'), /was damaged .*already exists.*; a new one was started/);
    assert.equal((await volume.images()).length, 3);
  });

  test('is left alone when it is newer, by all commands, which say what to do', async () => {
    await writeFirstVersion();
    {
      using connection = opened(database);
      connection.pragma('user_version = 9');
    }
    const before = await readFile(database);
    const listed = await warmer('ls', '-o', 'json');
    assert.equal(listed.code, 0, listed.stderr);
    assert.deepEqual(
      (JSON.parse(listed.stdout) as { reference: string }[]).map(({ reference }) => reference),
      names,
    );
    const remedy =
      /a newer version of Kiln made it, with schema version 9, .*or move index\.db away and run warmer reindex/;
    assert.match(listed.stderr, remedy);
    assert.equal(listed.stderr.match(/index database/g)?.length, 1, 'once');
    for (const command of ['pin', 'unpin']) {
      const ended = await warmer(command, names[0] ?? '');
      assert.equal(ended.code, 0, ended.stderr);
    }
    const refused = await warmer('reindex');
    assert.equal(refused.code, 3);
    assert.equal(refused.stdout, '', 'it claims nothing');
    assert.match(refused.stderr, /cannot be made anew: .*schema version 9[^]*E_INDEX_NEWER[^]*/);
    assert.match(refused.stderr, /move index\.db away/);
    assert.deepEqual(await readFile(database), before);
  });

  for (const [what, damage] of [
    ['is no database', (): Buffer => Buffer.from('this is not a database at all, but text'.repeat(200))],
    [
      'is damaged somewhere within',
      (sound: Buffer): Buffer =>
        Buffer.concat([sound.subarray(0, 4096), Buffer.alloc(sound.length - 4096, 0xaa)]),
    ],
  ] as const)
    test(`that ${what} is told of with reindex as the remedy, and reindex is one`, async () => {
      await writeFirstVersion();
      await state('read-write');
      for (const name of await aside()) await writeFile(join(directory.path, name), '');
      const kept = (await aside()).length;
      await writeFile(database, damage(await readFile(database)));
      const listed = await warmer('ls');
      assert.equal(listed.code, 0, listed.stderr);
      assert.match(listed.stderr, /index database cannot be used: .* Run warmer reindex to have a new one\./);
      for (const name of names) assert.ok(listed.stdout.includes(name));
      const mended = await warmer('reindex');
      assert.equal(mended.code, 0, mended.stderr);
      assert.match(mended.stdout, /^indexed 3 images$/m);
      assert.match(mended.stderr, /the old one kept as .*index\.db\.corrupt-/);
      assert.equal((await aside()).length, kept + 1);
      const again = await warmer('ls');
      assert.equal(again.stderr, '');
      assert.deepEqual(await state('read-only'), none);
    });

  async function aside(): Promise<string[]> {
    return (await readdir(directory.path)).filter((name) => name.startsWith('index.db.corrupt-'));
  }

  const warmer = (...args: readonly string[]): Promise<Ended> =>
    kiln('warmer', [...args, '--cache-dir', directory.path]);
});

function opened(path: string): Sqlite.Database & Disposable {
  const connection = new Sqlite(path);
  return Object.assign(connection, { [Symbol.dispose]: () => void connection.close() });
}
