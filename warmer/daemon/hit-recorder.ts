import {
  addHits,
  type CacheKey,
  encodeHits,
  hitsTag,
  keyOfTag,
  keyTag,
  openEntryStore,
  readHits,
} from '../../src/layercache/index.ts';
import { parseReference, type Reference } from '../../src/oci/index.ts';
import { messageOf, type Progress, UsageError } from '../../src/support/index.ts';
import { type Clock, every } from './clock.ts';
import type { RecordHitsPolicy } from './configuration.ts';
import type { RegistryClients } from './registry-clients.ts';

export interface HitRecorderParts {
  readonly clients: RegistryClients;
  readonly clock: Clock;
  readonly progress: Progress;
  /** The name of this node in tags: nobody else writes under it. */
  readonly node: string;
}

/** The hits of one repository on one day. */
interface DayOfHits {
  readonly location: string;
  readonly day: Date;
  readonly hits: Map<CacheKey, number>;
  /** There are some that the repository does not have yet. */
  pending: boolean;
  /** What was written before a restart has been read. */
  resumed: boolean;
}

/** Milliseconds between two writings of a record. */
const interval = 15 * 60_000;
/** Milliseconds that a daemon that ends has for what is not written. */
const lastChance = 5000;
/** Repositories with hits on one day, and hits of each; builds that report more are not believed. */
const limits = { repositories: 200, hits: 50_000 };

/**
 * Collects what builds report to have hit, and from time to time writes it into the cache repositories, where
 * `warmer remote` reads when an entry was last hit (docs/remote-cache.md). It costs builds nothing, and loses little: what
 * was reported since the last writing, when the daemon is killed.
 */
export class HitRecorder implements AsyncDisposable {
  readonly #parts: HitRecorderParts;
  readonly #days = new Map<string, DayOfHits>();
  readonly #failed = new Set<string>();
  readonly #timer: Disposable;
  #policy: RecordHitsPolicy;
  #writing: Promise<void> = Promise.resolve();

  constructor(parts: HitRecorderParts, policy: RecordHitsPolicy) {
    this.#parts = parts;
    this.#policy = policy;
    this.#timer = every(
      parts.clock,
      () => interval,
      () => void this.write(),
    );
  }

  configure(policy: RecordHitsPolicy): void {
    this.#policy = policy;
  }

  /** A build hit these entries. Keys that are none are left out, as is a repository that is not to be written to. */
  note(location: string, keys: readonly string[]): void {
    const reference = this.#allowed(location);
    if (reference === undefined) return;
    const now = new Date(this.#parts.clock.now());
    const name = `${reference.registry}/${reference.repository}`;
    const id = hitsTag(now, name);
    let day = this.#days.get(id);
    if (day === undefined) {
      if (this.#days.size >= limits.repositories) return;
      day = { location: name, day: now, hits: new Map(), pending: false, resumed: false };
      this.#days.set(id, day);
    }
    for (const text of keys) {
      const key = keyOfTag(keyTag(text as CacheKey));
      if (key === undefined || (day.hits.size >= limits.hits && !day.hits.has(key))) continue;
      day.hits.set(key, Math.floor(now.getTime() / 1000));
      day.pending = true;
    }
  }

  /** Writes what is not written yet; one writing after another. */
  write(signal?: AbortSignal): Promise<void> {
    this.#writing = this.#writing.then(() => this.#writeAll(signal));
    return this.#writing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#timer[Symbol.dispose]();
    await this.write(AbortSignal.timeout(lastChance));
  }

  async #writeAll(signal: AbortSignal | undefined): Promise<void> {
    const today = hitsTag(new Date(this.#parts.clock.now()), '');
    for (const [id, day] of this.#days) {
      try {
        if (day.pending) await this.#writeDay(day, signal);
        // No more will come to a day that is over.
        if (hitsTag(day.day, '') !== today) this.#days.delete(id);
        this.#failed.delete(day.location);
      } catch (error) {
        this.#fail(day, error);
      }
    }
  }

  async #writeDay(day: DayOfHits, signal: AbortSignal | undefined): Promise<void> {
    const { clients, node } = this.#parts;
    await clients.use(this.#policy.secret, async (client) => {
      const store = openEntryStore(day.location, client);
      const tag = hitsTag(day.day, node);
      if (!day.resumed) addHits(day.hits, await readHits(store, tag, signal));
      day.resumed = true;
      // What comes in while this is written is for the next time.
      day.pending = false;
      await store.putArtifact(encodeHits(tag, day.hits), signal);
    });
  }

  /** What could not be written is tried again; of a repository that does not let us it is said once. */
  #fail(day: DayOfHits, error: unknown): void {
    day.pending = true;
    if (this.#failed.has(day.location)) return;
    this.#failed.add(day.location);
    this.#parts.progress.warn(`hits were not recorded in ${day.location}: ${messageOf(error)}`);
  }

  #allowed(location: string): Reference | undefined {
    try {
      const reference = parseReference(location);
      return this.#policy.repositories.some((pattern) => pattern.matches(reference)) ? reference : undefined;
    } catch (error) {
      // Such as the OCI layout of a build on this machine.
      if (error instanceof UsageError) return undefined;
      throw error;
    }
  }
}
