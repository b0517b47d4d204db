import type { Readable } from 'node:stream';
import {
  type Descriptor,
  type Digest,
  digestOf,
  indexMediaTypes,
  isDigest,
  manifestMediaTypes,
  maximumDocumentSize,
} from '../oci/index.ts';
import { KilnError } from '../support/index.ts';
import type { Scope } from './authorizer.ts';
import type { Connection } from './client.ts';
import { openBlob } from './download.ts';
import { errorFrom, headerOf, type HttpRequest, type HttpResponse, readBody } from './transport.ts';
import { type UploadOptions, type UploadOutcome, uploadBlob } from './upload.ts';

const accept = [...indexMediaTypes, ...manifestMediaTypes].join(', ');

/** One repository: manifests, blobs and tags (OCI distribution specification 1.1). */
export class Repository {
  readonly registry: string;
  readonly name: string;
  readonly #connection: Connection;

  constructor(registry: string, name: string, connection: Connection) {
    this.registry = registry;
    this.name = name;
    this.#connection = connection;
  }

  /** The descriptor of a manifest or index by tag or digest, without its content; undefined when there is none. */
  async headManifest(target: string, signal?: AbortSignal): Promise<Descriptor | undefined> {
    const response = await this.#send('HEAD', `manifests/${target}`, { headers: { accept }, signal });
    await response.body.dump();
    if (response.status === 404) return undefined;
    const digest = headerOf(response, 'docker-content-digest');
    // A registry without HEAD or without the digest header is asked for the content; one that refuses, or has a fault,
    // is not.
    if (response.status !== 200 || !isDigest(digest)) {
      if ([401, 403, 429].includes(response.status) || (response.status >= 500 && response.status !== 501))
        throw await errorFrom(response, `HEAD ${this.#label(target)}`);
      return (await this.getManifest(target, signal))?.descriptor;
    }
    return {
      mediaType: headerOf(response, 'content-type') ?? '',
      digest,
      size: Number(headerOf(response, 'content-length') ?? 0),
    };
  }

  /**
   * A manifest or index by tag or digest, or undefined when there is none.
   *
   * @throws KilnError `E_BLOB_CORRUPT` when the content is not what a digest asked for; RegistryError.
   */
  async getManifest(
    target: string,
    signal?: AbortSignal,
  ): Promise<{ descriptor: Descriptor; bytes: Uint8Array } | undefined> {
    const response = await this.#send('GET', `manifests/${target}`, { headers: { accept }, signal });
    if (response.status === 404) {
      await response.body.dump();
      return undefined;
    }
    if (response.status !== 200) throw await errorFrom(response, `GET ${this.#label(target)}`);
    const bytes = await readBody(response, maximumDocumentSize, this.#label(target));
    const digest = digestOf(bytes);
    if (isDigest(target) && target !== digest)
      throw new KilnError(`${this.#label(target)} has other content than its digest says`, {
        code: 'E_BLOB_CORRUPT',
        category: 'registry',
        remedy: 'The registry or a proxy before it is faulty or hostile.',
      });
    const mediaType = (headerOf(response, 'content-type') ?? '').replace(/;.*$/s, '').trim();
    return { descriptor: { mediaType, digest, size: bytes.length }, bytes };
  }

  /** Stores a manifest under a tag or its digest. @throws RegistryError. */
  async putManifest(
    target: string,
    mediaType: string,
    bytes: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    const response = await this.#send(
      'PUT',
      `manifests/${target}`,
      {
        headers: { 'content-type': mediaType, 'content-length': String(bytes.length) },
        body: () => Promise.resolve(bytes),
        signal,
      },
      'pull,push',
    );
    if (response.status !== 201 && response.status !== 200 && response.status !== 202)
      throw await errorFrom(response, `PUT ${this.#label(target)}`);
    await response.body.dump();
  }

  /** Deletes a tag or manifest. @returns false when there was none. @throws RegistryError. */
  async deleteManifest(target: string, signal?: AbortSignal): Promise<boolean> {
    const response = await this.#send('DELETE', `manifests/${target}`, { signal }, 'pull,push,delete');
    if (response.status !== 202 && response.status !== 200 && response.status !== 404)
      throw await errorFrom(response, `DELETE ${this.#label(target)}`);
    await response.body.dump();
    return response.status !== 404;
  }

  /** All tags, page by page. @throws RegistryError; a repository that does not exist has none. */
  async *listTags(signal?: AbortSignal): AsyncGenerator<string> {
    let path: string | undefined = 'tags/list?n=1000';
    while (path !== undefined) {
      const response: HttpResponse = await this.#send('GET', path, { signal });
      if (response.status === 404) {
        await response.body.dump();
        return;
      }
      if (response.status !== 200) throw await errorFrom(response, `GET ${this.registry}/${this.name} tags`);
      const body = await readBody(response, 16 * 1024 * 1024, 'the list of tags');
      const tags = (JSON.parse(body.toString('utf8')) as { tags?: unknown }).tags;
      if (Array.isArray(tags)) for (const tag of tags) if (typeof tag === 'string') yield tag;
      path = nextPage(headerOf(response, 'link'));
    }
  }

  /** The size of a blob, or undefined when the repository has none of that digest. @throws RegistryError. */
  async statBlob(digest: Digest, signal?: AbortSignal): Promise<{ size: number } | undefined> {
    const response = await this.#send('HEAD', `blobs/${digest}`, { signal });
    await response.body.dump();
    if (response.status === 404) return undefined;
    if (response.status >= 300 && response.status < 400) return { size: NaN };
    if (response.status !== 200) throw await errorFrom(response, `HEAD ${this.#label(digest)}`);
    return { size: Number(headerOf(response, 'content-length') ?? NaN) };
  }

  /**
   * Opens a blob as a stream that ends only when size and digest are right, and that goes on by Range after a cut.
   *
   * @param offset the byte to begin at; when it is not 0 the digest is for the caller to check, who has the beginning.
   * @throws KilnError (also as the stream's error) `E_BLOB_NOT_FOUND`, `E_BLOB_CORRUPT`; RegistryError.
   */
  openBlob(descriptor: Descriptor, signal?: AbortSignal, offset = 0): Promise<Readable> {
    return Promise.resolve(openBlob(this.#endpoint(), descriptor, offset, signal));
  }

  /** A small blob whole. @throws as {@link openBlob}, and `E_REGISTRY_REFUSED` when it is larger than `limit` bytes. */
  async readBlob(descriptor: Descriptor, limit: number, signal?: AbortSignal): Promise<Uint8Array> {
    if (descriptor.size > limit)
      throw new KilnError(`${this.#label(descriptor.digest)} is larger than ${limit} bytes`, {
        code: 'E_REGISTRY_REFUSED',
        category: 'registry',
      });
    const chunks: Buffer[] = [];
    for await (const chunk of await this.openBlob(descriptor, signal)) chunks.push(chunk as Buffer);
    return Buffer.concat(chunks);
  }

  /** Brings a blob into the repository: nothing when it is there, a mount where one is possible, an upload otherwise. */
  uploadBlob(
    descriptor: Descriptor,
    open: (signal?: AbortSignal) => Promise<Readable>,
    options: UploadOptions = {},
    signal?: AbortSignal,
  ): Promise<UploadOutcome> {
    return this.#connection.queue(
      () => uploadBlob(this.#endpoint(), descriptor, open, options, signal),
      signal,
    );
  }

  #endpoint(): RepositoryEndpoint {
    return {
      registry: this.registry,
      name: this.name,
      connection: this.#connection,
      url: (path) => this.#url(path),
      label: (target) => this.#label(target),
      scope: (actions, alsoPull) => this.#scope(actions, alsoPull),
    };
  }

  #label(target: string): string {
    return `${this.registry}/${this.name}${isDigest(target) ? '@' : ':'}${target}`;
  }

  #url(path: string): URL {
    return new URL(path.startsWith('/') ? path : `/v2/${this.name}/${path}`, this.#connection.origin);
  }

  #scope(actions: Scope['actions'], alsoPull: readonly string[] = []): Scope {
    return { registry: this.registry, repository: this.name, actions, alsoPull };
  }

  #send(
    method: HttpRequest['method'],
    path: string,
    rest: Omit<HttpRequest, 'method' | 'url'>,
    actions: Scope['actions'] = 'pull',
  ): Promise<HttpResponse> {
    return this.#connection.send({ method, url: this.#url(path), ...rest }, this.#scope(actions));
  }
}

/** What transfers need to know of their repository. */
export interface RepositoryEndpoint {
  readonly registry: string;
  readonly name: string;
  readonly connection: Connection;
  url(path: string): URL;
  label(target: string): string;
  scope(actions: Scope['actions'], alsoPull?: readonly string[]): Scope;
}

/** The path of the next page (RFC 8288 Link header); only the path and query of the address count. */
function nextPage(link: string | undefined): string | undefined {
  const match = /<([^>]+)>\s*;\s*rel="?next"?/.exec(link ?? '');
  if (match === null) return undefined;
  const url = new URL(match[1] ?? '', 'http://registry.invalid');
  return url.pathname + url.search;
}
