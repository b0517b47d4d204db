import type { Layer } from '../layer/index.ts';
import type { CacheKey } from './keys.ts';
import type { LastBuild } from './last-build.ts';
import type { LayerCache, LookupHit, LookupOptions, LookupResult, Missed, NewEntry } from './layer-cache.ts';

/** Several caches as one: some are read, in an order, and one or none of them is written. */
export class CombinedCache implements LayerCache {
  readonly location: string;
  readonly origin: LayerCache['origin'];
  readonly #sources: readonly LayerCache[];
  readonly #target: LayerCache | undefined;

  /** @param target undefined when nothing is ever stored. */
  constructor(sources: readonly LayerCache[], target: LayerCache | undefined) {
    this.#sources = sources;
    this.#target = target;
    this.location = target?.location ?? sources.map(({ location }) => location).join(', ');
    this.origin = target?.origin;
  }

  /** All are asked at the same time; of those that have a key, the order decides. */
  async lookup(keys: readonly CacheKey[], options: LookupOptions): Promise<Map<CacheKey, LookupResult>> {
    const answers = await Promise.all(
      this.#sources.map(async (source) => {
        const results = await source.lookup(keys, options);
        const failed = [...results.values()].find((result) => isFailure(result));
        if (failed !== undefined && failed.outcome !== 'hit') options.onFailure?.(source.location, failed);
        return { location: source.location, results };
      }),
    );
    return new Map(
      keys.map((key) => {
        const found = answers.flatMap(({ location, results }) => {
          const result = results.get(key);
          return result === undefined ? [] : [{ location, result }];
        });
        return [key, this.#merge(found)];
      }),
    );
  }

  store(entry: NewEntry, layer: Layer | undefined, signal?: AbortSignal): Promise<void> {
    if (this.#target === undefined) throw new Error('no cache is written');
    return this.#target.store(entry, layer, signal);
  }

  /** What the first of the caches that has something remembers. @throws what the others threw, when none has. */
  async recall(tag: string, signal?: AbortSignal): Promise<LastBuild | undefined> {
    const recalled = await Promise.allSettled(this.#sources.map((source) => source.recall(tag, signal)));
    signal?.throwIfAborted();
    const builds = recalled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    const failure = recalled.find((one) => one.status === 'rejected');
    const found = builds.find((build) => build !== undefined);
    if (found === undefined && failure !== undefined) throw failure.reason;
    return found;
  }

  async remember(tag: string, build: LastBuild, signal?: AbortSignal): Promise<void> {
    await this.#target?.remember(tag, build, signal);
  }

  /** What several caches say of one key. A miss that has something to say, such as `expired`, comes before one that has not. */
  #merge(found: readonly { readonly location: string; readonly result: LookupResult }[]): LookupResult {
    const [hit, ...others] = found.flatMap(({ result }): LookupHit[] =>
      result.outcome === 'hit' ? [result] : [],
    );
    if (hit !== undefined) return { ...hit, others };
    const missed = found.flatMap(({ location, result }): Missed[] => {
      if (result.outcome === 'hit') return [];
      const detail = this.#sources.length === 1 ? result.detail : `${result.detail}, in ${location}`;
      return [result.outcome === 'miss' ? result : { ...result, detail }];
    });
    return (
      missed.find((result) => result.outcome !== 'miss' && !isFailure(result)) ??
      missed.find(({ outcome }) => outcome === 'miss') ??
      missed[0] ?? { outcome: 'miss', detail: 'no layer cache is read' }
    );
  }
}

/** Whether a cache could not be asked. */
function isFailure({ outcome }: LookupResult): boolean {
  return outcome === 'error' || outcome === 'unauthorized';
}
