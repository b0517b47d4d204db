import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Database, SqliteError } from 'better-sqlite3';
import { type Progress, messageOf, randomName, systemErrorCode } from '../support/index.ts';
import { FileLock } from './file-lock.ts';
import { isMissing } from './storage.ts';

/** Which image a row is about. */
export interface ImageKey {
  readonly reference: string;
  /** As `os/architecture[/variant]`; empty for an entry without platform. */
  readonly platform: string;
}

/** What the index database says about an image: a view of `index.json`, with the uses that only it counts. */
export interface ImageRow extends ImageKey {
  readonly manifestDigest: string;
  /** Bytes of manifest, configuration and compressed layers; 0 when not known. */
  readonly size: number;
  /** Milliseconds since the epoch, as all times here. */
  readonly pulledAt: number;
  readonly checkedAt: number;
  readonly lastUsedAt: number | null;
  readonly uses: number;
  readonly pinned: boolean;
}

/** A row as writers give it; the uses of a row already there are kept. */
export type ImageRecord = Omit<ImageRow, 'lastUsedAt' | 'uses'>;

export const schemaVersion = 1;

const schema = `
  CREATE TABLE images (
    reference TEXT NOT NULL,
    platform TEXT NOT NULL,
    manifest_digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    pulled_at INTEGER NOT NULL,
    checked_at INTEGER NOT NULL,
    last_used_at INTEGER,
    uses INTEGER NOT NULL DEFAULT 0,
    pinned INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (reference, platform)
  ) STRICT, WITHOUT ROWID;
  PRAGMA user_version = ${schemaVersion};
`;

const columns = `reference, platform, manifest_digest AS manifestDigest, size, pulled_at AS pulledAt,
  checked_at AS checkedAt, last_used_at AS lastUsedAt, uses, pinned`;

export interface IndexDatabaseOptions {
  /** The volume. */
  readonly directory: string;
  readonly writable: boolean;
  readonly progress?: Progress | undefined;
  /** What `index.json` says, to fill a new database from. */
  readonly records: () => Promise<readonly ImageRecord[]>;
}

/**
 * `index.db`: whatever happens to it, nothing fails. Readers go on without it; writers set a corrupt one aside and fill
 * a new one from `index.json`. A rollback journal (not WAL) lets it be read across a read-only mount.
 */
export class IndexDatabase implements Disposable {
  readonly #options: IndexDatabaseOptions;
  #connection: Database | undefined;
  #queue: Promise<void> = Promise.resolve();

  constructor(options: IndexDatabaseOptions) {
    this.#options = options;
  }

  get path(): string {
    return join(this.#options.directory, 'index.db');
  }

  /** All rows, or undefined when there is no usable index now. */
  async rows(): Promise<ImageRow[] | undefined> {
    try {
      const connection = this.#connection ?? (await openDatabase(this.path, { readonly: true }));
      try {
        if (connection.pragma('user_version', { simple: true }) !== schemaVersion) return undefined;
        const rows = connection.prepare(`SELECT ${columns} FROM images`).all() as (Omit<
          ImageRow,
          'pinned'
        > & {
          pinned: number;
        })[];
        return rows.map((row) => ({ ...row, pinned: row.pinned !== 0 }));
      } finally {
        if (connection !== this.#connection) connection.close();
      }
    } catch (error) {
      if (isSqliteError(error)) return undefined;
      throw error;
    }
  }

  /** Adds rows or brings them up to date. Failures are warned of. */
  put(records: readonly ImageRecord[]): Promise<void> {
    return this.#change((connection) => putRecords(connection, records));
  }

  /** Takes rows out. Failures are warned of. */
  remove(keys: readonly ImageKey[]): Promise<void> {
    return this.#change((connection) => {
      const statement = connection.prepare('DELETE FROM images WHERE reference = ? AND platform = ?');
      for (const { reference, platform } of keys) statement.run(reference, platform);
    });
  }

  /** Notes which images are pinned. Failures are warned of. */
  setPinned(keys: readonly ImageKey[], pinned: boolean): Promise<void> {
    return this.#change((connection) => {
      const statement = connection.prepare(
        'UPDATE images SET pinned = ? WHERE reference = ? AND platform = ?',
      );
      for (const { reference, platform } of keys) statement.run(pinned ? 1 : 0, reference, platform);
    });
  }

  /** Counts a use of each image. Failures are warned of. */
  recordUses(keys: readonly ImageKey[], at: number): Promise<void> {
    return this.#change((connection) => {
      const statement = connection.prepare(
        'UPDATE images SET uses = uses + 1, last_used_at = max(coalesce(last_used_at, 0), ?) WHERE reference = ? AND platform = ?',
      );
      for (const { reference, platform } of keys) statement.run(at, reference, platform);
    });
  }

  [Symbol.dispose](): void {
    this.#connection?.close();
    this.#connection = undefined;
  }

  /** One change after the other; a corrupt database is replaced once and the change made in the new one. */
  #change(work: (connection: Database) => void): Promise<void> {
    if (!this.#options.writable) return Promise.resolve();
    const done = this.#queue.then(async () => {
      try {
        await this.#attempt(work);
      } catch (error) {
        if (!isSqliteError(error) && systemErrorCode(error) === undefined) throw error;
        this.#options.progress?.warn(`the volume's index database was not updated: ${messageOf(error)}`);
      }
    });
    this.#queue = done.then(
      () => undefined,
      () => undefined,
    );
    return done;
  }

  async #attempt(work: (connection: Database) => void): Promise<void> {
    try {
      await this.#transaction(work);
    } catch (error) {
      if (!isCorruption(error)) throw error;
      await this.#setAside(messageOf(error));
      await this.#transaction(work);
    }
  }

  async #transaction(work: (connection: Database) => void): Promise<void> {
    const connection = (this.#connection ??= await this.#openForWriting());
    connection.transaction(work).immediate(connection);
  }

  async #openForWriting(): Promise<Database> {
    const connection = await openDatabase(this.path, { readonly: false });
    try {
      connection.pragma('journal_mode = DELETE');
      const version = connection.pragma('user_version', { simple: true });
      if (version === 0) await this.#initialize(connection);
      else if (version !== schemaVersion) throw new SchemaError(Number(version));
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  async #initialize(connection: Database): Promise<void> {
    const records = await this.#options.records();
    connection
      .transaction(() => {
        // Another process may have done it while this one waited for the lock.
        if (connection.pragma('user_version', { simple: true }) !== 0) return;
        connection.exec(schema);
        putRecords(connection, records);
      })
      .immediate();
  }

  /** Renames under a lock, and only what is still corrupt: another process may have put a new one there already. */
  async #setAside(why: string): Promise<void> {
    this[Symbol.dispose]();
    const lockPath = join(this.#options.directory, 'ingest', 'index-db.lock');
    await using _lock = await FileLock.acquire(lockPath);
    if (await isSound(this.path)) return;
    const aside = `${this.path}.${randomName('corrupt-')}`;
    try {
      await rename(this.path, aside);
    } catch (error) {
      if (!isMissing(error)) throw error;
    }
    // A journal that outlived its database would be played back into the new one.
    await rm(`${this.path}-journal`, { force: true });
    this.#options.progress?.warn(
      `the volume's index database was damaged (${why}); rebuilt, old one kept as ${aside}`,
    );
  }
}

/** An older schema is rebuilt like a corrupt one, the database being only a view; a newer one belongs to a newer Kiln. */
class SchemaError extends Error {
  override readonly name = 'SchemaError';
  readonly code: string;

  constructor(version: number) {
    super(`it has schema version ${version}, this version of Kiln knows ${schemaVersion}`);
    this.code = version > schemaVersion ? 'SQLITE_SCHEMA_NEWER' : 'SQLITE_SCHEMA_OLDER';
  }
}

async function openDatabase(path: string, { readonly }: { readonly readonly: boolean }): Promise<Database> {
  const { default: Sqlite } = await import('better-sqlite3');
  // The timeout is set when the database is opened, so before any statement.
  return new Sqlite(path, { readonly, fileMustExist: readonly, timeout: readonly ? 250 : 10_000 });
}

function putRecords(connection: Database, records: readonly ImageRecord[]): void {
  const statement = connection.prepare(`
    INSERT INTO images (reference, platform, manifest_digest, size, pulled_at, checked_at, pinned)
    VALUES (@reference, @platform, @manifestDigest, @size, @pulledAt, @checkedAt, @pinned)
    ON CONFLICT (reference, platform) DO UPDATE SET manifest_digest = excluded.manifest_digest, size = excluded.size,
      pulled_at = excluded.pulled_at, checked_at = excluded.checked_at, pinned = excluded.pinned`);
  for (const record of records) statement.run({ ...record, pinned: record.pinned ? 1 : 0 });
}

async function isSound(path: string): Promise<boolean> {
  try {
    const connection = await openDatabase(path, { readonly: true });
    try {
      if (connection.pragma('user_version', { simple: true }) !== schemaVersion) return false;
      connection.prepare(`SELECT ${columns} FROM images LIMIT 1`).get();
      return connection.pragma('quick_check(1)', { simple: true }) === 'ok';
    } finally {
      connection.close();
    }
  } catch (error) {
    if (isSqliteError(error)) return false;
    throw error;
  }
}

/** All of SQLite's errors, whatever their extended code; also what stands for them here. */
function isSqliteError(error: unknown): error is SqliteError {
  return systemErrorCode(error)?.startsWith('SQLITE_') === true;
}

function isCorruption(error: unknown): boolean {
  const code = systemErrorCode(error) ?? '';
  return /^SQLITE_(CORRUPT|NOTADB|SCHEMA_OLDER|ERROR)/.test(code);
}
