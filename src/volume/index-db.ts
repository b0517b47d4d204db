import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Database, SqliteError } from 'better-sqlite3';
import { EnvironmentError, type Progress, messageOf, randomName, systemErrorCode } from '../support/index.ts';
import { FileLock } from './file-lock.ts';
import { SchemaError, prepareSchema, schemaVersion, versionOf } from './index-schema.ts';
import { isMissing } from './storage.ts';

/** It is not made anew over a newer one's head: that one may be at work on the same volume. */
const newerRemedy = 'Use that version, or move index.db away and run warmer reindex.';

/** Which image a row is about. */
export interface ImageKey {
  readonly reference: string;
  /** As `os/architecture[/variant]`; empty for an entry without platform. */
  readonly platform: string;
}

export interface IndexDatabaseOptions {
  /** The volume. */
  readonly directory: string;
  readonly writable: boolean;
  readonly progress?: Progress | undefined;
}

/**
 * `index.db`: whatever happens to it, nothing fails. Readers go on without it; writers set a corrupt one aside and start
 * a new one, which fills itself from the files. A rollback journal (not WAL) lets it be read across a read-only mount.
 */
export class IndexDatabase implements Disposable {
  readonly #options: IndexDatabaseOptions;
  #connection: Database | undefined;
  #queue: Promise<void> = Promise.resolve();
  #told = false;

  constructor(options: IndexDatabaseOptions) {
    this.#options = options;
  }

  get path(): string {
    return join(this.#options.directory, 'index.db');
  }

  /**
   * Reads in one transaction.
   *
   * @returns undefined when there is no usable database now: locked, missing, damaged, of another version.
   */
  async read<Result>(work: (connection: Database) => Result): Promise<Result | undefined> {
    try {
      const connection = this.#connection ?? (await openDatabase(this.path, { readonly: true }));
      try {
        const version = versionOf(connection);
        if (version > schemaVersion) throw new SchemaError(version);
        if (version < schemaVersion) return undefined;
        return connection.transaction(work)(connection);
      } finally {
        if (connection !== this.#connection) connection.close();
      }
    } catch (error) {
      if (!isSqliteError(error)) throw error;
      this.#tellReader(error);
      return undefined;
    }
  }

  /**
   * Changes it in one transaction, one change after the other; a corrupt database is replaced once and the change made in
   * the new one. Failures are warned of. Does nothing on a volume that cannot be written.
   */
  change(work: (connection: Database) => void): Promise<void> {
    if (!this.#options.writable) return Promise.resolve();
    const done = this.#queue.then(async () => {
      try {
        await this.#attempt(work);
      } catch (error) {
        this.warnOf(error);
      }
    });
    this.#queue = done.then(
      () => undefined,
      () => undefined,
    );
    return done;
  }

  /**
   * Looks through the whole of it, and starts a new one in place of one that is damaged anywhere, for what somebody asked
   * for by name.
   *
   * @throws EnvironmentError `E_INDEX_NEWER`, `E_INDEX_UNUSABLE`.
   */
  async renew(work: (connection: Database) => void): Promise<void> {
    await this.#queue;
    try {
      await this.#attempt((connection) => {
        const [found] = connection.pragma('quick_check(1)') as [{ readonly quick_check: string }];
        if (found.quick_check !== 'ok')
          throw Object.assign(new Error(found.quick_check), { code: 'SQLITE_CORRUPT' });
        work(connection);
      });
    } catch (error) {
      if (!isSqliteError(error)) throw error;
      throw new EnvironmentError(`the volume's index database cannot be made anew: ${messageOf(error)}`, {
        code: error instanceof SchemaError ? 'E_INDEX_NEWER' : 'E_INDEX_UNUSABLE',
        where: this.path,
        cause: error,
        remedy:
          error instanceof SchemaError
            ? newerRemedy
            : 'Another process may be at work on it, or the disk be full; try again.',
      });
    }
  }

  /** Says that the database could not be brought up to date, which is no reason to fail. @throws what is a mistake of Kiln's. */
  warnOf(error: unknown): void {
    if (systemErrorCode(error) === undefined) throw error;
    const remedy = error instanceof SchemaError ? `. ${newerRemedy}` : '';
    this.#options.progress?.warn(`the volume's index database was not updated: ${messageOf(error)}${remedy}`);
  }

  /** A writer mends what is damaged and says so; a reader can only say it, once. What is locked is so for a moment. */
  #tellReader(error: SqliteError): void {
    const isNewer = error instanceof SchemaError;
    if (this.#options.writable || this.#told || !(isNewer || isCorruption(error))) return;
    this.#told = true;
    const remedy = isNewer ? newerRemedy : 'Run warmer reindex to have a new one.';
    this.#options.progress?.warn(
      `the volume's index database cannot be used: ${messageOf(error)}. Only last uses are unknown. ${remedy}`,
    );
  }

  [Symbol.dispose](): void {
    this.#connection?.close();
    this.#connection = undefined;
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
      if (versionOf(connection) !== schemaVersion)
        connection.transaction(prepareSchema).immediate(connection);
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
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
      `the volume's index database was damaged (${why}); a new one was started, the old one kept as ${aside}`,
    );
  }
}

async function openDatabase(path: string, { readonly }: { readonly readonly: boolean }): Promise<Database> {
  const { default: Sqlite } = await import('better-sqlite3');
  // The timeout is set when the database is opened, so before any statement.
  return new Sqlite(path, { readonly, fileMustExist: readonly, timeout: readonly ? 250 : 10_000 });
}

async function isSound(path: string): Promise<boolean> {
  try {
    const connection = await openDatabase(path, { readonly: true });
    try {
      if (versionOf(connection) !== schemaVersion) return false;
      connection.prepare('SELECT reference FROM uses LIMIT 1').get();
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
  return /^SQLITE_(CORRUPT|NOTADB|ERROR)/.test(code);
}
