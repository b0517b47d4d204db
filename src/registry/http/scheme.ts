import { joinFlight, SingleFlight } from '../../support/index.ts';
import type { Send } from './message.ts';

type Scheme = 'https' | 'http';

/** Something at the other end that does not understand TLS may say nothing at all. */
const patienceMilliseconds = 5000;

/**
 * Finds how registries that may be spoken to in the clear are spoken to: HTTPS if they answer to that at all, otherwise
 * plain HTTP. Each is asked once.
 */
export class SchemeFinder {
  readonly #send: Send;
  readonly #known = new Map<string, Scheme>();
  readonly #asking = new SingleFlight<string, Scheme>();

  /** @param send a sender without retries that accepts any certificate. */
  constructor(send: Send) {
    this.#send = send;
  }

  async find(host: string, signal: AbortSignal | undefined): Promise<Scheme> {
    const known = this.#known.get(host);
    if (known !== undefined) return known;
    const found = await joinFlight(this.#asking, host, () => this.#ask(host, signal), signal);
    this.#known.set(host, found);
    return found;
  }

  async #ask(host: string, signal: AbortSignal | undefined): Promise<Scheme> {
    const patience = AbortSignal.timeout(patienceMilliseconds);
    try {
      const response = await this.#send({
        method: 'GET',
        url: new URL(`https://${host}/v2/`),
        signal: signal === undefined ? patience : AbortSignal.any([signal, patience]),
      });
      await response.body.dump();
      return 'https';
    } catch {
      signal?.throwIfAborted();
      return 'http';
    }
  }
}

/** Registries on this machine may be spoken to in plain HTTP, as with Docker. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/:[0-9]+$/, '');
  return name === 'localhost' || name === '[::1]' || /^127\.[0-9]+\.[0-9]+\.[0-9]+$/.test(name);
}
