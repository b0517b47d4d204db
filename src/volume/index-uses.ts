import type { Database } from 'better-sqlite3';
import type { ImageKey, IndexDatabase } from './index-db.ts';

/** How often an image was used. Times in milliseconds since the epoch. */
export interface ImageUses {
  readonly uses: number;
  readonly lastUsedAt: number;
}

/** Uses of an image on one day. */
export interface DailyUses {
  /** Days since the epoch, in UTC. */
  readonly day: number;
  readonly uses: number;
}

const millisecondsOfDay = 24 * 3600_000;
/** Uses by day are kept this long. */
const historyDays = 90;

/** What is known about one image's uses, by {@link keyOf}. */
export type UsesByImage = ReadonlyMap<string, ImageUses>;

/** One string for an image and its platform. */
export function keyOf({ reference, platform }: ImageKey): string {
  return `${reference} ${platform}`;
}

export function loadUses(connection: Database): UsesByImage {
  const rows = connection.prepare('SELECT reference, platform, uses, last_used_at FROM uses').raw().all() as [
    string,
    string,
    number,
    number,
  ][];
  return new Map(
    rows.map(([reference, platform, uses, lastUsedAt]) => [
      keyOf({ reference, platform }),
      { uses, lastUsedAt },
    ]),
  );
}

/** The days on which an image was used, oldest first. */
export function loadDailyUses(connection: Database, { reference, platform }: ImageKey): DailyUses[] {
  return connection
    .prepare('SELECT day, uses FROM daily_uses WHERE reference = ? AND platform = ? ORDER BY day')
    .all(reference, platform) as DailyUses[];
}

/** Counts a use of each image. Failures are warned of. */
export function recordUses(index: IndexDatabase, keys: readonly ImageKey[], at: number): Promise<void> {
  const day = Math.floor(at / millisecondsOfDay);
  return index.change((connection) => {
    const total = connection.prepare(`
      INSERT INTO uses (reference, platform, uses, last_used_at) VALUES (?, ?, 1, ?)
      ON CONFLICT DO UPDATE SET uses = uses + 1, last_used_at = max(last_used_at, excluded.last_used_at)`);
    const daily = connection.prepare(`
      INSERT INTO daily_uses (reference, platform, day, uses) VALUES (?, ?, ?, 1)
      ON CONFLICT DO UPDATE SET uses = uses + 1`);
    for (const { reference, platform } of keys) {
      total.run(reference, platform, at);
      daily.run(reference, platform, day);
    }
    connection.prepare('DELETE FROM daily_uses WHERE day < ?').run(day - historyDays);
  });
}

/** Forgets the uses of all other images. Failures are warned of. */
export function keepUsesOf(index: IndexDatabase, images: readonly ImageKey[]): Promise<void> {
  const kept = new Set(images.map(keyOf));
  return index.change((connection) => {
    for (const table of ['uses', 'daily_uses']) {
      const known = connection
        .prepare(`SELECT DISTINCT reference, platform FROM ${table}`)
        .all() as ImageKey[];
      const forget = connection.prepare(`DELETE FROM ${table} WHERE reference = ? AND platform = ?`);
      for (const key of known) if (!kept.has(keyOf(key))) forget.run(key.reference, key.platform);
    }
  });
}
