import PQueue from 'p-queue';
import { type CacheKey, decodeEntry, keyOfTag, keyTag } from '../../src/layercache/index.ts';
import type { RegistryClient } from '../../src/registry/index.ts';
import { KilnError } from '../../src/support/index.ts';
import type { ConfiguredCacheRepository } from './configuration.ts';
import type { Wish } from './wishes.ts';

/** What is known of an entry; times in milliseconds since 1970. */
interface KnownEntry {
  /** When it was made; undefined for what need not be warm: it has no layer, is damaged, or is of another platform. */
  readonly madeAt: number | undefined;
  usedAt: number;
}

/** The entries of a repository as they are kept on the volume: by key, when each was made; null as `madeAt` undefined. */
export type StoredEntries = Readonly<Record<string, number | null>>;

/** Entries of one repository that are looked at; a registry that lists more is not believed. */
const maximumEntries = 50_000;
const requestsAtOnce = 8;

/**
 * The entries of one cache repository. An entry is an image under a tag made of its key, and says itself when it was made:
 * each manifest is read once, when its tag is first seen.
 */
export class CacheEntries {
  readonly #known = new Map<CacheKey, KnownEntry>();

  constructor(stored: StoredEntries = {}) {
    for (const [tag, madeAt] of Object.entries(stored)) {
      const key = keyOfTag(tag);
      if (key !== undefined) this.#known.set(key, { madeAt: madeAt ?? undefined, usedAt: 0 });
    }
  }

  /** What has to survive a restart. */
  state(): StoredEntries {
    return Object.fromEntries([...this.#known].map(([key, { madeAt }]) => [keyTag(key), madeAt ?? null]));
  }

  /**
   * Lists the repository and reads the entries that are new. What was read before an error is not lost.
   *
   * @throws RegistryError and other errors of the registry.
   */
  async update(
    client: RegistryClient,
    { registry, repository }: ConfiguredCacheRepository,
    signal: AbortSignal,
  ): Promise<void> {
    const source = client.repository({ registry, repository });
    const listed = new Set<CacheKey>();
    for await (const tag of source.listTags(signal)) {
      const key = keyOfTag(tag);
      if (key !== undefined && listed.size < maximumEntries) listed.add(key);
    }
    for (const key of this.#known.keys()) if (!listed.has(key)) this.#known.delete(key);
    const queue = new PQueue({ concurrency: requestsAtOnce });
    const failures: unknown[] = [];
    const fresh = [...listed].filter((key) => !this.#known.has(key));
    const reading = fresh.map((key) =>
      queue.add(async () => {
        signal.throwIfAborted();
        // One failure is enough: the rest is read next time.
        if (failures.length > 0) return;
        try {
          const found = await source.getManifest(keyTag(key), signal);
          if (found !== undefined) this.#learn(key, found.bytes);
        } catch (error) {
          failures.push(error);
        }
      }),
    );
    await Promise.all(reading);
    if (failures.length > 0) throw failures[0];
  }

  /** The entry cannot be used on this node, or is gone. */
  exclude(key: CacheKey): void {
    this.#known.set(key, { madeAt: undefined, usedAt: 0 });
  }

  /** Builds hit these entries: that makes them as good as new. */
  used(keys: readonly string[], now: number): void {
    for (const key of keys) {
      const known = this.#known.get(key as CacheKey);
      if (known !== undefined) known.usedAt = now;
    }
  }

  /** The entries that are to be kept warm: those made or used last. */
  wishes({ registry, repository, newest, platform, ...rule }: ConfiguredCacheRepository): Wish[] {
    return [...this.#known]
      .flatMap(([key, { madeAt, usedAt }]) =>
        madeAt === undefined ? [] : [{ key, at: Math.max(madeAt, usedAt) }],
      )
      .sort((a, b) => b.at - a.at)
      .slice(0, newest)
      .map(({ key }) => ({
        refresh: rule.refresh,
        pullSecret: rule.pullSecret,
        reference: { registry, repository, tag: keyTag(key) },
        platform,
        source: 'cache-repository',
        pin: false,
      }));
  }

  #learn(key: CacheKey, bytes: Uint8Array): void {
    try {
      const { created, layer } = decodeEntry(key, bytes);
      this.#known.set(key, { madeAt: layer === null ? undefined : created.getTime(), usedAt: 0 });
    } catch (error) {
      if (!(error instanceof KilnError)) throw error;
      this.exclude(key);
    }
  }
}
