import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { pack } from 'tar-stream';
import {
  type Descriptor,
  type DiffID,
  type Digest,
  type Image,
  type Platform,
  type Reference,
  decodeConfig,
  decodeManifest,
  digestOf,
  mediaTypes,
  parseReference,
} from '../../src/oci/index.ts';
import type { RegistryClient, Repository } from '../../src/registry/index.ts';

export const amd64: Platform = { os: 'linux', architecture: 'amd64' };

/** A directory for one test. */
export async function temporaryDirectory(): Promise<{ readonly path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'kiln-volume-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** An image with the bytes of its layers, the same for the same arguments in every process. */
export interface TestImage {
  readonly image: Image;
  readonly blobs: ReadonlyMap<Digest, Uint8Array>;
}

/** Makes an image whose layer `i` holds the file `layer<i>` of `layerBytes` bytes that do not compress. */
export async function testImage(
  seeds: readonly string[],
  layerBytes = 1000,
  platform = amd64,
): Promise<TestImage> {
  const blobs = new Map<Digest, Uint8Array>();
  const layers: Descriptor[] = [];
  const diffIDs: DiffID[] = [];
  for (const seed of seeds) {
    const tar = await tarOf(`layer-${seed}`, noise(seed, layerBytes));
    const blob = gzipSync(tar, { level: 1 });
    layers.push({ mediaType: mediaTypes.ociLayerGzip, digest: digestOf(blob), size: blob.length });
    diffIDs.push(digestOf(tar) as DiffID);
    blobs.set(digestOf(blob), blob);
  }
  const json = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));
  const configBytes = json({ ...platform, rootfs: { type: 'layers', diff_ids: diffIDs } });
  const config = {
    mediaType: mediaTypes.ociConfig,
    digest: digestOf(configBytes),
    size: configBytes.length,
  };
  const manifestBytes = json({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers });
  blobs.set(config.digest, configBytes);
  blobs.set(digestOf(manifestBytes), manifestBytes);
  return {
    blobs,
    image: {
      descriptor: {
        mediaType: mediaTypes.ociManifest,
        digest: digestOf(manifestBytes),
        size: manifestBytes.length,
      },
      manifest: decodeManifest(manifestBytes),
      manifestBytes,
      config: decodeConfig(configBytes),
      configBytes,
    },
  };
}

function noise(seed: string, length: number): Buffer {
  const blocks: Buffer[] = [];
  for (let count = 0; count * 32 < length; count += 1)
    blocks.push(createHash('sha256').update(`${seed} ${count}`).digest());
  return Buffer.concat(blocks).subarray(0, length);
}

async function tarOf(name: string, content: Buffer): Promise<Buffer> {
  const archive = pack();
  archive.entry({ name, mtime: new Date(0), mode: 0o644 }, content);
  archive.finalize();
  return buffer(archive);
}

/** A registry in memory that counts what it is asked for. */
export class FakeRegistry {
  readonly blobs = new Map<Digest, Uint8Array>();
  readonly tags = new Map<string, { mediaType: string; digest: Digest }>();
  readonly opened: { digest: Digest; offset: number }[] = [];
  heads = 0;
  manifests = 0;
  /** Milliseconds between two chunks of a blob. */
  pause = 0;
  chunk = 64 * 1024;
  /** What is sent of a blob when it is opened for the n-th time, counted from 1 over all blobs; default: its content. */
  send: (bytes: Uint8Array, opened: number) => Uint8Array = (bytes) => bytes;

  push(reference: Reference, { image, blobs }: TestImage): void {
    for (const [digest, bytes] of blobs) this.blobs.set(digest, bytes);
    this.tags.set(reference.tag ?? '', image.descriptor);
  }

  /** Pushes a multi-platform index. @returns its digest. */
  pushIndex(reference: Reference, images: readonly { platform: Platform; image: TestImage }[]): Digest {
    const manifests = images.map(({ platform, image }) => ({ ...image.image.descriptor, platform }));
    for (const { image } of images) for (const [digest, bytes] of image.blobs) this.blobs.set(digest, bytes);
    const bytes = Buffer.from(
      JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests }),
    );
    this.blobs.set(digestOf(bytes), bytes);
    this.tags.set(reference.tag ?? '', { mediaType: mediaTypes.ociIndex, digest: digestOf(bytes) });
    return digestOf(bytes);
  }

  get client(): RegistryClient {
    return { source: () => this.#repository() } as unknown as RegistryClient;
  }

  #repository(): Repository {
    const lookUp = (target: string): { descriptor: Descriptor; bytes: Uint8Array } | undefined => {
      const digest = (this.tags.get(target)?.digest ?? target) as Digest;
      const bytes = this.blobs.get(digest);
      if (bytes === undefined) return undefined;
      const { mediaType } = JSON.parse(Buffer.from(bytes).toString()) as { mediaType: string };
      return { descriptor: { mediaType, digest, size: bytes.length }, bytes };
    };
    return {
      registry: 'test.invalid',
      name: 'repository',
      headManifest: (target: string) => {
        this.heads += 1;
        return Promise.resolve(lookUp(target)?.descriptor);
      },
      getManifest: (target: string) => {
        this.manifests += 1;
        return Promise.resolve(lookUp(target));
      },
      readBlob: (descriptor: Descriptor) => Promise.resolve(this.blobs.get(descriptor.digest)),
      openBlob: (descriptor: Descriptor, signal?: AbortSignal, offset = 0) => {
        this.opened.push({ digest: descriptor.digest, offset });
        const bytes = this.blobs.get(descriptor.digest);
        if (bytes === undefined) return Promise.reject(new Error('blob unknown'));
        const sent = this.send(bytes, this.opened.length).subarray(offset);
        return Promise.resolve(Readable.from(this.#chunks(sent, signal)));
      },
    } as unknown as Repository;
  }

  async *#chunks(bytes: Uint8Array, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    for (let offset = 0; offset < bytes.length; offset += this.chunk) {
      if (this.pause > 0) await delay(this.pause, undefined, signal === undefined ? {} : { signal });
      yield bytes.subarray(offset, offset + this.chunk);
    }
  }
}

export const debian = parseReference('test.invalid/debian:12');
