import { type Digest, formatReference, type Reference } from '../../src/oci/index.ts';
import type { RegistryClient, Repository } from '../../src/registry/index.ts';
import { KilnError, messageOf, type Progress } from '../../src/support/index.ts';
import type { Pushable, PushableBlob } from './pushable.ts';

export interface PushOptions {
  /** A tag that the registry lets nobody change is left as it is, and that is no failure. */
  readonly ignoreImmutableTags: boolean;
  readonly progress: Progress;
}

/** What became of one destination. */
export type PushOutcome =
  | { readonly destination: Reference; readonly kind: 'pushed' | 'left' }
  | { readonly destination: Reference; readonly kind: 'failed'; readonly error: Error };

/**
 * Pushes to all destinations, registries beside one another. In each registry a blob is uploaded once, and mounted into the
 * other repositories. Blobs come first and manifests last, so that a tag never names what is not all there.
 * One destination's failure keeps none of the others from being pushed.
 *
 * @returns what became of each destination, in their order.
 * @throws the signal's reason when it is aborted.
 */
export async function pushAll(
  client: RegistryClient,
  pushed: Pushable,
  destinations: readonly Reference[],
  options: PushOptions,
  signal?: AbortSignal,
): Promise<PushOutcome[]> {
  const outcomes = new Map<Reference, PushOutcome>();
  const registries = Map.groupBy(destinations, ({ registry }) => registry);
  await Promise.all(
    [...registries.values()].map(async (all) => {
      const targets = [...Map.groupBy(all, ({ repository }) => repository).values()].map(
        (tags) => new Target(client, tags, signal),
      );
      await Promise.all(pushed.blobs.map((blob) => pushBlob(targets, blob)));
      for (const outcome of (
        await Promise.all(targets.map((target) => target.finish(pushed, options)))
      ).flat())
        outcomes.set(outcome.destination, outcome);
    }),
  );
  signal?.throwIfAborted();
  return destinations.flatMap((destination) => outcomes.get(destination) ?? []);
}

/**
 * The one error that says which destinations were pushed and which were not.
 *
 * @returns undefined when none failed.
 */
export function pushError(outcomes: readonly PushOutcome[]): Error | undefined {
  const failed = outcomes.filter((outcome) => outcome.kind === 'failed');
  const [first] = failed;
  if (first === undefined || outcomes.length === 1) return first?.error;
  const done = outcomes.filter(({ kind }) => kind !== 'failed');
  const list = (some: readonly PushOutcome[]): string =>
    some.map(({ destination }) => formatReference(destination)).join(', ');
  const reasons = failed.map(({ destination, error }) => {
    const reason = messageOf(error);
    return reason.includes(destination.repository) ? reason : `${formatReference(destination)}: ${reason}`;
  });
  const errors = failed.flatMap(({ error }) => (error instanceof KilnError ? [error] : []));
  return new KilnError(
    `not pushed to ${list(failed)}; ${done.length === 0 ? 'nor to any other destination' : `pushed to ${list(done)}`}: ` +
      [...new Set(reasons)].join('; '),
    {
      code: 'E_PUSH_INCOMPLETE',
      category: errors.find(({ category }) => category !== 'registry')?.category ?? 'registry',
      remedy: errors.find(({ remedy }) => remedy !== undefined)?.remedy,
    },
  );
}

/** Brings a blob into the repositories of one registry: those after the first can mount it from the ones before. */
async function pushBlob(targets: readonly Target[], blob: PushableBlob): Promise<void> {
  const homes: string[] = [];
  for (const target of targets) if (await target.upload(blob, homes)) homes.push(target.name);
}

/** One repository with the destinations in it. What fails first ends all that is under way for it. */
class Target {
  readonly name: string;
  readonly #repository: Repository;
  readonly #tags: readonly Reference[];
  readonly #controller = new AbortController();
  readonly #signal: AbortSignal;
  #error = new Error('the push was given up');

  constructor(
    client: RegistryClient,
    tags: readonly [Reference, ...Reference[]] | Reference[],
    signal?: AbortSignal,
  ) {
    const [first] = tags;
    if (first === undefined) throw new Error('a target without a destination');
    this.#tags = tags;
    this.#repository = client.repository(first);
    this.name = first.repository;
    this.#signal = AbortSignal.any([this.#controller.signal, ...(signal === undefined ? [] : [signal])]);
  }

  /** @param homes repositories of the registry that have the blob for certain. @returns whether this one has it now. */
  async upload(blob: PushableBlob, homes: readonly string[]): Promise<boolean> {
    const { descriptor, open, origins, checkSize = false } = blob;
    if (this.#signal.aborted) return false;
    const mountFrom = [...new Set([...homes, ...this.#repository.mountable(origins)])];
    try {
      await this.#repository.uploadBlob(descriptor, open, { mountFrom, checkSize }, this.#signal);
      return true;
    } catch (error) {
      this.#fail(error);
      return false;
    }
  }

  /** Puts the manifests, when all blobs are there. */
  async finish({ children, root }: Pushable, options: PushOptions): Promise<PushOutcome[]> {
    try {
      for (const { descriptor, bytes } of children)
        if (!this.#signal.aborted)
          await this.#repository.putManifest(descriptor.digest, descriptor.mediaType, bytes, this.#signal);
    } catch (error) {
      this.#fail(error);
    }
    return Promise.all(
      this.#tags.map(async (destination): Promise<PushOutcome> => {
        if (this.#signal.aborted) return { destination, kind: 'failed', error: this.#error };
        try {
          const { mediaType, digest } = root.descriptor;
          const target = destination.tag ?? digest;
          await this.#repository.putManifest(target, mediaType, root.bytes, this.#signal);
          return { destination, kind: 'pushed' };
        } catch (error) {
          return this.#afterRefusal(destination, root, error, options);
        }
      }),
    );
  }

  /** A tag that cannot be changed may be of this image already, and otherwise may be meant to stay. */
  async #afterRefusal(
    destination: Reference,
    { descriptor, bytes }: Pushable['root'],
    error: unknown,
    { ignoreImmutableTags, progress }: PushOptions,
  ): Promise<PushOutcome> {
    const { tag } = destination;
    if (!(error instanceof KilnError) || error.code !== 'E_TAG_IMMUTABLE' || tag === undefined)
      return { destination, kind: 'failed', error: asError(error) };
    const name = formatReference(destination);
    if ((await this.#digestOf(tag)) === descriptor.digest) {
      progress.info(`${name} is this image already, and the registry lets it not be changed`);
      return { destination, kind: 'pushed' };
    }
    if (!ignoreImmutableTags) return { destination, kind: 'failed', error: asError(error) };
    progress.warn(`${name} stays as it is: the registry lets the tag not be changed`);
    try {
      // Whoever is told the digest of what was built finds it.
      await this.#repository.putManifest(descriptor.digest, descriptor.mediaType, bytes, this.#signal);
    } catch (reason) {
      this.#signal.throwIfAborted();
      progress.warn(
        `${this.#repository.registry}/${this.name} does not have the image by its digest: ${messageOf(reason)}`,
      );
    }
    return { destination, kind: 'left' };
  }

  async #digestOf(tag: string): Promise<Digest | undefined> {
    try {
      return (await this.#repository.headManifest(tag, this.#signal))?.digest;
    } catch {
      this.#signal.throwIfAborted();
      return undefined;
    }
  }

  #fail(error: unknown): void {
    if (this.#signal.aborted) return;
    this.#error = asError(error);
    this.#controller.abort(error);
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
