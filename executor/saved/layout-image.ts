import {
  decodeIndex,
  decodeManifest,
  type Descriptor,
  type Digest,
  digestHex,
  digestOf,
  indexMediaTypes,
  manifestMediaTypes,
} from '../../src/oci/index.ts';
import type { Pushable, PushableBlob, PushableDocument } from '../export/pushable.ts';
import { readDocument, type SavedFiles } from './saved-files.ts';
import { unreadable } from './tar-files.ts';

const nameAnnotations = ['org.opencontainers.image.ref.name', 'io.containerd.image.name'];

/**
 * The image of an OCI layout (image-layout.md), byte for byte: its digest stays. An index is pushed with all that it refers to.
 *
 * @param path what messages call it.
 * @param name which of several images.
 * @throws UsageError `E_IMAGE_UNREADABLE`.
 */
export async function layoutImage(
  files: SavedFiles,
  path: string,
  name: string | undefined,
): Promise<Pushable> {
  const index = await readDocument(files, 'index.json');
  if (index === undefined) throw unreadable(path, 'there is no index.json');
  const root = chooseManifest(decodeIndex(index, path).manifests, path, name);
  const reader = new LayoutReader(files, path);
  const document = await reader.document(root);
  return { root: document, children: reader.children, blobs: [...reader.blobs.values()] };
}

/** One image may have several names. */
function chooseManifest(all: readonly Descriptor[], path: string, name: string | undefined): Descriptor {
  const named =
    name === undefined ? all : all.filter((one) => namesOf(one).some((text) => isNamed(text, name)));
  const [first, ...others] = named;
  if (first === undefined)
    throw unreadable(path, name === undefined ? 'it has no image' : `it has no image of the name ${name}`);
  if (others.every(({ digest }) => digest === first.digest)) return first;
  const names = [...new Set(named.flatMap(namesOf))].slice(0, 5).join(', ');
  throw unreadable(path, `it has several images (${names}); name one, as in ${path}:NAME`);
}

function namesOf({ annotations }: Descriptor): string[] {
  return nameAnnotations.flatMap((key) => annotations?.[key] ?? []);
}

/** A full name, or its tag alone. */
function isNamed(text: string, name: string): boolean {
  return text === name || text.endsWith(`:${name}`);
}

class LayoutReader {
  readonly children: PushableDocument[] = [];
  readonly blobs = new Map<Digest, PushableBlob>();
  readonly #files: SavedFiles;
  readonly #path: string;
  readonly #seen = new Set<Digest>();

  constructor(files: SavedFiles, path: string) {
    this.#files = files;
    this.#path = path;
  }

  /** Reads a manifest or index, and finds all that it refers to. */
  async document(descriptor: Descriptor): Promise<PushableDocument> {
    const { digest, mediaType, size } = descriptor;
    const bytes = await readDocument(this.#files, blobPath(digest));
    if (bytes?.length !== size || digestOf(bytes) !== digest)
      throw unreadable(this.#path, `${digest} is missing or damaged`);
    if (indexMediaTypes.includes(mediaType)) {
      for (const child of decodeIndex(bytes, this.#path).manifests) {
        if (this.#seen.has(child.digest)) continue;
        this.#seen.add(child.digest);
        this.children.push(await this.document(child));
      }
    } else if (manifestMediaTypes.includes(mediaType)) {
      const { config, layers } = decodeManifest(bytes, this.#path);
      for (const blob of [config, ...layers]) await this.#addBlob(blob);
    } else throw unreadable(this.#path, `${digest} has the type ${mediaType}`);
    return { descriptor, bytes };
  }

  async #addBlob(descriptor: Descriptor): Promise<void> {
    const { digest, size } = descriptor;
    if (this.blobs.has(digest)) return;
    const name = blobPath(digest);
    if ((await this.#files.size(name)) !== size)
      throw unreadable(this.#path, `${digest} is missing or cut off`);
    this.blobs.set(digest, { descriptor, open: () => this.#files.open(name), origins: [] });
  }
}

function blobPath(digest: Digest): string {
  return `blobs/sha256/${digestHex(digest)}`;
}
