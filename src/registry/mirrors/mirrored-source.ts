import type { Readable } from 'node:stream';
import { type Descriptor, isDigest } from '../../oci/index.ts';
import { KilnError } from '../../support/index.ts';
import type { Endpoint } from '../endpoint.ts';
import type { FetchedManifest, ImageSource } from '../image-source.ts';
import { Repository } from '../repository.ts';
import { openBlob } from '../transfer/download.ts';
import type { MirrorHealth } from './mirror-health.ts';

/** One of the places where an image may lie: a mirror, or (without health) the registry that references name. */
export interface Place {
  readonly endpoint: Endpoint;
  readonly health: MirrorHealth | undefined;
}

/**
 * A repository that is kept by mirrors too. They are asked in their order; what one does not have, or fails to give, the next
 * is asked for. A tag is whatever the first one says that knows it; from there on digests are asked for and verified, of the
 * place that had the manifest first.
 */
export class MirroredSource implements ImageSource {
  readonly #places: readonly Place[];
  #best: Place | undefined;

  /** @param places in the order in which they are asked; at least one. */
  constructor(places: readonly Place[]) {
    this.#places = places;
  }

  headManifest(target: string, signal?: AbortSignal): Promise<Descriptor | undefined> {
    return this.#ask(target, (repository) => repository.headManifest(target, signal));
  }

  getManifest(target: string, signal?: AbortSignal): Promise<FetchedManifest | undefined> {
    return this.#ask(target, (repository) => repository.getManifest(target, signal));
  }

  async readBlob(descriptor: Descriptor, limit: number, signal?: AbortSignal): Promise<Uint8Array> {
    const bytes = await this.#ask(descriptor.digest, (repository) =>
      repository.readBlob(descriptor, limit, signal),
    );
    // A repository that has no such blob throws.
    if (bytes === undefined) throw new TypeError('no place was asked');
    return bytes;
  }

  openBlob(descriptor: Descriptor, signal?: AbortSignal, offset = 0): Promise<Readable> {
    const places = this.#order(descriptor.digest);
    const onFailure = (endpoint: Endpoint, error: KilnError): void =>
      places.find((place) => place.endpoint === endpoint)?.health?.failed(error);
    return Promise.resolve(
      openBlob(
        places.map(({ endpoint }) => endpoint),
        descriptor,
        { offset, signal, onFailure },
      ),
    );
  }

  async #ask<Found>(
    target: string,
    ask: (repository: Repository) => Promise<Found | undefined>,
  ): Promise<Found | undefined> {
    const places = this.#order(target);
    let failure: KilnError | undefined;
    for (const place of places) {
      try {
        const found = await ask(new Repository(place.endpoint));
        if (found !== undefined) {
          this.#best = place;
          return found;
        }
        failure = place.health === undefined ? undefined : failure;
      } catch (error) {
        if (!(error instanceof KilnError)) throw error;
        place.health?.failed(error);
        failure = error;
      }
    }
    // That the registry itself has no such thing counts for more than a mirror's failure to say so.
    if (failure !== undefined) throw failure;
    return undefined;
  }

  /** The places in the order in which they are asked now. */
  #order(target: string): readonly Place[] {
    const usable = this.#places.filter(({ health }) => health?.usable !== false);
    const places = usable.length === 0 ? this.#places : usable;
    const best = this.#best;
    if (best === undefined || !isDigest(target) || !places.includes(best)) return places;
    return [best, ...places.filter((place) => place !== best)];
  }
}
