import type { Database } from 'better-sqlite3';

export const schemaVersion = 2;

/*
 * `uses` and `daily_uses` are what only the database knows. `snapshot` spares readers thousands of files: it has at most one
 * row, an inventory (inventory-codec.ts) with the identities of what it was made from, and counts for nothing when
 * `index.json` or a directory is another by now. Times are milliseconds since the epoch, days are days since then.
 */
const schema = `
  CREATE TABLE uses (
    reference TEXT NOT NULL,
    platform TEXT NOT NULL,
    uses INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    PRIMARY KEY (reference, platform)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE daily_uses (
    reference TEXT NOT NULL,
    platform TEXT NOT NULL,
    day INTEGER NOT NULL,
    uses INTEGER NOT NULL,
    PRIMARY KEY (reference, platform, day)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE snapshot (
    index_identity TEXT NOT NULL,
    blobs_identity TEXT NOT NULL,
    layers_identity TEXT NOT NULL,
    inventory BLOB NOT NULL
  ) STRICT;
  PRAGMA user_version = ${schemaVersion};
`;

/**
 * Makes the tables in a new database, and brings those of an older version up to date.
 *
 * @throws SchemaError for a database of a newer version, which is to be left alone.
 */
export function prepareSchema(connection: Database): void {
  const version = versionOf(connection);
  if (version === schemaVersion) return;
  if (version > schemaVersion) throw new SchemaError(version);
  connection.exec(schema);
  if (version === 1)
    connection.exec(`
      INSERT INTO uses SELECT reference, platform, uses, last_used_at FROM images
        WHERE uses > 0 AND last_used_at IS NOT NULL;
      DROP TABLE images;
    `);
}

export function versionOf(connection: Database): number {
  return Number(connection.pragma('user_version', { simple: true }));
}

/** The database belongs to a newer Kiln. */
export class SchemaError extends Error {
  override readonly name = 'SchemaError';
  readonly code = 'SQLITE_SCHEMA_NEWER';

  constructor(version: number) {
    super(
      `a newer version of Kiln made it, with schema version ${version}, and this one knows ${schemaVersion}`,
    );
  }
}
