import { createHash, type Hash } from 'node:crypto';
import {
  type BigIntStats,
  closeSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
} from 'node:fs';
import { getXattr, ownerOf, type PathBytes } from '../os/index.ts';
import type { Digest } from '../oci/index.ts';
import { runWorker } from '../support/index.ts';
import { imageXattrs, opaqueAttribute, overlayMarks } from './xattrs.ts';

/**
 * The digest of a directory tree as it lies on disk: every path with type, mode, owner, time, device, link target, links
 * between files, attributes and content. Two trees with the same digest are the same lower directory. Runs in a worker thread.
 */
export function unpackedTreeDigest(root: string, signal?: AbortSignal): Promise<Digest> {
  return runWorker<Digest>(import.meta.url, 'tree-digest-worker', root, signal);
}

/** {@link unpackedTreeDigest} on the calling thread. */
export function treeDigestHere(root: string): Digest {
  const walk = new DigestWalk(Buffer.from(root).toString('latin1'));
  walk.directory('');
  return walk.digest();
}

/** Paths are latin1 texts, one character a byte. */
class DigestWalk {
  readonly #root: string;
  readonly #hash: Hash = createHash('sha256');
  readonly #chunk = Buffer.allocUnsafeSlow(1 << 18);
  /** Files with several names, by inode. */
  readonly #links = new Map<bigint, string>();

  constructor(root: string) {
    this.#root = root;
  }

  digest(): Digest {
    return `sha256:${this.#hash.digest('hex')}` as Digest;
  }

  directory(path: string): void {
    const bytes = this.#bytes(path);
    this.#entry(path, bytes);
    const names = readdirSync(bytes, { encoding: 'buffer', withFileTypes: true })
      .map((entry) => ({ name: entry.name.toString('latin1'), isDirectory: entry.isDirectory() }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const { name, isDirectory } of names) {
      const below = path === '' ? name : `${path}/${name}`;
      if (isDirectory) this.directory(below);
      else this.#entry(below, this.#bytes(below));
    }
  }

  #bytes(path: string): Buffer {
    return Buffer.from(path === '' ? this.#root : `${this.#root}/${path}`, 'latin1');
  }

  /** Every field is framed by its length, so that no two trees give the same bytes. */
  #frame(...fields: readonly (string | Uint8Array)[]): void {
    for (const field of fields) {
      const bytes = typeof field === 'string' ? Buffer.from(field, 'latin1') : field;
      this.#hash.update(`${bytes.length}:`).update(bytes);
    }
  }

  #entry(path: string, bytes: Buffer): void {
    const stat = lstatSync(bytes, { bigint: true });
    this.#frame(path);
    const several = !stat.isDirectory() && stat.nlink > 1n;
    const first = several ? this.#links.get(stat.ino) : undefined;
    if (first !== undefined) {
      this.#frame('link', first);
      return;
    }
    if (several) this.#links.set(stat.ino, path);
    // The time of the root itself is that of the unpacking where the archive has no entry for it.
    const time = path === '' ? '' : String(stat.mtimeNs);
    const { uid, gid } = ownerOf(bytes, stat);
    this.#frame(String(stat.mode), `${uid}:${gid}`, time, String(isDevice(stat) ? stat.rdev : 0n));
    this.#attributes(bytes);
    if (stat.isSymbolicLink()) this.#frame(readlinkSync(bytes, 'buffer'));
    if (stat.isFile()) this.#content(bytes, stat.size);
  }

  #attributes(path: PathBytes): void {
    const found = new Map(imageXattrs(path));
    // Not every process sees every attribute that marks an opaque directory.
    const mark = overlayMarks
      .map((kind) => getXattr(path, opaqueAttribute(kind)))
      .find((value) => value !== undefined);
    if (mark !== undefined) found.set('opaque', mark);
    this.#frame(String(found.size));
    for (const [name, value] of found) this.#frame(name, value);
  }

  #content(path: Buffer, size: bigint): void {
    this.#hash.update(`${size}:`);
    if (size === 0n) return;
    const fd = openSync(path, 'r');
    try {
      for (let length = readSync(fd, this.#chunk); length > 0; length = readSync(fd, this.#chunk))
        this.#hash.update(this.#chunk.subarray(0, length));
    } finally {
      closeSync(fd);
    }
  }
}

function isDevice(stat: BigIntStats): boolean {
  return stat.isCharacterDevice() || stat.isBlockDevice();
}
