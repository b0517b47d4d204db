import { EnvironmentError, SingleFlight } from '../../src/support/index.ts';
import type { Warming, WarmingStatus } from './types.ts';

/** Milliseconds for which one look at the daemon answers everybody. */
const maximumAge = 500;

/** The daemon's status, looked at once however many ask at the same time. */
export class StatusCache {
  readonly #warming: Warming;
  readonly #patience: number;
  readonly #flight = new SingleFlight<'status', WarmingStatus>();
  #last: { readonly at: number; readonly status: WarmingStatus } | undefined;

  /** @param patience milliseconds after which a daemon that says nothing is taken for stuck. */
  constructor(warming: Warming, patience: number) {
    this.#warming = warming;
    this.#patience = patience;
  }

  /** True once the daemon has said something. */
  get known(): boolean {
    return this.#last !== undefined;
  }

  /** @throws EnvironmentError `E_WARMER_STUCK`, and what `Warming.status` throws. */
  async get(): Promise<WarmingStatus> {
    if (this.#last !== undefined && performance.now() - this.#last.at < maximumAge) return this.#last.status;
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(
      () => reject(new EnvironmentError('the daemon does not say how it is', { code: 'E_WARMER_STUCK' })),
      this.#patience,
    );
    try {
      return await Promise.race([this.#flight.run('status', () => this.#look()), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #look(): Promise<WarmingStatus> {
    const status = await this.#warming.status();
    this.#last = { at: performance.now(), status };
    return status;
  }
}
