import {
  formatPlatform,
  formatReference,
  type Digest,
  hostPlatform,
  parseReference,
  type Platform,
  platformMatches,
  type Reference,
} from '../src/oci/index.ts';
import { fetchImage, type RegistryClient } from '../src/registry/index.ts';
import { type BaseOutcome, KilnError, messageOf, type Progress, SingleFlight } from '../src/support/index.ts';
import type { BuildReport, StoredImage, Volume } from '../src/volume/index.ts';
import { type BaseImage, type BaseName, fromRegistry, fromStored, fromWarmer } from './base-image.ts';
import type { BringRequest, NodeWarmer } from './node-warmer.ts';

export type { BaseImage } from './base-image.ts';

/** A stored image and the volume that it is on. */
interface Found {
  readonly volume: Volume;
  readonly image: StoredImage;
}

/** A base image, and how the build came by it. */
interface Resolved {
  readonly base: BaseImage;
  readonly outcome: BaseOutcome;
  readonly detail: string;
}

/** Finds base images: on the volumes first, then through the node's warmer, then in the registry; each once a build. */
export class BaseResolver implements AsyncDisposable {
  readonly #volumes: readonly Volume[];
  readonly #client: RegistryClient;
  readonly #warmer: NodeWarmer | undefined;
  readonly #progress: Progress;
  readonly #found = new SingleFlight<string, BaseImage>();
  readonly #known = new Map<string, BaseImage>();
  readonly #reported = new Map<string, BuildReport['bases'][number]>();
  readonly #leases = new AsyncDisposableStack();

  /** @param warmer undefined when the build writes the volume itself. */
  constructor(
    volumes: readonly Volume[],
    client: RegistryClient,
    warmer: NodeWarmer | undefined,
    progress: Progress,
  ) {
    this.#volumes = volumes;
    this.#client = client;
    this.#warmer = warmer;
    this.#progress = progress;
  }

  /** How the images that were asked for were come by. */
  get outcomes(): BuildReport['bases'] {
    return [...this.#reported.values()];
  }

  /**
   * @param where the Dockerfile and line that name the image.
   * @throws KilnError `E_BASE_NOT_FOUND` and the registry's own errors.
   */
  async resolve(name: string, platform: Platform, where: string, signal?: AbortSignal): Promise<BaseImage> {
    const reference = parseReference(name);
    const key = keyOf(reference, platform);
    return (
      this.#known.get(key) ??
      this.#found.run(key, async () => {
        const { base, outcome, detail } = await this.#find(reference, platform, where, signal);
        this.#known.set(key, base);
        const named = { reference: formatReference(reference), platform: formatPlatform(platform) };
        this.#reported.set(key, { ...named, outcome });
        const isForeign = !platformMatches(platform, hostPlatform());
        const whatFor = isForeign ? `for ${named.platform}, ` : '';
        this.#progress.emit({ type: 'base', ...named, outcome, detail: `${whatFor}${detail}` });
        return base;
      })
    );
  }

  /** Gives back what was leased. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#leases.disposeAsync();
  }

  async #find(
    reference: Reference,
    platform: Platform,
    where: string,
    signal?: AbortSignal,
  ): Promise<Resolved> {
    const found = await this.#onVolume(reference, platform, signal);
    const target = found && (await this.#movedTo(found, platform, signal));
    const current =
      target === undefined ? found : await this.#onVolume({ ...reference, digest: target }, platform, signal);
    if (current?.leased === true)
      return {
        base: fromStored(current.image, this.#named(reference, platform)),
        outcome: 'warm',
        detail: 'warm on the cache volume',
      };
    const { brought, missing } = await this.#fromWarmer(reference, platform, target, where, signal);
    if (brought !== undefined) return brought;
    if (current !== undefined)
      return {
        base: fromStored(current.image, this.#named(reference, platform)),
        outcome: 'warm',
        detail: `on the cache volume, but not unpacked${clause(missing)}`,
      };
    return {
      base: await this.#fromRegistry(reference, platform, where, signal),
      outcome: 'cold',
      detail:
        missing === undefined
          ? 'not on the cache volume yet'
          : `not on the cache volume; fetched for this build alone${clause(missing)}`,
    };
  }

  /** The image on the first volume that has it, leased so that no prune takes it while the build runs. */
  async #onVolume(
    reference: Reference,
    platform: Platform,
    signal?: AbortSignal,
  ): Promise<(Found & { readonly leased: boolean }) | undefined> {
    for (const volume of this.#volumes) {
      const image = await volume.find(reference, platform, signal);
      if (image === undefined) continue;
      const blobs = await volume.acquireBlobs(image.layers.map(({ digest }) => digest));
      // It went between being found and being leased.
      if (blobs === undefined) continue;
      this.#leases.use(blobs);
      // Where the build can write, it unpacks what is missing when a step needs it.
      const layers = volume.writable ? undefined : await volume.acquireLayers(image.layers, signal);
      if (layers !== undefined) this.#leases.use(layers);
      return { volume, image, leased: volume.writable || layers !== undefined };
    }
    return undefined;
  }

  /**
   * What a tag names now, when that is not what is stored. When the registry cannot be asked, what is warm is used, which
   * is what it is there for.
   */
  async #movedTo(
    { volume, image }: Found,
    platform: Platform,
    signal?: AbortSignal,
  ): Promise<Digest | undefined> {
    const { reference } = image;
    if (reference.digest !== undefined) return undefined;
    try {
      const current = await this.#client.source(reference).headManifest(reference.tag ?? 'latest', signal);
      if (current === undefined || (await volume.isCurrent(image, current.digest))) return undefined;
      this.#progress.info(
        `${formatReference(reference)} has moved since it was warmed (${platform.architecture}); the new image is used`,
      );
      return current.digest;
    } catch (error) {
      if (!(error instanceof KilnError)) throw error;
      this.#progress.warn(
        `${formatReference(reference)}: the registry cannot be asked whether it moved (${messageOf(error)}); the warm image is used`,
      );
      return undefined;
    }
  }

  /**
   * Has the node's warmer bring the image.
   *
   * @param target what a tag that has moved names now.
   * @returns why there is nothing from there, unless there is no warmer to ask.
   */
  async #fromWarmer(
    reference: Reference,
    platform: Platform,
    target: Digest | undefined,
    where: string,
    signal?: AbortSignal,
  ): Promise<{ readonly brought?: Resolved; readonly missing?: string }> {
    if (this.#warmer === undefined) return {};
    const { volume } = this.#warmer;
    const request = this.#warmer.request(reference, platform);
    // The build goes on with what the warmer fetches; of a tag that moved, only with what it has moved to.
    const announced = target === undefined ? await request.announced : undefined;
    if (announced !== undefined) {
      this.#followUp(reference, platform, request);
      const repository = this.#client.source(reference);
      const base = fromWarmer(
        announced,
        this.#named(reference, platform),
        { request, volume, repository },
        where,
      );
      return {
        brought: {
          base,
          outcome: 'ensured',
          detail: "not on the cache volume; the node's warmer fetches it",
        },
      };
    }
    let outcome = await request.brought;
    signal?.throwIfAborted();
    if (target !== undefined && 'image' in outcome && !(await volume.isCurrent(outcome.image, target)))
      outcome = await this.#warmer.request({ ...reference, digest: target }, platform).brought;
    if ('missing' in outcome) return outcome;
    const ways = {
      warm: "the node's warmer had it",
      pulled: "fetched by the node's warmer",
      joined: "fetched by the node's warmer, once for all who asked",
    };
    const base = fromStored(outcome.image, this.#named(reference, platform));
    return { brought: { base, outcome: 'ensured', detail: ways[outcome.how] } };
  }

  #named(reference: Reference, platform: Platform): BaseName {
    return { reference, platform, origins: this.#client.places(reference) };
  }

  /** Says so when an image that was announced does not come after all. */
  #followUp(reference: Reference, platform: Platform, { brought }: BringRequest): void {
    const name = formatReference(reference);
    const key = keyOf(reference, platform);
    void brought.then((outcome) => {
      const known = this.#reported.get(key);
      if (!('missing' in outcome) || known === undefined) return;
      this.#reported.set(key, { ...known, outcome: 'cold' });
      this.#progress.warn(`base ${name}: fetched for this build alone${clause(outcome.missing)}`);
    });
  }

  async #fromRegistry(
    reference: Reference,
    platform: Platform,
    where: string,
    signal?: AbortSignal,
  ): Promise<BaseImage> {
    const image = await fetchImage(this.#client, reference, platform, signal).catch((error: unknown) => {
      if (!(error instanceof KilnError) || error.where !== undefined) throw error;
      throw new KilnError(`base image ${formatReference(reference)}: ${error.message}`, {
        code: error.code,
        category: error.category,
        remedy: error.remedy,
        cause: error.cause,
        where,
      });
    });
    if (image === undefined)
      throw new KilnError(`the base image ${formatReference(reference)} does not exist`, {
        code: 'E_BASE_NOT_FOUND',
        category: 'registry',
        where,
        remedy: 'Check its name and tag.',
      });
    const { digest } = image.descriptor;
    const source = this.#client.source(reference);
    return fromRegistry({ ...image, digest }, this.#named(reference, platform), source, where);
  }
}

function keyOf(reference: Reference, platform: Platform): string {
  return `${formatReference(reference)} ${formatPlatform(platform)}`;
}

function clause(why: string | undefined): string {
  return why === undefined ? '' : ` (${why})`;
}
