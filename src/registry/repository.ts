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
import type { Endpoint } from './endpoint.ts';
import type { RegistryError } from './errors.ts';
import { fetchDocument } from './http/document.ts';
import { errorFrom, headerOf, type HttpResponse } from './http/message.ts';
import type { FetchedManifest, ImageSource } from './image-source.ts';
import { openBlob, readBlob } from './transfer/download.ts';
import { cancelUpload, startUpload } from './transfer/upload-session.ts';
import { type OpenBlob, type UploadOptions, type UploadOutcome, uploadBlob } from './transfer/upload.ts';

const accept = [...indexMediaTypes, ...manifestMediaTypes].join(', ');
const maximumTagList = 16 * 1024 * 1024;

/** One repository: manifests, blobs and tags (OCI distribution specification 1.1). */
export class Repository implements ImageSource {
  readonly registry: string;
  readonly name: string;
  readonly #endpoint: Endpoint;

  constructor(endpoint: Endpoint) {
    this.registry = endpoint.registry;
    this.name = endpoint.name;
    this.#endpoint = endpoint;
  }

  async headManifest(target: string, signal?: AbortSignal): Promise<Descriptor | undefined> {
    const path = `manifests/${target}`;
    const response = await this.#endpoint.read({ method: 'HEAD', path, headers: { accept }, signal });
    await response.body.dump();
    if (response.status === 404) return undefined;
    if ([401, 403, 429].includes(response.status))
      throw await errorFrom(response, `HEAD ${this.#label(target)}`);
    const digest = headerOf(response, 'docker-content-digest');
    const size = Number(headerOf(response, 'content-length'));
    const mediaType = mediaTypeOf(response);
    const usable = response.status === 200 && isDigest(digest) && size > 0 && mediaType !== '';
    // A registry without HEAD, or whose answer lacks something, is asked for the content.
    if (!usable || (isDigest(target) && target !== digest))
      return (await this.getManifest(target, signal))?.descriptor;
    return { mediaType, digest, size };
  }

  async getManifest(target: string, signal?: AbortSignal): Promise<FetchedManifest | undefined> {
    const path = `manifests/${target}`;
    const label = this.#label(target);
    const { response, body: bytes } = await fetchDocument(
      () => this.#endpoint.read({ method: 'GET', path, headers: { accept }, signal }),
      maximumDocumentSize,
      label,
      signal,
    );
    if (response.status === 404) {
      await response.body.dump();
      return undefined;
    }
    if (bytes === undefined) throw await errorFrom(response, `GET ${label}`);
    const digest = digestOf(bytes);
    if (isDigest(target) && target !== digest) throw damaged(label);
    // What a tag names can only be checked against the header. Some registries have it wrong, but know their manifests.
    const claimed = headerOf(response, 'docker-content-digest');
    if (isDigest(claimed) && claimed !== digest && !(await this.#hasManifest(digest, signal)))
      throw damaged(label);
    return { descriptor: { mediaType: mediaTypeOf(response), digest, size: bytes.length }, bytes };
  }

  /**
   * Stores a manifest under a tag or its digest.
   *
   * @throws KilnError `E_TAG_IMMUTABLE` when the registry keeps the tag as it is; RegistryError.
   */
  async putManifest(
    target: string,
    mediaType: string,
    bytes: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    const response = await this.#endpoint.send({
      method: 'PUT',
      path: `manifests/${target}`,
      headers: { 'content-type': mediaType, 'content-length': String(bytes.length) },
      body: () => bytes,
      signal,
    });
    if (![200, 201, 202].includes(response.status)) {
      const error = await errorFrom(response, `PUT ${this.#label(target)}`);
      if (isImmutable(error))
        throw new KilnError(
          `${this.#label(target)} is there already and the registry lets no tag be changed`,
          {
            code: 'E_TAG_IMMUTABLE',
            category: 'registry',
            cause: error,
            remedy: 'Push under another tag.',
          },
        );
      throw error;
    }
    await response.body.dump();
    const stored = headerOf(response, 'docker-content-digest');
    if (isDigest(stored) && stored !== digestOf(bytes))
      throw new KilnError(`${this.#label(target)}: the registry stored another manifest, ${stored}`, {
        code: 'E_REGISTRY_REFUSED',
        category: 'registry',
        remedy: 'The registry or a proxy before it is faulty or hostile.',
      });
  }

  /** Deletes a tag or manifest. @returns false when there was none. @throws RegistryError. */
  async deleteManifest(target: string, signal?: AbortSignal): Promise<boolean> {
    const response = await this.#endpoint.send(
      { method: 'DELETE', path: `manifests/${target}`, signal },
      'pull,push,delete',
    );
    if (response.status !== 202 && response.status !== 200 && response.status !== 404)
      throw await errorFrom(response, `DELETE ${this.#label(target)}`);
    await response.body.dump();
    return response.status !== 404;
  }

  /** All tags, page by page. @throws RegistryError; a repository that does not exist has none. */
  async *listTags(signal?: AbortSignal): AsyncGenerator<string> {
    const what = `the tags of ${this.#endpoint.fullName}`;
    let path: string | undefined = 'tags/list?n=1000';
    // A registry that names a page again would go on for ever.
    for (const asked = new Set<string>(); path !== undefined && !asked.has(path);) {
      asked.add(path);
      const request = { method: 'GET', path, signal } as const;
      const send = (): Promise<HttpResponse> => this.#endpoint.read(request);
      const { response, body } = await fetchDocument(send, maximumTagList, what, signal);
      if (response.status === 404) {
        await response.body.dump();
        return;
      }
      if (body === undefined) throw await errorFrom(response, `GET ${what}`);
      yield* decodeTags(body, what);
      path = nextPage(headerOf(response, 'link'), `/v2/${this.name}/tags/list`);
    }
  }

  /** The size of a blob, or undefined when the repository has none of that digest. @throws RegistryError. */
  async statBlob(digest: Digest, signal?: AbortSignal): Promise<{ size: number } | undefined> {
    const response = await this.#endpoint.send({ method: 'HEAD', path: `blobs/${digest}`, signal }, 'pull');
    await response.body.dump();
    if (response.status === 404) return undefined;
    if (response.status >= 300 && response.status < 400) return { size: NaN };
    if (response.status !== 200) throw await errorFrom(response, `HEAD ${this.#label(digest)}`);
    return { size: Number(headerOf(response, 'content-length') ?? NaN) };
  }

  openBlob(descriptor: Descriptor, signal?: AbortSignal, offset = 0): Promise<Readable> {
    return Promise.resolve(openBlob([this.#endpoint], descriptor, { offset, signal }));
  }

  readBlob(descriptor: Descriptor, limit: number, signal?: AbortSignal): Promise<Uint8Array> {
    return readBlob(this.#endpoint, descriptor, limit, signal);
  }

  /** The names of those of these repositories that blobs can be mounted from here: others of the same registry. */
  mountable(places: readonly { readonly registry: string; readonly repository: string }[]): string[] {
    return places
      .filter(({ registry, repository }) => registry === this.registry && repository !== this.name)
      .map(({ repository }) => repository);
  }

  /**
   * Brings a blob into the repository: nothing when it is there, a mount where one is possible, an upload otherwise.
   *
   * @param open gives the blob's content from its beginning; called again for another attempt.
   * @throws KilnError `E_BLOB_CORRUPT` when what `open` gives is not what the descriptor says: it is never stored then;
   *   RegistryError, and `E_REGISTRY_UNAVAILABLE`.
   */
  uploadBlob(
    descriptor: Descriptor,
    open: OpenBlob,
    options: UploadOptions = {},
    signal?: AbortSignal,
  ): Promise<UploadOutcome> {
    return uploadBlob(this.#endpoint, descriptor, open, options, signal);
  }

  /** Finds out whether we may push here, by beginning an upload and giving it up. @throws RegistryError when not. */
  async checkPush(signal?: AbortSignal): Promise<void> {
    await (
      await this.tryPush(signal)
    ).cancelled;
  }

  /** As {@link checkPush}, but the answer is there before the upload is given up. */
  async tryPush(signal?: AbortSignal): Promise<{ readonly cancelled: Promise<void> }> {
    const session = await startUpload(this.#endpoint, signal);
    return { cancelled: cancelUpload(this.#endpoint, session, signal) };
  }

  async #hasManifest(digest: Digest, signal: AbortSignal | undefined): Promise<boolean> {
    const path = `manifests/${digest}`;
    const response = await this.#endpoint.read({ method: 'HEAD', path, headers: { accept }, signal });
    await response.body.dump();
    return response.status === 200;
  }

  #label(target: string): string {
    return this.#endpoint.label(target);
  }
}

function damaged(label: string): KilnError {
  return new KilnError(`${label} has other content than its digest says`, {
    code: 'E_BLOB_CORRUPT',
    category: 'registry',
    remedy: 'The registry or a proxy before it is faulty or hostile.',
  });
}

/**
 * Whether a registry says that it lets a tag not be changed. There is no code for it: Amazon ECR answers 400 TAG_INVALID, Google
 * Artifact Registry 400 or 403 DENIED, Harbor 412 PRECONDITION, Docker Hub 403, Quay and GitLab their own, and Nexus 400 that updates are
 * not allowed; all of them say so in words.
 */
function isImmutable({ status, message }: RegistryError): boolean {
  return (
    status >= 400 &&
    status < 500 &&
    status !== 401 &&
    /immutab|(?:not allow|disallow)[a-z]* (?:to )?updat|cannot be overwritten|updating asset is not allowed/i.test(
      message,
    )
  );
}

function mediaTypeOf(response: HttpResponse): string {
  return (headerOf(response, 'content-type') ?? '').replace(/;.*$/s, '').trim();
}

function decodeTags(body: Buffer, what: string): string[] {
  let tags: unknown;
  try {
    tags = (JSON.parse(body.toString('utf8')) as { tags?: unknown } | null)?.tags;
  } catch (cause) {
    throw new KilnError(`${what}: the registry's answer is not JSON`, {
      code: 'E_OCI_MALFORMED',
      category: 'registry',
      cause,
    });
  }
  return Array.isArray(tags) ? tags.filter((tag) => typeof tag === 'string') : [];
}

/** The path of the next page (RFC 8288 Link header); only the path and query of the address count. */
function nextPage(link: string | undefined, current: string): string | undefined {
  const match = /<([^>]+)>\s*;\s*rel="?next"?/.exec(link ?? '');
  if (match === null || !URL.canParse(match[1] ?? '', `http://registry.invalid${current}`)) return undefined;
  const url = new URL(match[1] ?? '', `http://registry.invalid${current}`);
  return url.pathname + url.search;
}
