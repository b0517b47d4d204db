import { lstatSync, readFileSync } from 'node:fs';
import { mkdir, open, readFile, rename, stat, utimes } from 'node:fs/promises';
import { join as joinPath } from 'node:path';
import { unpackLayer } from '../layer/index.ts';
import { type DiffID, type Digest, type LayerCompression, digestHex, isDigest } from '../oci/index.ts';
import { type Progress, SingleFlight, joinFlight, randomName } from '../support/index.ts';
import { FileLock } from './file-lock.ts';
import { LockedDirectory, removeTree } from './ingest.ts';
import { Lease } from './leases.ts';
import { hasOwnersHere, type LowerFacts, lowerFacts, parseLowerFacts, servesHere } from './lower.ts';
import { explained, isMissing, syncDirectory, unlessMissing } from './storage.ts';

/** What the marker of a complete layer says. */
export interface LayerSeal extends LowerFacts {
  readonly diffID: DiffID;
  /** Tar entries that were unpacked. */
  readonly entries: number;
  /** Bytes of file content. */
  readonly bytes: number;
  /** Opaque directories (latin1, relative); undefined in a seal of an earlier version. */
  readonly opaque?: readonly string[] | undefined;
  /** Milliseconds since the epoch; missing in seals of older versions. */
  readonly unpackedAt?: number;
  /** Digest of the unpacked tree; missing in seals of older versions. */
  readonly tree?: Digest;
}

/** What prune wants to know of a layer. Times in milliseconds since the epoch. */
export interface LayerFacts {
  /** False for one that was never finished. */
  readonly sealed: boolean;
  readonly bytes: number;
  readonly unpackedAt: number;
  /** The time of the seal, which every use of the layer on a writable volume brings up to date. */
  readonly lastUsedAt: number;
}

/** A compressed layer as a file on disk. */
export interface LayerFile {
  readonly file: string;
  readonly compression: LayerCompression;
}

export interface LayerDirectoryOptions {
  readonly directory: string;
  readonly durable: boolean;
  readonly progress?: Progress | undefined;
}

const sealName = 'sealed';

/**
 * The unpacked layers of a volume: `layers/<diffid>/fs`, valid only with the marker `sealed` beside it.
 * A layer is unpacked under `ingest`, synced, sealed, and appears under its name by one rename.
 */
export class LayerDirectory {
  readonly #root: string;
  readonly #ingest: string;
  readonly #options: LayerDirectoryOptions;
  readonly #unpacking = new SingleFlight<DiffID, void>();

  constructor(options: LayerDirectoryOptions) {
    this.#options = options;
    this.#root = joinPath(options.directory, 'layers');
    this.#ingest = joinPath(options.directory, 'ingest');
  }

  /** The directory of a layer: holds `fs` and the seal, and is what leases lock. */
  path(diffID: DiffID): string {
    return joinPath(this.#root, digestHex(diffID));
  }

  /** The unpacked tree of a layer. */
  tree(diffID: DiffID): string {
    return joinPath(this.path(diffID), 'fs');
  }

  /** The seal of a complete layer; undefined when the layer is missing or was never finished. */
  async seal(diffID: DiffID): Promise<LayerSeal | undefined> {
    const text = await unlessMissing(readFile(joinPath(this.path(diffID), sealName), 'utf8'));
    return text === undefined ? undefined : parseSeal(text, diffID);
  }

  /** What lies there under the name of a layer; undefined when nothing does. Of an unsealed one little is known. */
  facts(diffID: DiffID): LayerFacts | undefined {
    const directory = this.path(diffID);
    try {
      const found = lstatSync(directory, { throwIfNoEntry: false });
      if (found === undefined) return undefined;
      const seal = lstatSync(joinPath(directory, sealName), { throwIfNoEntry: false });
      const changedAt = Math.max(found.mtimeMs, found.ctimeMs);
      if (seal === undefined)
        return { sealed: false, bytes: 0, unpackedAt: changedAt, lastUsedAt: changedAt };
      const parsed = parseSeal(readFileSync(joinPath(directory, sealName), 'utf8'), diffID);
      return {
        sealed: parsed !== undefined,
        bytes: parsed?.bytes ?? 0,
        unpackedAt: parsed?.unpackedAt ?? found.mtimeMs,
        lastUsedAt: seal.mtimeMs,
      };
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  /** Notes that a layer is used now. A volume that cannot be written keeps no such note. */
  async markUsed(diffID: DiffID): Promise<void> {
    const now = new Date();
    await unlessMissing(utimes(joinPath(this.path(diffID), sealName), now, now));
  }

  /** Whether a layer is complete, and this process can mount it. */
  async serves(diffID: DiffID): Promise<boolean> {
    const seal = await this.seal(diffID);
    return seal !== undefined && servesHere(seal);
  }

  /** Leases a complete layer that this process can mount; undefined when there is none. */
  async lease(diffID: DiffID): Promise<Lease | undefined> {
    const lease = await Lease.tryAcquire(this.path(diffID));
    if (lease === undefined || (await this.serves(diffID))) return lease;
    await lease[Symbol.asyncDispose]();
    return undefined;
  }

  /** Leases a complete layer whose files can be copied, whether or not this process can mount it. */
  async leaseFiles(diffID: DiffID): Promise<{ readonly lease: Lease; readonly seal: LayerSeal } | undefined> {
    const lease = await Lease.tryAcquire(this.path(diffID));
    const seal = lease === undefined ? undefined : await this.seal(diffID);
    if (lease !== undefined && seal !== undefined && hasOwnersHere(seal)) return { lease, seal };
    await lease?.[Symbol.asyncDispose]();
    return undefined;
  }

  /**
   * Makes sure that a layer is unpacked. However many callers and processes ask, one unpacks and the rest wait.
   *
   * @param provide is called for the compressed file only when the layer has to be unpacked.
   * @throws KilnError when the content is not what `diffID` says; nothing stays then.
   */
  async ensure(
    diffID: DiffID,
    provide: () => Promise<LayerFile & Partial<AsyncDisposable>>,
    signal?: AbortSignal,
  ): Promise<void> {
    if (await this.serves(diffID)) return;
    await joinFlight(this.#unpacking, diffID, () => this.#unpackLocked(diffID, provide, signal), signal);
  }

  /** Tells what lies under the name of a layer from what takes its place; undefined when nothing is there. */
  async identity(diffID: DiffID): Promise<string | undefined> {
    const found = await unlessMissing(stat(this.path(diffID), { bigint: true }));
    return found === undefined ? undefined : `${found.ino} ${found.birthtimeNs}`;
  }

  /**
   * Takes a layer's directory away, unless somebody uses it or another one has taken its place.
   *
   * @param identity what it was when it was found to be wrong.
   */
  async remove(diffID: DiffID, identity: string | undefined): Promise<'removed' | 'in_use' | 'replaced'> {
    await using lease = await Lease.tryAcquireExclusive(this.path(diffID));
    if ((await this.identity(diffID)) !== identity) return 'replaced';
    if (lease === undefined) return 'in_use';
    await using work = await LockedDirectory.create(this.#ingest, 'trash-');
    await rename(this.path(diffID), joinPath(work.path, 'layer'));
    return 'removed';
  }

  async #unpackLocked(
    diffID: DiffID,
    provide: () => Promise<LayerFile & Partial<AsyncDisposable>>,
    signal?: AbortSignal,
  ): Promise<void> {
    await explained(this.#options.directory, async () => {
      const lockPath = joinPath(this.#ingest, `${digestHex(diffID)}.unpack.lock`);
      await using _lock = await FileLock.acquire(lockPath, signal);
      if (await this.serves(diffID)) return;
      const source = await provide();
      try {
        await this.#unpack(diffID, source, signal);
      } finally {
        await source[Symbol.asyncDispose]?.();
      }
    });
  }

  async #unpack(diffID: DiffID, source: LayerFile, signal?: AbortSignal): Promise<void> {
    await using work = await LockedDirectory.create(this.#ingest, 'unpack-');
    const layer = joinPath(work.path, 'layer');
    const tree = joinPath(layer, 'fs');
    await mkdir(tree, { recursive: true, mode: 0o755 });
    const result = await unpackLayer(source, tree, {
      expectedDiffID: diffID,
      ...(signal === undefined ? {} : { signal }),
    });
    if (this.#options.durable) await syncTree(layer);
    if (result.skippedDevices > 0)
      this.#options.progress?.warn(
        `layer ${diffID.slice(0, 19)} has ${result.skippedDevices} device nodes, which a user namespace may not make; steps will not see them`,
      );
    const { entries, bytes, opaque, tree: digest } = result;
    const seal = {
      ...{ diffID, entries, bytes, opaque, unpackedAt: Date.now(), tree: digest },
      ...lowerFacts(result),
    };
    await writeSeal(layer, seal, this.#options.durable);
    await this.#publish(layer, diffID);
  }

  /** Renames a directory, with a lease meanwhile: a prune must find under a name what it has locked. */
  async #takeAway(target: string, away: string): Promise<boolean> {
    await using _lease = await Lease.tryAcquire(target);
    return (await unlessMissing(rename(target, away).then(() => true))) === true;
  }

  async #publish(layer: string, diffID: DiffID): Promise<void> {
    const target = this.path(diffID);
    // What is in the way was never finished, or serves others alone: builds that have it mounted go on with it.
    const replaced = joinPath(this.#ingest, randomName('replaced-'));
    if (await this.#takeAway(target, replaced)) {
      await using unused = await Lease.tryAcquireExclusive(replaced);
      if (unused !== undefined) await removeTree(replaced);
    }
    await rename(layer, target);
    if (this.#options.durable) await syncDirectory(this.#root);
  }
}

/** A seal counts only when it names the layer that it lies in. */
function parseSeal(text: string, diffID: DiffID): LayerSeal | undefined {
  try {
    const seal = JSON.parse(text) as Partial<LayerSeal> | null;
    if (seal?.diffID !== diffID || !Number.isSafeInteger(seal.entries)) return undefined;
    const { entries = 0, bytes = 0, opaque, unpackedAt, tree } = seal;
    const known = Array.isArray(opaque) && opaque.every((path) => typeof path === 'string');
    return {
      diffID,
      entries,
      bytes: Number(bytes),
      opaque: known ? opaque : undefined,
      ...parseLowerFacts(seal),
      ...(Number.isSafeInteger(unpackedAt) ? { unpackedAt: Number(unpackedAt) } : {}),
      ...(isDigest(tree) ? { tree } : {}),
    };
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

async function writeSeal(directory: string, seal: LayerSeal, durable: boolean): Promise<void> {
  await using handle = await open(joinPath(directory, sealName), 'wx', 0o444);
  await handle.writeFile(JSON.stringify(seal));
  if (durable) await handle.sync();
}

/** Thousands of small files are synced far faster by the file system as a whole than one by one. */
async function syncTree(path: string): Promise<void> {
  const { syncFileSystem } = await import('../os/index.ts');
  await using handle = await open(path, 'r');
  await syncFileSystem(handle.fd);
}
