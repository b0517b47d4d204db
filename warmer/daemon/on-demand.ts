import { formatReference, type Image, type Platform, type Reference } from '../../src/oci/index.ts';
import { KilnError, systemErrorCode, untilAborted } from '../../src/support/index.ts';
import type { ImageName, StoredImage, Volume } from '../../src/volume/index.ts';
import type { Clock } from './clock.ts';
import type { OnDemandPolicy, WarmingRule } from './configuration.ts';
import type { FlightEnd } from './flight.ts';
import { type ImageRequest, keyOf, nameOf } from './image-key.ts';
import type { Puller } from './puller.ts';
import type { RegistryGates } from './registry-gates.ts';
import type { Ensured, WarmingEvent } from './types.ts';

export interface OnDemandParts {
  readonly volume: Volume;
  readonly puller: Puller;
  readonly gates: RegistryGates;
  readonly clock: Clock;
  /** How an image is asked for that is kept warm; undefined for one that is not. */
  readonly ruleOf: (key: string) => WarmingRule | undefined;
  readonly emit: (event: Extract<WarmingEvent, { type: 'request' }>) => void;
}

/** An image that a build asked for, as it is kept on the volume; milliseconds since 1970. */
export interface StoredRequest extends ImageName {
  readonly at: number;
}

/** What one asker hears while it waits. */
export interface EnsureListener {
  readonly onProgress: (bytes: number, total: number) => void;
  readonly onImage: (image: Pick<Image, 'manifestBytes' | 'configBytes'>) => void;
}

/** A tag that was confirmed less than this ago is not asked about again for a build. */
const confirmedMilliseconds = 10_000;
/** Images whose last request is remembered. */
const rememberedRequests = 2000;

/** Images for builds that ask: one flight for all, and only what the policy allows. */
export class OnDemand {
  readonly #parts: OnDemandParts;
  #policy: OnDemandPolicy;
  #byDefault: WarmingRule;
  readonly #requests = new Map<string, StoredRequest>();

  constructor(
    parts: OnDemandParts,
    policy: OnDemandPolicy,
    byDefault: WarmingRule,
    state: readonly StoredRequest[],
  ) {
    this.#parts = parts;
    this.#policy = policy;
    this.#byDefault = byDefault;
    for (const request of state) this.#requests.set(keyOf(request), request);
  }

  configure(policy: OnDemandPolicy, byDefault: WarmingRule): void {
    this.#policy = policy;
    this.#byDefault = byDefault;
  }

  /** True when builds may ask for a reference that is not kept warm. */
  allows(reference: Reference): boolean {
    const { enabled, allow, deny } = this.#policy;
    return isAllowed({ allow, deny }, reference) && enabled;
  }

  /** True when patterns allow a reference, whether or not builds may ask for images at all. */
  matches(reference: Reference): boolean {
    return isAllowed(this.#policy, reference);
  }

  /** True when the image is on the volume because a build asked for it. */
  owns(key: string): boolean {
    return this.#requests.has(key);
  }

  /** What has to survive a restart. */
  state(): StoredRequest[] {
    return [...this.#requests.values()];
  }

  /**
   * Makes an image ready and holds it.
   *
   * @throws KilnError `E_NOT_ALLOWED`, `E_TOO_MANY_REQUESTS`, what a pull throws; the signal's reason.
   */
  async ensure(
    reference: Reference,
    platform: Platform,
    listener: EnsureListener,
    signal: AbortSignal,
  ): Promise<Ensured> {
    const { emit } = this.#parts;
    try {
      const ensured = await this.#ensure({ reference, platform }, listener, signal);
      emit({ type: 'request', result: ensured.outcome === 'warm' ? 'hit' : ensured.outcome });
      return ensured;
    } catch (error) {
      if (!signal.aborted)
        emit({
          type: 'request',
          result: error instanceof KilnError && error.code === 'E_NOT_ALLOWED' ? 'denied' : 'error',
        });
      throw error;
    }
  }

  async #ensure(request: ImageRequest, listener: EnsureListener, signal: AbortSignal): Promise<Ensured> {
    const { volume, puller, ruleOf } = this.#parts;
    const { reference, platform } = request;
    const key = keyOf(nameOf(request));
    const rule = ruleOf(key);
    if (rule === undefined && !this.allows(reference)) throw notAllowed(nameOf(request).reference);
    const stored = await volume.find(reference, platform, signal);
    if (rule === undefined) this.#remember(request);
    if (stored !== undefined && (rule?.refresh.kind === 'never' || this.#isConfirmed(stored))) {
      const held = await this.#holdIfSound(stored, signal);
      if (held !== undefined) return held;
    }
    const joined = puller.flights.has(key);
    const flight = puller.bring(request, {
      pullSecret: (rule ?? this.#byDefault).pullSecret,
      refresh: true,
      reason: 'build',
    });
    using _following = flight.follow(listener);
    const end = await untilAborted(flight.done, signal);
    switch (end.outcome) {
      case 'fresh':
        return this.#hold(end.image, 'warm', signal);
      case 'pulled':
        return this.#hold(end.image, joined ? 'joined' : 'pulled', signal);
      default:
        return this.#afterFailure(request, end, signal);
    }
  }

  /** A registry that is away does not keep a build from what is on the volume. */
  async #afterFailure(
    { reference, platform }: ImageRequest,
    end: Exclude<FlightEnd, { image: StoredImage }>,
    signal: AbortSignal,
  ): Promise<Ensured> {
    const away = end.outcome === 'postponed' || ('registryAway' in end && end.registryAway);
    const stored = away ? await this.#parts.volume.find(reference, platform, signal) : undefined;
    if (stored !== undefined) return this.#hold(stored, 'warm', signal);
    if (end.outcome !== 'postponed') throw end.error;
    throw new KilnError(`${reference.registry} cannot be reached and is left alone for a while`, {
      code: 'E_REGISTRY_UNAVAILABLE',
      category: 'registry',
      remedy: 'Try again in a few seconds.',
    });
  }

  #isConfirmed(image: StoredImage): boolean {
    const { gates, clock } = this.#parts;
    const { reference, checkedAt } = image;
    if (reference.digest !== undefined) return true;
    return (
      clock.now() - checkedAt.getTime() < confirmedMilliseconds ||
      // Asking would only be waiting: the registry is known to be away.
      gates.closedUntil(reference.registry) !== undefined
    );
  }

  /** Undefined when something of the image turns out to be damaged, which a pull mends. */
  async #holdIfSound(image: StoredImage, signal: AbortSignal): Promise<Ensured | undefined> {
    try {
      return await this.#hold(image, 'warm', signal);
    } catch (error) {
      if (['E_BLOB_CORRUPT', 'E_BLOB_NOT_FOUND'].includes(systemErrorCode(error) ?? '')) return undefined;
      throw error;
    }
  }

  async #hold(image: StoredImage, outcome: Ensured['outcome'], signal: AbortSignal): Promise<Ensured> {
    const { volume } = this.#parts;
    await using leases = new AsyncDisposableStack();
    const digests = image.manifest.layers.map(({ digest }) => digest);
    const blobs = await volume.acquireBlobs(digests);
    const layers = blobs === undefined ? undefined : await volume.acquireLayers(image.layers, signal);
    if (blobs === undefined || layers === undefined) throw goneMeanwhile(image);
    leases.use(blobs);
    leases.use(layers);
    const lease = leases.move();
    return {
      digest: image.descriptor.digest,
      outcome,
      lease: { [Symbol.asyncDispose]: () => lease.disposeAsync() },
    };
  }

  #remember(request: ImageRequest): void {
    const name = nameOf(request);
    const key = keyOf(name);
    this.#requests.delete(key);
    this.#requests.set(key, { ...name, at: this.#parts.clock.now() });
    const [oldest] = this.#requests.keys();
    if (this.#requests.size > rememberedRequests && oldest !== undefined) this.#requests.delete(oldest);
  }
}

function isAllowed({ allow, deny }: Pick<OnDemandPolicy, 'allow' | 'deny'>, reference: Reference): boolean {
  return (
    allow.some((pattern) => pattern.matches(reference)) && !deny.some((pattern) => pattern.matches(reference))
  );
}

/** A prune was quicker than the build; asking again brings the image back. */
function goneMeanwhile({ reference }: StoredImage): KilnError {
  return new KilnError(`${formatReference(reference)} was removed from the volume meanwhile`, {
    code: 'E_BLOB_NOT_FOUND',
    category: 'environment',
    remedy: 'Ask again.',
  });
}

function notAllowed(reference: string): KilnError {
  return new KilnError(`the warmer may not bring ${reference}`, {
    code: 'E_NOT_ALLOWED',
    category: 'environment',
    where: reference,
    remedy: 'Allow it with onDemand.allow in warmer.yaml, or name it under images.',
  });
}
