import type { Reference } from '../../src/oci/index.ts';
import { parsePlatform, parseReference } from '../../src/oci/index.ts';
import type { ImageName } from '../../src/volume/index.ts';
import type { Clock } from './clock.ts';
import type { AdoptionPolicy, WarmingRule } from './configuration.ts';
import { type ImageRequest, keyOf, nameOf } from './image-key.ts';
import type { WarmingEvent } from './types.ts';
import type { Wish } from './wishes.ts';

/** An adopted image as it is kept on the volume; times in milliseconds since 1970. */
export interface StoredAdoption extends ImageName {
  readonly since: number;
  readonly lastUsedAt: number;
}

/** When builds missed an image. */
export interface StoredMisses extends ImageName {
  readonly at: readonly number[];
}

export interface AdoptionState {
  readonly adopted: readonly StoredAdoption[];
  readonly misses: readonly StoredMisses[];
}

export interface AdoptionParts {
  readonly clock: Clock;
  /** What the on-demand policy allows. */
  readonly allowed: (reference: Reference) => boolean;
  readonly emit: (event: Extract<WarmingEvent, { type: 'adopted' | 'dropped' }>) => void;
}

/** Images whose misses are counted; those missed least recently are forgotten. */
const countedImages = 1000;

/** Images that nobody configured and that builds miss again and again: they are kept warm as long as they are used. */
export class Adoption {
  readonly #parts: AdoptionParts;
  #policy: AdoptionPolicy;
  readonly #adopted = new Map<string, { name: ImageName; since: number; lastUsedAt: number }>();
  /** In the order of their last misses. */
  readonly #misses = new Map<string, { name: ImageName; at: number[] }>();

  constructor(parts: AdoptionParts, policy: AdoptionPolicy, state: AdoptionState) {
    this.#parts = parts;
    this.#policy = policy;
    for (const { reference, platform, since, lastUsedAt } of state.adopted)
      this.#adopted.set(keyOf({ reference, platform }), { name: { reference, platform }, since, lastUsedAt });
    for (const { reference, platform, at } of state.misses)
      this.#misses.set(keyOf({ reference, platform }), { name: { reference, platform }, at: [...at] });
  }

  configure(policy: AdoptionPolicy): void {
    this.#policy = policy;
    this.review();
  }

  /** What has to survive a restart. */
  state(): AdoptionState {
    return {
      adopted: [...this.#adopted.values()].map(({ name, ...times }) => ({ ...name, ...times })),
      misses: [...this.#misses.values()].map(({ name, at }) => ({ ...name, at })),
    };
  }

  wishes(rule: WarmingRule): Wish[] {
    return [...this.#adopted.values()].map(({ name }) => ({
      ...rule,
      reference: parseReference(name.reference),
      platform: parsePlatform(name.platform),
      source: 'adopted',
      pin: false,
    }));
  }

  /** A build missed an image. @returns true when it is adopted now. */
  missed(request: ImageRequest): boolean {
    const { enabled, misses, windowSeconds } = this.#policy;
    const name = nameOf(request);
    const key = keyOf(name);
    this.used(key);
    if (!enabled || this.#adopted.has(key) || !this.#parts.allowed(request.reference)) return false;
    const now = this.#parts.clock.now();
    const recent = (this.#misses.get(key)?.at ?? []).filter((at) => at > now - windowSeconds * 1000);
    const at = [...recent, now].slice(-misses);
    this.#misses.delete(key);
    if (at.length >= misses && this.#makeRoom(now)) {
      this.#adopted.set(key, { name, since: now, lastUsedAt: now });
      this.#parts.emit({ type: 'adopted', ...name });
      return true;
    }
    this.#misses.set(key, { name, at });
    const [oldest] = this.#misses.keys();
    if (this.#misses.size > countedImages && oldest !== undefined) this.#misses.delete(oldest);
    return false;
  }

  /** A build uses an image. */
  used(key: string): void {
    const adopted = this.#adopted.get(key);
    if (adopted !== undefined) adopted.lastUsedAt = this.#parts.clock.now();
  }

  /** Drops what has not been used for too long, is no longer allowed, or is too much. @returns true when it dropped any. */
  review(): boolean {
    const { enabled, limit, unusedForSeconds, windowSeconds } = this.#policy;
    const now = this.#parts.clock.now();
    const byUse = [...this.#adopted].sort(([, a], [, b]) => b.lastUsedAt - a.lastUsedAt);
    const dropped = byUse.filter(
      ([, { name, lastUsedAt }], position) =>
        !enabled ||
        position >= limit ||
        lastUsedAt <= now - unusedForSeconds * 1000 ||
        !this.#parts.allowed(parseReference(name.reference)),
    );
    for (const [key] of dropped) this.#drop(key);
    for (const [key, { at }] of this.#misses)
      if ((at.at(-1) ?? 0) <= now - windowSeconds * 1000) this.#misses.delete(key);
    return dropped.length > 0;
  }

  /** Room for one more: when there is none, the one unused for longest goes, if it was not used within the window. */
  #makeRoom(now: number): boolean {
    if (this.#adopted.size < this.#policy.limit) return true;
    const [longest] = [...this.#adopted].sort(([, a], [, b]) => a.lastUsedAt - b.lastUsedAt);
    if (longest === undefined || longest[1].lastUsedAt > now - this.#policy.windowSeconds * 1000)
      return false;
    this.#drop(longest[0]);
    return true;
  }

  #drop(key: string): void {
    const adopted = this.#adopted.get(key);
    this.#adopted.delete(key);
    if (adopted !== undefined) this.#parts.emit({ type: 'dropped', ...adopted.name });
  }
}
