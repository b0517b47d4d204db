import { Readable } from 'node:stream';
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import {
  decodeIndex,
  decodeManifest,
  type Descriptor,
  type Digest,
  indexMediaTypes,
  isDigest,
  maximumDocumentSize,
  mediaTypes,
} from '../oci/index.ts';
import { KilnError, systemErrorCode } from '../support/index.ts';
import { OciLayout, refNameAnnotation } from '../volume/index.ts';
import { emptyConfig, encodeArtifact } from './artifact.ts';
import type { Artifact, DeleteOutcome, EntryStore, TaggedManifest } from './entry-store.ts';

/** The entries of an OCI image layout. The time of a manifest's file is when it was made or last taken by a build. */
export class LayoutEntries implements EntryStore {
  readonly location: string;
  readonly freesSpace = true;
  readonly #directory: string;
  #opened: OciLayout | undefined;

  constructor(directory: string) {
    this.location = `oci:${directory}`;
    this.#directory = directory;
  }

  async *listTags(): AsyncIterable<string> {
    for (const { annotations } of await (await this.#layout()).readIndex()) {
      const name = annotations?.[refNameAnnotation];
      if (name !== undefined) yield name;
    }
  }

  async readManifest(tag: string): Promise<TaggedManifest | undefined> {
    const { blobs, descriptor } = await this.#named(tag);
    if (descriptor === undefined) return undefined;
    const { digest } = descriptor;
    try {
      const bytes = await blobs.read(digest, maximumDocumentSize);
      const { mtime } = await stat(blobs.path(digest));
      return { descriptor, bytes, usedAt: mtime };
    } catch (error) {
      if (error instanceof KilnError && error.code === 'E_BLOB_NOT_FOUND') return undefined;
      throw error;
    }
  }

  async resolve(tag: string): Promise<{ digest: Digest; usedAt: Date | undefined } | undefined> {
    const { blobs, descriptor } = await this.#named(tag);
    if (descriptor === undefined) return undefined;
    const { digest } = descriptor;
    const found = await unlessNotThere(stat(blobs.path(digest)));
    return { digest, usedAt: found?.mtime };
  }

  async readBlob(descriptor: Descriptor, limit: number): Promise<Uint8Array> {
    return (await this.#layout()).blobs.read(descriptor.digest, limit);
  }

  async putArtifact(artifact: Artifact, signal?: AbortSignal): Promise<void> {
    const layout = await OciLayout.open(this.#directory, { access: 'read-write' });
    const { manifestBytes, blob } = encodeArtifact(artifact);
    await layout.blobs.ingest(blob, Readable.from([artifact.content]), signal);
    await layout.blobs.ingest(emptyConfig.descriptor, Readable.from([emptyConfig.bytes]), signal);
    await layout.putManifest(mediaTypes.ociManifest, manifestBytes, {
      name: artifact.tag,
      artifactType: artifact.type,
    });
  }

  async requireDelete(): Promise<void> {
    await this.#writable();
  }

  async deleteManifest(digest: Digest): Promise<DeleteOutcome> {
    return this.#remove((descriptor) => descriptor.digest === digest);
  }

  async deleteTag(tag: string): Promise<DeleteOutcome> {
    return this.#remove(({ annotations }) => annotations?.[refNameAnnotation] === tag);
  }

  /** Deletes blobs that no manifest of the index refers to, and that have lain there for longer than a store takes. */
  async sweep(graceSeconds: number, signal?: AbortSignal): Promise<number> {
    const layout = await this.#writable();
    const listed = await readdir(join(this.#directory, 'blobs', 'sha256'));
    // Read after the list: what was entered meanwhile is in it.
    const { entries } = await layout.soundIndexState();
    const used = await referenced(layout, entries);
    let freed = 0;
    for (const name of listed) {
      signal?.throwIfAborted();
      const digest = `sha256:${name}`;
      if (!isDigest(digest) || used.has(digest)) continue;
      const path = layout.blobs.path(digest);
      const found = await unlessNotThere(stat(path));
      if (found === undefined || Date.now() - found.mtimeMs < graceSeconds * 1000) continue;
      await rm(path, { force: true });
      freed += found.size;
    }
    return freed;
  }

  async #remove(isMeant: (descriptor: Descriptor) => boolean): Promise<DeleteOutcome> {
    const layout = await this.#writable();
    let outcome: DeleteOutcome = 'gone';
    await layout.updateIndex((manifests) => {
      const left = manifests.filter((descriptor) => !isMeant(descriptor));
      outcome = left.length < manifests.length ? 'deleted' : 'gone';
      return left;
    });
    return outcome;
  }

  async #named(
    tag: string,
  ): Promise<{ readonly descriptor: Descriptor | undefined; readonly blobs: OciLayout['blobs'] }> {
    const layout = await this.#layout();
    return { descriptor: (await layout.descriptorsNamed(tag))[0], blobs: layout.blobs };
  }

  /** @throws EnvironmentError `E_VOLUME_NOT_FOUND`. */
  async #layout(): Promise<OciLayout> {
    return (this.#opened ??= await OciLayout.open(this.#directory, { access: 'read-only' }));
  }

  async #writable(): Promise<OciLayout> {
    await this.#layout();
    if (this.#opened?.writable !== true)
      this.#opened = await OciLayout.open(this.#directory, { access: 'read-write' });
    return this.#opened;
  }
}

/** All blobs that the manifests of an index refer to, and these themselves. A manifest that cannot be read is an error. */
async function referenced(layout: OciLayout, entries: readonly Descriptor[]): Promise<Set<Digest>> {
  const used = new Set<Digest>();
  const visit = async ({ digest, mediaType }: Descriptor): Promise<void> => {
    if (used.has(digest)) return;
    used.add(digest);
    let bytes: Uint8Array;
    try {
      bytes = await layout.blobs.read(digest, maximumDocumentSize);
    } catch (error) {
      if (systemErrorCode(error) === 'E_BLOB_NOT_FOUND') return;
      throw error;
    }
    if (indexMediaTypes.includes(mediaType)) {
      for (const inner of decodeIndex(bytes).manifests) await visit(inner);
      return;
    }
    const { config, layers, subject } = decodeManifest(bytes);
    for (const descriptor of [config, ...layers]) used.add(descriptor.digest);
    if (subject !== undefined) used.add(subject.digest);
  };
  for (const entry of entries) await visit(entry);
  return used;
}

/** What a promise gives; undefined when a file is not there. */
async function unlessNotThere<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}
