import type { BigIntStats } from 'node:fs';
import { access, constants, open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type Descriptor,
  type Platform,
  formatPlatform,
  isDigest,
  normalizePlatform,
  platformMatches,
} from '../oci/index.ts';
import { EnvironmentError, type Progress, randomName } from '../support/index.ts';
import { BlobDirectory } from './blobs.ts';
import { FileLock } from './file-lock.ts';
import { ensureDirectory, explained, isMissing, replaceFile, unlessMissing } from './storage.ts';

/** OCI image specification, annotations.md: the name a descriptor of `index.json` goes by. */
export const refNameAnnotation = 'org.opencontainers.image.ref.name';

export interface OciLayoutOptions {
  /** `read-write` creates what is missing. */
  readonly access: 'read-write' | 'read-only';
  /** False for scratch space that need not survive a power failure. Default true. */
  readonly durable?: boolean;
  readonly progress?: Progress | undefined;
}

/** What `index.json` says. */
export interface IndexState {
  readonly entries: readonly Descriptor[];
  readonly identity: string | undefined;
}

interface IndexDocument {
  /** Undefined when there is no file, or a damaged one. */
  readonly identity: string | undefined;
  /** Everything the file says, so that what other tools wrote is kept. */
  readonly members: Readonly<Record<string, unknown>>;
  readonly manifests: readonly Descriptor[];
  readonly byName: ReadonlyMap<string, readonly Descriptor[]>;
}

type IndexChange = (manifests: Descriptor[]) => Descriptor[];

interface PendingChange {
  readonly change: IndexChange;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * An OCI image layout (image-layout.md): `oci-layout`, `index.json` and `blobs/sha256`, and besides them `ingest` for
 * files that are being written. `index.json` is replaced atomically under a lock, so processes may share a layout.
 */
export class OciLayout {
  readonly directory: string;
  readonly blobs: BlobDirectory;
  readonly writable: boolean;
  readonly #durable: boolean;
  readonly #progress: Progress | undefined;
  readonly #pending: PendingChange[] = [];
  #flushing = false;
  #cached: IndexDocument | undefined;

  private constructor(directory: string, options: OciLayoutOptions) {
    this.directory = directory;
    this.writable = options.access === 'read-write';
    this.#durable = options.durable ?? true;
    this.#progress = options.progress;
    this.blobs = new BlobDirectory({ directory, writable: this.writable, durable: this.#durable });
  }

  /**
   * Opens a layout; with write access what is missing is created.
   *
   * @throws EnvironmentError `E_VOLUME_NOT_FOUND` when it is to be read and is not there, `E_VOLUME_READ_ONLY` when it
   * cannot be written, `E_VOLUME_UNSUPPORTED` for another layout version.
   */
  static async open(directory: string, options: OciLayoutOptions): Promise<OciLayout> {
    const layout = new OciLayout(directory, options);
    const marker = await unlessMissing(readFile(join(directory, 'oci-layout'), 'utf8'));
    if (marker !== undefined) requireVersion(marker, directory);
    if (layout.writable) await explained(directory, () => layout.#create(marker === undefined));
    else if (marker === undefined)
      throw new EnvironmentError('there is no image layout', {
        code: 'E_VOLUME_NOT_FOUND',
        where: directory,
        remedy: 'Check the path, or fill the volume with the warmer first.',
      });
    return layout;
  }

  /** @throws EnvironmentError `E_VOLUME_READ_ONLY`. */
  requireWritable(): void {
    this.blobs.requireWritable();
  }

  /** All descriptors of `index.json`, in its order. */
  async readIndex(): Promise<readonly Descriptor[]> {
    return (await this.#document()).manifests;
  }

  /** Which `index.json` is there now; another one has another identity. Undefined when there is none. */
  async indexIdentity(): Promise<string | undefined> {
    const found = await unlessMissing(stat(join(this.directory, 'index.json'), { bigint: true }));
    return found === undefined ? undefined : identityOf(found);
  }

  /** The descriptors and the identity of the `index.json` that they are from; a damaged one has neither. */
  async indexState(): Promise<IndexState> {
    const { manifests, identity } = await this.#document();
    return { entries: manifests, identity };
  }

  /**
   * As {@link indexState}, for whoever deletes what nothing refers to.
   *
   * @throws EnvironmentError `E_INDEX_DAMAGED` when `index.json` is damaged or missing.
   */
  async soundIndexState(): Promise<IndexState> {
    const damaged = (why: string, cause?: unknown): EnvironmentError =>
      new EnvironmentError(`index.json is ${why}, so what is in use cannot be told`, {
        code: 'E_INDEX_DAMAGED',
        where: this.directory,
        remedy: 'Warm an image again: that starts a new index, and keeps the damaged one aside.',
        cause,
      });
    try {
      const { manifests, identity } = await this.#load();
      if (identity !== undefined) return { entries: manifests, identity };
    } catch (error) {
      if (error instanceof SyntaxError) throw damaged('damaged', error);
      throw error;
    }
    throw damaged('missing');
  }

  /** The descriptors that go by `name` (annotation `org.opencontainers.image.ref.name`). */
  async descriptorsNamed(name: string): Promise<readonly Descriptor[]> {
    return (await this.#document()).byName.get(name) ?? [];
  }

  /**
   * Stores a manifest and enters it into `index.json` under `name`, in place of what had that name and platform.
   * The blobs that it refers to must be there already, and leased if anybody prunes here.
   *
   * @param entry `annotations` may depend on the entry whose place it takes.
   */
  async putManifest(
    mediaType: string,
    bytes: Uint8Array,
    entry: {
      readonly name?: string;
      readonly platform?: Platform;
      readonly artifactType?: string;
      readonly annotations?: (previous: Descriptor | undefined) => Readonly<Record<string, string>>;
    },
  ): Promise<Descriptor> {
    await using leased = await this.blobs.putLeased(mediaType, bytes);
    const name = entry.name === undefined ? {} : { [refNameAnnotation]: entry.name };
    let descriptor: Descriptor = {
      ...leased.descriptor,
      ...(entry.artifactType === undefined ? {} : { artifactType: entry.artifactType }),
      ...(entry.platform === undefined ? {} : { platform: entry.platform }),
      annotations: name,
    };
    await this.updateIndex((manifests) => {
      const previous = manifests.find((other) => sameEntry(other, descriptor));
      descriptor = { ...descriptor, annotations: { ...entry.annotations?.(previous), ...name } };
      return [...manifests.filter((other) => !sameEntry(other, descriptor)), descriptor];
    });
    return descriptor;
  }

  /** Changes `index.json`. Changes asked for while one is being written are written together. */
  updateIndex(change: IndexChange): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#pending.push({ change, resolve, reject });
      if (!this.#flushing) void this.#flush();
    });
  }

  async #flush(): Promise<void> {
    this.#flushing = true;
    while (this.#pending.length > 0) {
      const batch = this.#pending.splice(0);
      try {
        await explained(this.directory, () => this.#write(batch.map(({ change }) => change)));
        for (const { resolve } of batch) resolve();
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    this.#flushing = false;
  }

  async #write(changes: readonly IndexChange[]): Promise<void> {
    await using _lock = await FileLock.acquire(join(this.blobs.ingestDirectory, 'index.lock'));
    const before = await this.#documentOrSetAside();
    let manifests = [...before.manifests];
    for (const change of changes) manifests = change(manifests);
    const members = { schemaVersion: 2, ...before.members, manifests };
    await this.#replace(JSON.stringify(members));
  }

  #replace(text: string): Promise<void> {
    return replaceFile(join(this.directory, 'index.json'), text, {
      ingest: this.blobs.ingestDirectory,
      durable: this.#durable,
    });
  }

  async #create(isNew: boolean): Promise<void> {
    await ensureDirectory(join(this.directory, 'blobs', 'sha256'));
    await ensureDirectory(this.blobs.ingestDirectory);
    await access(this.directory, constants.W_OK);
    if (!isNew) return;
    await replaceFile(join(this.directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}', {
      ingest: this.blobs.ingestDirectory,
      durable: this.#durable,
    });
    await this.updateIndex((manifests) => manifests);
  }

  /** What `index.json` says now; parsed again only when the file has changed. */
  async #document(): Promise<IndexDocument> {
    try {
      return await this.#load();
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      this.#progress?.warn(`${join(this.directory, 'index.json')} is damaged and was not used`);
      return emptyDocument;
    }
  }

  async #load(): Promise<IndexDocument> {
    try {
      await using handle = await open(join(this.directory, 'index.json'), 'r');
      const identity = identityOf(await handle.stat({ bigint: true }));
      if (this.#cached?.identity !== identity)
        this.#cached = { identity, ...parseIndex(await handle.readFile('utf8')) };
      return this.#cached;
    } catch (error) {
      if (isMissing(error)) return emptyDocument;
      throw error;
    }
  }

  /** For writers: a damaged `index.json` is kept beside, for a person to look at, and started anew. */
  async #documentOrSetAside(): Promise<IndexDocument> {
    try {
      return await this.#load();
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      const aside = join(this.directory, randomName('index.json.damaged-'));
      await replaceFile(aside, await readFile(join(this.directory, 'index.json')), {
        ingest: this.blobs.ingestDirectory,
        durable: this.#durable,
      });
      this.#progress?.warn(`index.json was damaged; it is kept as ${aside} and a new one was started`);
      return emptyDocument;
    }
  }
}

/** True when both descriptors stand for the same reference and platform, so one takes the other's place. */
export function sameEntry(a: Descriptor, b: Descriptor): boolean {
  const name = a.annotations?.[refNameAnnotation];
  if (name !== b.annotations?.[refNameAnnotation]) return false;
  if (name === undefined && a.digest !== b.digest) return false;
  if (a.platform == null || b.platform == null) return a.platform == null && b.platform == null;
  return platformMatches(a.platform, b.platform);
}

/** How the platform of a descriptor is written in the index database; empty when it has none. */
export function platformKey(platform: Platform | undefined): string {
  return platform == null ? '' : formatPlatform(normalizePlatform(platform));
}

const emptyDocument: IndexDocument = {
  identity: undefined,
  members: {},
  manifests: [],
  byName: new Map(),
};

function identityOf({ ino, size, mtimeNs, ctimeNs }: BigIntStats): string {
  return `${ino} ${size} ${mtimeNs} ${ctimeNs}`;
}

/** Entries that are no sound descriptors are left out; members that Kiln does not know are kept. */
function parseIndex(text: string): Omit<IndexDocument, 'identity'> {
  const members = JSON.parse(text) as Record<string, unknown> | null;
  if (members === null || typeof members !== 'object' || !Array.isArray(members.manifests))
    throw new SyntaxError('index.json has no list of manifests');
  const manifests = members.manifests.filter(isDescriptor);
  const byName = new Map<string, Descriptor[]>();
  for (const descriptor of manifests) {
    const name = descriptor.annotations?.[refNameAnnotation];
    if (name === undefined) continue;
    const named = byName.get(name);
    if (named === undefined) byName.set(name, [descriptor]);
    else named.push(descriptor);
  }
  return { members, manifests, byName };
}

function isDescriptor(value: unknown): value is Descriptor {
  if (typeof value !== 'object' || value === null) return false;
  const { mediaType, digest, size, platform, annotations } = value as Record<string, unknown>;
  const isObject = (member: unknown): boolean => member == null || typeof member === 'object';
  return (
    typeof mediaType === 'string' &&
    isDigest(digest) &&
    Number.isSafeInteger(size) &&
    (platform == null || isPlatform(platform)) &&
    isObject(annotations)
  );
}

function isPlatform(value: unknown): boolean {
  const { os, architecture } = value as Record<string, unknown>;
  return typeof os === 'string' && typeof architecture === 'string';
}

function requireVersion(marker: string, directory: string): void {
  const version = /"imageLayoutVersion"\s*:\s*"([^"]*)"/.exec(marker)?.[1];
  if (version?.startsWith('1.') === true) return;
  throw new EnvironmentError(`unknown image layout version ${JSON.stringify(version ?? null)}`, {
    code: 'E_VOLUME_UNSUPPORTED',
    where: join(directory, 'oci-layout'),
    remedy: 'Use an empty directory, or the version of Kiln that wrote this one.',
  });
}
