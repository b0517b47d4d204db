import { createReadStream } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { posix } from 'node:path';
import { Readable } from 'node:stream';
import { UsageError } from '../../src/support/index.ts';
import type { SavedFiles } from './saved-files.ts';

interface Entry {
  readonly offset: number;
  readonly size: number;
}

const blockSize = 512;
/** The longest extended header that is read; it holds a name. */
const maximumExtension = 1024 * 1024;
const maximumLinks = 8;

/** Where the files of a tar lie in it (POSIX.1-2001 "pax Interchange Format", and GNU's long names), without reading their content. */
export class TarFiles implements SavedFiles {
  readonly #path: string;
  readonly #entries: ReadonlyMap<string, Entry>;
  readonly #links: ReadonlyMap<string, string>;

  private constructor(path: string, entries: ReadonlyMap<string, Entry>, links: ReadonlyMap<string, string>) {
    this.#path = path;
    this.#entries = entries;
    this.#links = links;
  }

  /** @throws UsageError `E_IMAGE_UNREADABLE` when it is no sound tar. */
  static async open(path: string): Promise<TarFiles> {
    await using handle = await open(path, 'r');
    const { size } = await handle.stat();
    const entries = new Map<string, Entry>();
    const links = new Map<string, string>();
    let extended: { path?: string; linkpath?: string; size?: number } = {};
    for (let at = 0; at + blockSize <= size;) {
      const header = await readAt(handle, at, blockSize);
      // Two empty blocks end the archive.
      if (header.every((byte) => byte === 0)) break;
      requireChecksum(header, path);
      const type = String.fromCharCode(header[156] ?? 0);
      const length = extended.size ?? numberOf(header.subarray(124, 136));
      const offset = at + blockSize;
      if (!Number.isSafeInteger(length) || offset + length > size) throw unreadable(path, 'it is cut off');
      at = offset + Math.ceil(length / blockSize) * blockSize;
      if (type === 'x' || type === 'L' || type === 'K') {
        if (length > maximumExtension) throw unreadable(path, 'one of its headers is too long');
        const text = (await readAt(handle, offset, length)).toString('utf8');
        if (type === 'x') extended = { ...extended, ...parsePax(text) };
        else extended = { ...extended, [type === 'L' ? 'path' : 'linkpath']: textOf(text) };
        continue;
      }
      const name = posix.normalize(extended.path ?? nameOf(header)).replace(/^\/+/, '');
      const target = extended.linkpath ?? textOf(header.subarray(157, 257).toString('utf8'));
      extended = type === 'g' ? extended : {};
      if (type === '0' || type === '\0') entries.set(name, { offset, size: length });
      if (type === '1') links.set(name, posix.normalize(target));
      if (type === '2') links.set(name, posix.normalize(posix.join(posix.dirname(name), target)));
    }
    return new TarFiles(path, entries, links);
  }

  size(name: string): Promise<number | undefined> {
    return Promise.resolve(this.#find(name)?.size);
  }

  open(name: string): Promise<Readable> {
    const entry = this.#find(name);
    if (entry === undefined) throw new Error(`${name} is not in the archive`);
    if (entry.size === 0) return Promise.resolve(Readable.from([]));
    const { offset: start, size } = entry;
    return Promise.resolve(
      createReadStream(this.#path, { start, end: start + size - 1, highWaterMark: 1 << 16 }),
    );
  }

  #find(name: string): Entry | undefined {
    let current = posix.normalize(name);
    for (let links = 0; links < maximumLinks; links++) {
      const entry = this.#entries.get(current);
      if (entry !== undefined) return entry;
      const target = this.#links.get(current);
      if (target === undefined) return undefined;
      current = target;
    }
    return undefined;
  }
}

/** An image that cannot be read from a file. */
export function unreadable(path: string, why: string, cause?: unknown): UsageError {
  return new UsageError(`${path} cannot be read as an image: ${why}`, {
    code: 'E_IMAGE_UNREADABLE',
    cause,
    remedy: 'It must be what --tar-path, --oci-layout-path or docker save writes.',
  });
}

async function readAt(handle: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await handle.read(buffer, 0, length, position);
  return buffer.subarray(0, bytesRead);
}

function requireChecksum(header: Buffer, path: string): void {
  const wanted = numberOf(header.subarray(148, 156));
  const bytes = Buffer.from(header);
  bytes.fill(' ', 148, 156);
  if (bytes.reduce((sum, byte) => sum + byte, 0) !== wanted) throw unreadable(path, 'it is no tar archive');
}

/** Octal digits, or with the highest bit set a number in base 256. */
function numberOf(field: Buffer): number {
  if (((field[0] ?? 0) & 0x80) === 0)
    return Number.parseInt(textOf(field.toString('latin1')).trim() || '0', 8);
  return field.subarray(1).reduce((value, byte) => value * 256 + byte, (field[0] ?? 0) & 0x7f);
}

function nameOf(header: Buffer): string {
  const name = textOf(header.subarray(0, 100).toString('utf8'));
  // Only POSIX ustar ("ustar\0") has a prefix.
  const isUstar = header.subarray(257, 263).toString('latin1') === 'ustar\0';
  const prefix = isUstar ? textOf(header.subarray(345, 500).toString('utf8')) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

function textOf(field: string): string {
  const end = field.indexOf('\0');
  return end < 0 ? field : field.slice(0, end);
}

function parsePax(text: string): { path?: string; linkpath?: string; size?: number } {
  const found: { path?: string; linkpath?: string; size?: number } = {};
  for (const [, key = '', value = ''] of text.matchAll(/^[0-9]+ ([^=\n]+)=(.*)$/gm)) {
    if (key === 'path' || key === 'linkpath') found[key] = value;
    if (key === 'size') found.size = Number(value);
  }
  return found;
}
