import type { Progress, ProgressEvent } from '../src/support/index.ts';
import type { BuildReport, CacheHits, NodeClient } from '../src/volume/index.ts';

/** Milliseconds before a build announces itself, so that it does not stand in the way of its own first step. */
const announceAfter = 300;
/** Hits that a report names at most, and caches. */
const reported = { hits: 5000, caches: 32 };

export interface NodePresenceParts {
  readonly client: NodeClient;
  readonly build: string;
  /** What is built, for people. */
  readonly label: string;
  /** Where layers of steps are looked up, in this order. */
  readonly caches: readonly string[];
  readonly progress: Progress;
}

/**
 * Tells the node's warmer that a build runs, on what, and at its end what it found warm and what it missed. All of that is
 * for the node's sake: it costs the build next to nothing, and whatever goes wrong with it is not the build's concern.
 */
export class NodePresence implements AsyncDisposable {
  /** Set when the build has come to its end. */
  succeeded = false;
  readonly #parts: NodePresenceParts;
  readonly #started = performance.now();
  readonly #listening: Disposable;
  /** By the cache that has them. */
  readonly #hits: ReadonlyMap<string, Set<string>>;
  readonly #steps = { cached: 0, ran: 0 };
  #bases: () => BuildReport['bases'] = () => [];
  #timer: NodeJS.Timeout | undefined;
  #announced: Disposable | undefined;

  constructor(parts: NodePresenceParts) {
    this.#parts = parts;
    this.#hits = new Map(parts.caches.map((location) => [location, new Set<string>()]));
    this.#listening = parts.progress.listen((event) => this.#note(event));
  }

  /** The base images are known. @param bases how each was come by, asked again at the end. */
  begin(bases: () => BuildReport['bases']): void {
    this.#bases = bases;
    const { client, build, label } = this.#parts;
    const images = bases().map(({ reference, platform }) => ({ reference, platform }));
    this.#timer = setTimeout(() => {
      this.#announced = client.announce({ build, label, images });
    }, announceAfter);
    this.#timer.unref();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#timer);
    this.#listening[Symbol.dispose]();
    const { client, build } = this.#parts;
    const [cache, ...otherCaches] = this.#cacheHits();
    await client.report({
      build,
      succeeded: this.succeeded,
      seconds: (performance.now() - this.#started) / 1000,
      bases: this.#bases(),
      steps: this.#steps,
      ...(cache === undefined ? {} : { cache }),
      ...(otherCaches.length === 0 ? {} : { otherCaches }),
    });
    this.#announced?.[Symbol.dispose]();
  }

  #cacheHits(): CacheHits[] {
    let left = reported.hits;
    return [...this.#hits].slice(0, reported.caches).map(([location, all]) => {
      const hits = [...all].slice(0, left);
      left -= hits.length;
      return { location, hits };
    });
  }

  #note(event: ProgressEvent): void {
    if (event.type === 'cache' && event.outcome === 'hit')
      this.#hits.get(event.location ?? '')?.add(event.key);
    if (event.type !== 'step-end') return;
    if (event.outcome === 'cached') this.#steps.cached += 1;
    if (event.outcome === 'ran') this.#steps.ran += 1;
  }
}
