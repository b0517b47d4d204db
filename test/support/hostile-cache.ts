import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import type { CacheKey } from '../../src/layercache/index.ts';
import { keyTag } from '../../src/layercache/index.ts';
import { type Digest, digestOf, type Manifest, mediaTypes, parseReference } from '../../src/oci/index.ts';
import type { RegistryClient, Repository } from '../../src/registry/index.ts';

/** Names of annotations, as somebody knows them who has only read the documentation. */
const annotation = (name: string): string => `dev.kiln.cache.${name}`;

/** Somebody who may push to the repository of a layer cache, and read another one. */
export class CacheAttacker {
  readonly location: string;
  readonly #own: Repository;
  readonly #honest: Repository;

  constructor(client: RegistryClient, honest: string, own: string) {
    this.location = own;
    this.#honest = client.repository(parseReference(honest));
    this.#own = client.repository(parseReference(own));
  }

  /** The manifest of an honest entry. */
  async read(key: CacheKey): Promise<Manifest> {
    const found = await this.#honest.getManifest(keyTag(key));
    if (found === undefined) throw new Error(`there is no entry ${key}`);
    return JSON.parse(Buffer.from(found.bytes).toString('utf8')) as Manifest;
  }

  /** Puts a manifest under a key, with the blobs of the honest cache that it names. */
  async put(key: CacheKey, manifest: Manifest): Promise<void> {
    for (const { digest } of [manifest.config, ...manifest.layers]) {
      const there = await this.#honest.statBlob(digest);
      if (there === undefined) continue;
      const descriptor = { mediaType: '', digest, size: there.size };
      await this.#own.uploadBlob(descriptor, (signal) => this.#honest.openBlob(descriptor, signal), {
        mountFrom: [this.#honest.name],
      });
    }
    await this.#own.putManifest(keyTag(key), mediaTypes.ociManifest, Buffer.from(JSON.stringify(manifest)));
  }

  async upload(bytes: Buffer, mediaType: string): Promise<Manifest['layers'][number]> {
    const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.length };
    await this.#own.uploadBlob(descriptor, () => Promise.resolve(Readable.from([bytes])));
    return descriptor;
  }

  /** An honest entry with another layer, which a tar file makes. @param diffID what it is said to be (default: what it is). */
  async withLayer(manifest: Manifest, tar: Buffer, diffID?: string): Promise<Manifest> {
    const layer = await this.upload(gzipSync(tar), mediaTypes.ociLayerGzip);
    const own: Digest = `sha256:${createHash('sha256').update(tar).digest('hex')}` as Digest;
    return { ...annotated(manifest, { 'diff-id': diffID ?? own }), layers: [layer] };
  }
}

/** A manifest with other annotations; null takes one away. */
export function annotated(manifest: Manifest, changes: Readonly<Record<string, string | null>>): Manifest {
  const annotations = { ...manifest.annotations };
  for (const [name, value] of Object.entries(changes)) {
    const full = name.includes('.') ? name : annotation(name);
    if (value === null) Reflect.deleteProperty(annotations, full);
    else annotations[full] = value;
  }
  return { ...manifest, annotations };
}
