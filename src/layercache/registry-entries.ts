import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { type Descriptor, type Digest, digestOf, mediaTypes, parseReference } from '../oci/index.ts';
import { type RegistryClient, RegistryError, type Repository } from '../registry/index.ts';
import { KilnError } from '../support/index.ts';
import { emptyConfig, encodeArtifact } from './artifact.ts';
import type { Artifact, DeleteOutcome, EntryStore, TaggedManifest } from './entry-store.ts';

/** The entries of a repository of a registry. */
export class RegistryEntries implements EntryStore {
  readonly location: string;
  readonly freesSpace = false;
  readonly #repository: Repository;

  /** @throws UsageError when the location is no repository. */
  constructor(location: string, client: RegistryClient) {
    this.location = location;
    this.#repository = client.repository(parseReference(location));
  }

  listTags(signal?: AbortSignal): AsyncIterable<string> {
    return this.#repository.listTags(signal);
  }

  readManifest(tag: string, signal?: AbortSignal): Promise<TaggedManifest | undefined> {
    return this.#repository.getManifest(tag, signal);
  }

  resolve(tag: string, signal?: AbortSignal): Promise<{ digest: Digest } | undefined> {
    return this.#repository.headManifest(tag, signal);
  }

  readBlob(descriptor: Descriptor, limit: number, signal?: AbortSignal): Promise<Uint8Array> {
    return this.#repository.readBlob(descriptor, limit, signal);
  }

  async putArtifact(artifact: Artifact, signal?: AbortSignal): Promise<void> {
    const { manifestBytes, blob } = encodeArtifact(artifact);
    const upload = (descriptor: Descriptor, bytes: Uint8Array): Promise<unknown> =>
      this.#repository.uploadBlob(descriptor, () => Promise.resolve(Readable.from([bytes])), {}, signal);
    await Promise.all([upload(blob, artifact.content), upload(emptyConfig.descriptor, emptyConfig.bytes)]);
    await this.#repository.putManifest(artifact.tag, mediaTypes.ociManifest, manifestBytes, signal);
  }

  async requireDelete(signal?: AbortSignal): Promise<void> {
    // Nothing has this digest: a registry that deletes says that it is not there, another that it does not delete.
    const nothing = digestOf(randomBytes(32));
    try {
      await this.#repository.deleteManifest(nothing, signal);
    } catch (error) {
      if (isUnsupported(error)) throw deleteUnsupported(this.location, error);
      throw error;
    }
  }

  async deleteManifest(
    digest: Digest,
    tags: readonly string[],
    signal?: AbortSignal,
  ): Promise<DeleteOutcome> {
    try {
      return outcomeOf(await this.#repository.deleteManifest(digest, signal));
    } catch (error) {
      if (!wantsTagsGone(error)) throw error;
    }
    // Google's registries delete no manifest that still has a tag.
    for (const tag of tags) await this.#repository.deleteManifest(tag, signal);
    return outcomeOf(await this.#repository.deleteManifest(digest, signal));
  }

  async deleteTag(tag: string, signal?: AbortSignal): Promise<DeleteOutcome> {
    try {
      return outcomeOf(await this.#repository.deleteManifest(tag, signal));
    } catch (error) {
      // Registries of the distribution specification 1.0 delete by digest alone.
      if (isUnsupported(error) || (error instanceof RegistryError && error.status === 400)) return 'shared';
      throw error;
    }
  }

  sweep(): Promise<number> {
    return Promise.resolve(0);
  }
}

function outcomeOf(wasThere: boolean): DeleteOutcome {
  return wasThere ? 'deleted' : 'gone';
}

/** A registry that does not delete says 405, or UNSUPPORTED with another status. */
function isUnsupported(error: unknown): boolean {
  return (
    error instanceof RegistryError &&
    (error.status === 405 || error.status === 501 || error.errors.some(({ code }) => code === 'UNSUPPORTED'))
  );
}

function wantsTagsGone(error: unknown): boolean {
  return (
    error instanceof RegistryError &&
    error.errors.some(({ code, message }) => /DANGLING_TAG/i.test(`${code} ${message}`))
  );
}

function deleteUnsupported(location: string, cause: unknown): KilnError {
  return new KilnError(`the registry of ${location} does not delete; nothing was deleted`, {
    code: 'E_DELETE_UNSUPPORTED',
    category: 'registry',
    cause,
    remedy:
      'Allow it (docker-registry: storage.delete.enabled), or let the registry itself expire tags; see docs/remote-cache.md.',
  });
}
