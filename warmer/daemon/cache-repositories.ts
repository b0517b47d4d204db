import { keyOfTag } from '../../src/layercache/index.ts';
import { parseReference, type Reference } from '../../src/oci/index.ts';
import { type Progress, UsageError } from '../../src/support/index.ts';
import { CacheEntries, type StoredEntries } from './cache-entries.ts';
import type { Clock } from './clock.ts';
import type { ConfiguredCacheRepository } from './configuration.ts';
import { judgeFailure, wordsOf } from './pull-outcome.ts';
import { backoff, nextRefresh, type Random } from './refresh.ts';
import type { RegistryClients } from './registry-clients.ts';
import type { RegistryGates } from './registry-gates.ts';
import type { Wish } from './wishes.ts';

export interface CacheRepositoriesParts {
  readonly clients: RegistryClients;
  readonly gates: RegistryGates;
  readonly clock: Clock;
  readonly random: Random;
  readonly progress: Progress;
  /** Called when other entries than before are to be kept warm. */
  readonly onChange: () => void;
  readonly signal: AbortSignal;
}

/** By `registry/repository`. */
export type CacheRepositoriesState = Readonly<Record<string, StoredEntries>>;

interface Watched {
  configured: ConfiguredCacheRepository;
  readonly entries: CacheEntries;
  timer: Disposable | undefined;
  failures: number;
  updating: Promise<void> | undefined;
}

const firstPause = 15_000;
const longestPause = 1_800_000;

/** Looks into cache repositories from time to time, so that their newest entries are kept warm like images. */
export class CacheRepositories implements AsyncDisposable {
  readonly #parts: CacheRepositoriesParts;
  readonly #watched = new Map<string, Watched>();
  readonly #state: CacheRepositoriesState;

  constructor(parts: CacheRepositoriesParts, state: CacheRepositoriesState) {
    this.#parts = parts;
    this.#state = state;
  }

  /** Watches these repositories from now on; new ones are looked into at once. */
  configure(repositories: readonly ConfiguredCacheRepository[]): void {
    const names = new Set(repositories.map(nameOfRepository));
    for (const [name, { timer }] of this.#watched) {
      if (names.has(name)) continue;
      timer?.[Symbol.dispose]();
      this.#watched.delete(name);
    }
    for (const configured of repositories) {
      const name = nameOfRepository(configured);
      const known = this.#watched.get(name);
      if (known === undefined) {
        const entries = new CacheEntries(this.#state[name]);
        const watched: Watched = { configured, entries, timer: undefined, failures: 0, updating: undefined };
        this.#watched.set(name, watched);
        this.#wait(watched, 0);
        continue;
      }
      const changed = JSON.stringify(known.configured.refresh) !== JSON.stringify(configured.refresh);
      known.configured = configured;
      if (changed && known.updating === undefined) this.#wait(known, 0);
    }
  }

  wishes(): Wish[] {
    return [...this.#watched.values()].flatMap(({ configured, entries }) => entries.wishes(configured));
  }

  /** What has to survive a restart. */
  state(): CacheRepositoriesState {
    return Object.fromEntries([...this.#watched].map(([name, { entries }]) => [name, entries.state()]));
  }

  /** Builds hit these entries of a repository. */
  used(location: string, keys: readonly string[]): void {
    this.#find(location)?.entries.used(keys, this.#parts.clock.now());
  }

  /** An entry turned out to be of no use on this node. */
  exclude(reference: Reference): void {
    const key = keyOfTag(reference.tag ?? '');
    const watched = this.#watched.get(nameOfRepository(reference));
    if (key === undefined || watched === undefined) return;
    watched.entries.exclude(key);
    this.#parts.onChange();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { timer } of this.#watched.values()) timer?.[Symbol.dispose]();
    await Promise.all([...this.#watched.values()].flatMap(({ updating }) => updating ?? []));
  }

  #find(location: string): Watched | undefined {
    try {
      return this.#watched.get(nameOfRepository(parseReference(location)));
    } catch (error) {
      // Such as the OCI layout of a build on this machine.
      if (error instanceof UsageError) return undefined;
      throw error;
    }
  }

  #wait(watched: Watched, milliseconds: number): void {
    watched.timer?.[Symbol.dispose]();
    watched.timer = this.#parts.clock.after(milliseconds, () => {
      watched.updating = this.#update(watched).finally(() => {
        watched.updating = undefined;
      });
    });
  }

  async #update(watched: Watched): Promise<void> {
    const { clients, gates, clock, random, progress, onChange, signal } = this.#parts;
    const { configured, entries } = watched;
    const closedUntil = gates.closedUntil(configured.registry);
    if (closedUntil !== undefined) return this.#wait(watched, closedUntil - clock.now());
    using visit = gates.visit(configured.registry);
    try {
      await clients.use(configured.pullSecret, (client) => entries.update(client, configured, signal));
      visit.succeeded();
      watched.failures = 0;
      const next = nextRefresh(configured.refresh, clock.now(), random);
      if (next !== undefined) this.#wait(watched, next - clock.now());
    } catch (error) {
      const end = judgeFailure(error, signal);
      if (end.outcome === 'stopped') return;
      if (end.outcome === 'rate_limited') visit.failed({ retryAfter: end.retryAfter });
      else if (end.registryAway) visit.failed(undefined);
      else visit.succeeded();
      watched.failures += 1;
      progress.warn(`the cache repository ${nameOfRepository(configured)} was not read: ${wordsOf(error)}`);
      this.#wait(watched, backoff(watched.failures, firstPause, longestPause, random));
    }
    onChange();
  }
}

function nameOfRepository({ registry, repository }: Pick<Reference, 'registry' | 'repository'>): string {
  return `${registry}/${repository}`;
}
