import type { Clock } from './clock.ts';
import { backoff, type Random } from './refresh.ts';

/** One visit to a registry. Ending it without a word, as when it is aborted, changes nothing. */
export interface Visit extends Disposable {
  succeeded(): void;
  /** @param retryAfter milliseconds that the registry asks to wait, when it limits requests. */
  failed(limit: { readonly retryAfter: number | undefined } | undefined): void;
}

interface Gate {
  /** In a row, of the registry as a whole. */
  failures: number;
  /** Milliseconds since 1970. */
  closedUntil: number;
  limitedUntil: number;
  lastFailure: number;
  /** One visitor finds out whether the registry is back, before all others come. */
  probing: boolean;
}

const firstPause = 5000;
const longestPause = 600_000;
/** What a registry that limits requests may ask for at most; Docker Hub counts six hours. */
const longestLimit = 6 * 3600_000;
/** A registry that limits requests and does not say for how long. */
const usualLimit = 60_000;
const probePause = 1000;

/**
 * Keeps away from registries that fail: one that cannot be reached, has a fault or limits requests is left alone for a
 * while, longer each time, by all its images together.
 */
export class RegistryGates {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #gates = new Map<string, Gate>();

  constructor(clock: Clock, random: Random) {
    this.#clock = clock;
    this.#random = random;
  }

  /** When a registry may be asked again (milliseconds since 1970); undefined: now. */
  closedUntil(registry: string): number | undefined {
    const gate = this.#gates.get(registry);
    if (gate === undefined) return undefined;
    const now = this.#clock.now();
    if (gate.closedUntil > now) return gate.closedUntil;
    return gate.probing ? now + probePause : undefined;
  }

  /** Until when a registry has asked to be left alone, whoever waits; undefined when it has not. */
  limitedUntil(registry: string): number | undefined {
    const until = this.#gates.get(registry)?.limitedUntil ?? 0;
    return until > this.#clock.now() ? until : undefined;
  }

  /** Begins a visit. Whether it makes sense is for the caller to have asked. */
  visit(registry: string): Visit {
    const began = this.#clock.now();
    const known = this.#gates.get(registry);
    const probe = known !== undefined && !known.probing;
    if (probe) known.probing = true;
    const end = (): void => {
      if (probe) known.probing = false;
    };
    return {
      succeeded: () => {
        end();
        this.#gates.delete(registry);
      },
      failed: (limit) => {
        end();
        this.#fail(registry, began, limit);
      },
      [Symbol.dispose]: end,
    };
  }

  #fail(
    registry: string,
    began: number,
    limit: { readonly retryAfter: number | undefined } | undefined,
  ): void {
    const now = this.#clock.now();
    const gate = this.#gates.get(registry) ?? {
      failures: 0,
      closedUntil: 0,
      limitedUntil: 0,
      lastFailure: -Infinity,
      probing: false,
    };
    this.#gates.set(registry, gate);
    // Several visits that met the same fault are one failure.
    if (began > gate.lastFailure) {
      gate.failures += 1;
      const pause = backoff(gate.failures, firstPause, longestPause, this.#random);
      gate.closedUntil = Math.max(gate.closedUntil, now + pause);
    }
    gate.lastFailure = now;
    if (limit === undefined) return;
    const asked = Math.min(limit.retryAfter ?? usualLimit, longestLimit);
    gate.limitedUntil = Math.max(gate.limitedUntil, now + asked);
    // A little late rather than early, and not all nodes in the same second.
    gate.closedUntil = Math.max(gate.closedUntil, now + asked * (1 + 0.1 * this.#random()));
  }
}
