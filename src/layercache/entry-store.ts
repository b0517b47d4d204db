import type { Descriptor, Digest } from '../oci/index.ts';

/** A manifest under a tag, as it was read. */
export interface TaggedManifest {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
  /** When it was last taken by a build, where the store itself knows. */
  readonly usedAt?: Date | undefined;
}

/** What a deletion came to. `shared`: the tag's manifest has other tags, which this store cannot leave alone. */
export type DeleteOutcome = 'deleted' | 'gone' | 'shared';

/**
 * A cache as the commands see it that list and prune it: tags and manifests, not keys. The builds' side is the
 * {@link LayerCache}.
 */
export interface EntryStore {
  /** As the user named it. */
  readonly location: string;
  /** Whether space is freed here by us, or by the registry's own collector. */
  readonly freesSpace: boolean;
  /** All tags, page by page; none when there is no such cache. @throws RegistryError and others. */
  listTags(signal?: AbortSignal): AsyncIterable<string>;
  /** @returns undefined when the tag is gone. */
  readManifest(tag: string, signal?: AbortSignal): Promise<TaggedManifest | undefined>;
  /** What a tag names now. */
  resolve(
    tag: string,
    signal?: AbortSignal,
  ): Promise<(Pick<TaggedManifest, 'usedAt'> & { digest: Digest }) | undefined>;
  /** A small blob as a whole, verified. */
  readBlob(descriptor: Descriptor, limit: number, signal?: AbortSignal): Promise<Uint8Array>;
  /** Stores an artifact: its blob first, the manifest that names it last. */
  putArtifact(artifact: Artifact, signal?: AbortSignal): Promise<void>;
  /**
   * Finds out whether anything can be deleted here, without deleting.
   *
   * @throws KilnError `E_DELETE_UNSUPPORTED`, RegistryError.
   */
  requireDelete(signal?: AbortSignal): Promise<void>;
  /** Deletes a manifest and every tag that names it. @throws RegistryError. */
  deleteManifest(digest: Digest, tags: readonly string[], signal?: AbortSignal): Promise<DeleteOutcome>;
  /** Deletes one tag and leaves the others of its manifest. @throws RegistryError. */
  deleteTag(tag: string, signal?: AbortSignal): Promise<DeleteOutcome>;
  /** Frees what nothing refers to any more, where that is ours to do. @returns bytes freed. */
  sweep(graceSeconds: number, signal?: AbortSignal): Promise<number>;
}

/** A small document of our own that is kept beside the entries, as an OCI artifact (image specification, manifest.md). */
export interface Artifact {
  readonly tag: string;
  readonly type: string;
  readonly content: Uint8Array;
  readonly annotations?: Readonly<Record<string, string>>;
}
