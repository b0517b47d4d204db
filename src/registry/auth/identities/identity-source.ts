import { isAbortError, joinFlight, messageOf, SingleFlight } from '../../../support/index.ts';
import type { Credential, CredentialSource, CredentialTarget, Note } from '../credential.ts';

/** How a cloud tells who a machine, pod or job is, and turns that into a credential for its registries. */
export interface Identity {
  /** As messages name it. */
  readonly name: string;
  /** Whether a registry is one of the cloud's, and there is any sign that we are somebody there. */
  knows(registry: string): boolean;
  /** A new credential. Whatever is thrown means that there is none, and why. */
  obtain(registry: string, signal: AbortSignal): Promise<Credential>;
}

/** Metadata services that are not there may take this long to not answer, in milliseconds. */
const patience = 20_000;
/** Credentials are renewed when less than this part of their life is left. */
const renewalShare = 0.2;

interface Kept {
  readonly credential: Credential;
  readonly renewAt: number;
}

/**
 * Credentials of a cloud's identity mechanism, kept until shortly before they expire. One that cannot be had is no error: the
 * registry may give what is public to anybody, and if not, its refusal says why.
 */
export class IdentitySource implements CredentialSource {
  readonly #identity: Identity;
  readonly #kept = new Map<string, Kept>();
  readonly #failed = new Map<string, string>();
  readonly #asking = new SingleFlight<string, Credential>();

  constructor(identity: Identity) {
    this.#identity = identity;
  }

  async find(
    { registry }: CredentialTarget,
    signal?: AbortSignal,
    note?: Note,
  ): Promise<Credential | undefined> {
    if (!this.#identity.knows(registry)) return undefined;
    const kept = this.#kept.get(registry);
    if (kept !== undefined && Date.now() < kept.renewAt) return kept.credential;
    const failed = this.#failed.get(registry);
    if (failed === undefined) {
      try {
        return await joinFlight(this.#asking, registry, () => this.#obtain(registry), signal);
      } catch (error) {
        if (signal?.aborted === true) throw error;
        this.#failed.set(registry, isAbortError(error) ? 'no answer' : firstSentence(messageOf(error)));
        setTimeout(() => this.#failed.delete(registry), 30_000).unref();
      }
    }
    note?.(`${this.#identity.name} gave none: ${this.#failed.get(registry) ?? ''}`);
    return undefined;
  }

  async #obtain(registry: string): Promise<Credential> {
    const obtained = Date.now();
    const patient = AbortSignal.timeout(patience);
    const credential = await this.#identity.obtain(registry, patient);
    const life = (credential.expiresAt ?? obtained + 3600_000) - obtained;
    this.#kept.set(registry, { credential, renewAt: obtained + life * (1 - renewalShare) });
    return credential;
  }
}

/** What a person needs of an SDK's message, which may go on for pages. */
function firstSentence(text: string): string {
  const line = text.split('\n', 1)[0] ?? '';
  return line.length > 200 ? `${line.slice(0, 200)}…` : line;
}
