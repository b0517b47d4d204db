import { Readable } from 'node:stream';
import { blobLayer, type Layer } from '../layer/index.ts';
import { mediaTypes, parseReference } from '../oci/index.ts';
import type { RegistryClient, Repository } from '../registry/index.ts';
import type { CacheEntry } from './entry.ts';
import { type CacheKey, keyTag } from './keys.ts';
import { encodeLastBuild, type LastBuild, readLastBuild } from './last-build.ts';
import { RegistryEntries } from './registry-entries.ts';
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

/** A cache in a repository of a registry: one tag an entry. */
export class RegistryCache implements LayerCache {
  readonly location: string;
  readonly origin: { readonly registry: string; readonly repository: string };
  readonly #repository: Repository;
  readonly #entries: RegistryEntries;
  readonly #writer: EntryWriter;
  readonly #trusted: TrustedKeys | undefined;

  /** @throws UsageError when the location is no repository. */
  constructor(location: string, client: RegistryClient, creator: string, trust: CacheTrust) {
    const { registry, repository } = parseReference(location);
    this.location = location;
    this.origin = { registry, repository };
    this.#repository = client.repository(this.origin);
    this.#entries = new RegistryEntries(location, client);
    this.#writer = { creator, signer: trust.signer };
    this.#trusted = trust.trusted;
  }

  async lookup(keys: readonly CacheKey[], options: LookupOptions): Promise<Map<CacheKey, LookupResult>> {
    const results = new Map<CacheKey, LookupResult>();
    const unique = [...new Set(keys)];
    const [first, ...rest] = unique;
    if (first === undefined) return results;
    // The first request fetches the token that all others share, and finds out whether asking makes sense at all.
    const probe = await this.#lookupOne(first, options);
    results.set(first, probe);
    const useless = probe.outcome === 'error' || probe.outcome === 'unauthorized';
    const others = await Promise.all(
      rest.map(async (key) => [key, useless ? probe : await this.#lookupOne(key, options)] as const),
    );
    for (const [key, result] of others) results.set(key, result);
    return results;
  }

  async store(entry: NewEntry, layer: Layer | undefined, signal?: AbortSignal): Promise<void> {
    const encoded = await encodeNewEntry(entry, layer, this.#writer, signal);
    await Promise.all([
      layer === undefined
        ? undefined
        : this.#repository.uploadBlob(
            layerDescriptor(layer),
            (s) => layer.compressed(s),
            { mountFrom: this.#repository.mountable(entry.origins ?? []) },
            signal,
          ),
      this.#repository.uploadBlob(
        encoded.config,
        () => Promise.resolve(Readable.from([encoded.configBytes])),
        {},
        signal,
      ),
    ]);
    await this.#repository.putManifest(
      keyTag(entry.key),
      mediaTypes.ociManifest,
      encoded.manifestBytes,
      signal,
    );
  }

  recall(tag: string, signal?: AbortSignal): Promise<LastBuild | undefined> {
    return readLastBuild(this.#entries, tag, signal);
  }

  async remember(tag: string, build: LastBuild, signal?: AbortSignal): Promise<void> {
    const artifact = encodeLastBuild(tag, build);
    if (artifact !== undefined) await this.#entries.putArtifact(artifact, signal);
  }

  async #lookupOne(key: CacheKey, options: LookupOptions): Promise<LookupResult> {
    try {
      const found = await this.#repository.getManifest(keyTag(key), options.signal);
      if (found === undefined) return { outcome: 'miss', detail: 'no entry has this key' };
      return judge(key, found.bytes, this, (entry) => this.#layer(entry), {
        ...options,
        trusted: this.#trusted,
      });
    } catch (error) {
      return outcomeOf(error);
    }
  }

  #layer(entry: CacheEntry): Layer | undefined {
    if (entry.layer === null) return undefined;
    const { descriptor, diffID } = entry.layer;
    return blobLayer(
      { open: (_digest, signal) => this.#repository.openBlob(descriptor, signal) },
      descriptor,
      diffID,
    );
  }
}
