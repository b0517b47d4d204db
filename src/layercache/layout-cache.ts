import { blobLayer, type Layer } from '../layer/index.ts';
import { type Digest, mediaTypes } from '../oci/index.ts';
import { OciLayout } from '../volume/index.ts';
import { utimes } from 'node:fs/promises';
import { Readable } from 'node:stream';
import type { CacheEntry } from './entry.ts';
import { type CacheKey, keyTag } from './keys.ts';
import { encodeLastBuild, type LastBuild, readLastBuild } from './last-build.ts';
import { LayoutEntries } from './layout-entries.ts';
import {
  encodeNewEntry,
  type EntryWriter,
  judge,
  type LayerCache,
  layerDescriptor,
  type LookupOptions,
  type LookupResult,
  type NewEntry,
  outcomeOf,
} from './layer-cache.ts';
import type { CacheTrust, TrustedKeys } from './signature.ts';
import { KilnError, systemErrorCode } from '../support/index.ts';

/** A cache in an OCI image layout directory: no registry needed. */
export class LayoutCache implements LayerCache {
  readonly location: string;
  readonly origin = undefined;
  readonly #directory: string;
  readonly #writer: EntryWriter;
  readonly #trusted: TrustedKeys | undefined;

  constructor(directory: string, creator: string, trust: CacheTrust) {
    this.location = `oci:${directory}`;
    this.#directory = directory;
    this.#writer = { creator, signer: trust.signer };
    this.#trusted = trust.trusted;
  }

  async lookup(keys: readonly CacheKey[], options: LookupOptions): Promise<Map<CacheKey, LookupResult>> {
    const results = new Map<CacheKey, LookupResult>();
    let layout: OciLayout;
    try {
      layout = await OciLayout.open(this.#directory, { access: 'read-only' });
    } catch (error) {
      const fresh = error instanceof KilnError && error.code === 'E_VOLUME_NOT_FOUND';
      const result: LookupResult = fresh
        ? { outcome: 'miss', detail: 'the cache is empty' }
        : outcomeOf(error);
      return new Map(keys.map((key) => [key, result]));
    }
    for (const key of new Set(keys)) results.set(key, await this.#lookupOne(layout, key, options));
    return results;
  }

  async store(entry: NewEntry, layer: Layer | undefined, signal?: AbortSignal): Promise<void> {
    const layout = await OciLayout.open(this.#directory, { access: 'read-write' });
    if (layer !== undefined && (await layout.blobs.stat(layer.digest, signal)) === undefined)
      await layout.blobs.ingest(layerDescriptor(layer), await layer.compressed(signal), signal);
    else await touch(layout, [layer?.digest]);
    const encoded = await encodeNewEntry(entry, layer, this.#writer, signal);
    await layout.blobs.ingest(encoded.config, Readable.from([encoded.configBytes]), signal);
    await layout.putManifest(mediaTypes.ociManifest, encoded.manifestBytes, { name: keyTag(entry.key) });
  }

  async recall(tag: string, signal?: AbortSignal): Promise<LastBuild | undefined> {
    try {
      return await readLastBuild(new LayoutEntries(this.#directory), tag, signal);
    } catch (error) {
      if (systemErrorCode(error) === 'E_VOLUME_NOT_FOUND') return undefined;
      throw error;
    }
  }

  async remember(tag: string, build: LastBuild, signal?: AbortSignal): Promise<void> {
    const artifact = encodeLastBuild(tag, build);
    if (artifact !== undefined) await new LayoutEntries(this.#directory).putArtifact(artifact, signal);
  }

  async #lookupOne(layout: OciLayout, key: CacheKey, options: LookupOptions): Promise<LookupResult> {
    try {
      const descriptor = (await layout.descriptorsNamed(keyTag(key)))[0];
      if (descriptor === undefined) return { outcome: 'miss', detail: 'no entry has this key' };
      const chunks: Buffer[] = [];
      for await (const chunk of await layout.blobs.open(descriptor.digest, options.signal))
        chunks.push(chunk as Buffer);
      const bytes = Buffer.concat(chunks);
      const rules = { ...options, trusted: this.#trusted };
      const result = judge(key, bytes, this, (entry) => layerOf(layout, entry), rules);
      if (result.outcome === 'hit') await touch(layout, [descriptor.digest, result.layer?.digest]);
      if (
        result.outcome === 'hit' &&
        result.layer !== undefined &&
        (await layout.blobs.stat(result.layer.digest)) === undefined
      )
        return { outcome: 'corrupt', detail: 'its layer is missing' };
      return result;
    } catch (error) {
      return outcomeOf(error);
    }
  }
}

/**
 * Notes that a build takes these blobs, by the times of their files: `warmer remote` reads there when an entry was last hit,
 * and lets them be. Where they can only be read, nothing is noted.
 */
async function touch(layout: OciLayout, digests: readonly (Digest | undefined)[]): Promise<void> {
  const now = new Date();
  for (const digest of digests) {
    if (digest === undefined) continue;
    try {
      await utimes(layout.blobs.path(digest), now, now);
    } catch (error) {
      if (!['EROFS', 'EPERM', 'EACCES', 'ENOENT'].includes(systemErrorCode(error) ?? '')) throw error;
    }
  }
}

function layerOf(layout: OciLayout, entry: CacheEntry): Layer | undefined {
  return entry.layer === null
    ? undefined
    : blobLayer(layout.blobs, entry.layer.descriptor, entry.layer.diffID);
}
