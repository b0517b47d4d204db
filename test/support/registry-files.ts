import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Digest, digestHex, digestOf } from '../../src/oci/index.ts';

/** Writes a repository as the filesystem driver of `docker-registry` lays it out, much faster than by pushing. */
export class RegistryFiles {
  /** Of all blobs written. */
  bytes = 0;
  readonly #root: string;
  readonly #repository: string;

  constructor(storage: string, repository: string) {
    const root = join(storage, 'docker/registry/v2');
    this.#root = root;
    this.#repository = join(root, 'repositories', repository);
  }

  async blob(content: Uint8Array): Promise<Digest> {
    const digest = await this.#data(content);
    await this.#link(join(this.#repository, '_layers/sha256', digestHex(digest)), digest);
    return digest;
  }

  async manifest(tag: string, content: Uint8Array): Promise<void> {
    const digest = await this.#data(content);
    const manifests = join(this.#repository, '_manifests');
    await this.#link(join(manifests, 'revisions/sha256', digestHex(digest)), digest);
    await this.#link(join(manifests, 'tags', tag, 'current'), digest);
    await this.#link(join(manifests, 'tags', tag, 'index/sha256', digestHex(digest)), digest);
  }

  async #data(content: Uint8Array): Promise<Digest> {
    const digest = digestOf(content);
    const hex = digestHex(digest);
    const directory = join(this.#root, 'blobs/sha256', hex.slice(0, 2), hex);
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, 'data'), content);
    this.bytes += content.byteLength;
    return digest;
  }

  async #link(directory: string, digest: Digest): Promise<void> {
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, 'link'), digest);
  }
}
