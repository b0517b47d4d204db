import type { Readable } from 'node:stream';
import type { Descriptor } from '../oci/index.ts';

/** A manifest or index with its exact bytes. */
export interface FetchedManifest {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
}

/** Where images are read from: a repository, or several that stand in for one another. */
export interface ImageSource {
  /** The descriptor of a manifest or index by tag or digest, without its content; undefined when there is none. */
  headManifest(target: string, signal?: AbortSignal): Promise<Descriptor | undefined>;
  /**
   * A manifest or index by tag or digest, or undefined when there is none.
   *
   * @throws KilnError `E_BLOB_CORRUPT` when the content is not what a digest asked for; RegistryError.
   */
  getManifest(target: string, signal?: AbortSignal): Promise<FetchedManifest | undefined>;
  /**
   * Opens a blob as a stream that ends only when size and digest are right, and that goes on by Range after a cut.
   *
   * @param offset the byte to begin at; when it is not 0 the digest is for the caller to check, who has the beginning.
   * @throws KilnError (also as the stream's error) `E_BLOB_NOT_FOUND`, `E_BLOB_CORRUPT`; RegistryError.
   */
  openBlob(descriptor: Descriptor, signal?: AbortSignal, offset?: number): Promise<Readable>;
  /** A small blob whole. @throws as {@link openBlob}, and `E_REGISTRY_REFUSED` when it is larger than `limit` bytes. */
  readBlob(descriptor: Descriptor, limit: number, signal?: AbortSignal): Promise<Uint8Array>;
}
