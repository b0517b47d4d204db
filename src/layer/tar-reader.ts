import { KilnError } from '../support/index.ts';
import { SparseContent, type SparsePiece, sparsePieces } from './sparse.ts';

/** One entry of a tar stream, headers of all dialects merged. Names are bytes: a tar need not be UTF-8. */
export interface TarEntry {
  readonly path: Buffer;
  readonly link: Buffer;
  readonly type: TarEntryType;
  /** Permission bits with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes of content. */
  readonly size: number;
  /** Modification time in nanoseconds since the epoch. */
  readonly modified: bigint;
  readonly major: number;
  readonly minor: number;
  readonly xattrs: ReadonlyMap<string, Buffer>;
}

export type TarEntryType = 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo';

/** Receives the entries of an archive in order. */
export interface TarHandler {
  entry(entry: TarEntry): void;
  /** Content of the last entry, in pieces. */
  data(chunk: Buffer): void;
  /** So many zero bytes of the last entry's content come next. */
  hole(length: number): void;
  /** The last entry is complete. */
  end(): void;
}

const block = 512;
/** Largest PAX header or long name accepted, in bytes. */
const maximumHeader = 1 << 20;

const types: Readonly<Record<string, TarEntryType | undefined>> = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  S: 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
};

function malformed(why: string): KilnError {
  return new KilnError(`malformed tar: ${why}`, {
    code: 'E_TAR_MALFORMED',
    category: 'registry',
    remedy: 'The layer or archive is damaged or was made by a broken tool; make it again.',
  });
}

/**
 * Reads a tar stream pushed to it in pieces: POSIX ustar, PAX (POSIX.1-2001) and GNU long names and large numbers.
 * Synchronous and without buffering of content, so that a handler can write files as the bytes come.
 */
export class TarReader {
  readonly #handler: TarHandler;
  readonly #sparseAllowed: boolean;
  #pending = Buffer.alloc(0);
  #state: 'header' | 'sparse-map' | 'content' | 'padding' | 'meta' | 'end' = 'header';
  #remaining = 0;
  #padding = 0;
  #meta: { kind: 'x' | 'g' | 'L' | 'K'; chunks: Buffer[] } | undefined;
  #local = new Map<string, Buffer>();
  #global = new Map<string, Buffer>();
  #longName: Buffer | undefined;
  #longLink: Buffer | undefined;

  #sparse: SparseContent | undefined;
  /** An entry in GNU's old sparse format whose map goes on in further headers. */
  #unfinished: { entry: TarEntry; archived: number; numbers: number[] } | undefined;

  /**
   * @param options.sparse whether GNU's sparse files are allowed: not in layers of images, where a few bytes could stand
   *   for more than any disk holds.
   */
  constructor(handler: TarHandler, options: { readonly sparse: boolean } = { sparse: false }) {
    this.#handler = handler;
    this.#sparseAllowed = options.sparse;
  }

  /** Takes the next bytes. @throws KilnError `E_TAR_MALFORMED`. */
  write(chunk: Buffer): void {
    let rest = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    this.#pending = Buffer.alloc(0);
    while (rest.length > 0) {
      if (this.#state === 'end') return;
      const used = this.#step(rest);
      if (used === 0) break;
      rest = rest.subarray(used);
    }
    if (rest.length > 0) this.#pending = Buffer.from(rest);
  }

  /** Says that the stream has ended. @throws KilnError `E_TAR_MALFORMED` when it stops inside an entry. */
  finish(): void {
    if (this.#state === 'end') return;
    if (this.#state !== 'header' || this.#pending.length > 0 || this.#meta !== undefined)
      throw malformed('it ends in the middle of an entry');
  }

  #step(rest: Buffer): number {
    if (this.#state === 'header') {
      if (rest.length < block) return 0;
      this.#header(rest.subarray(0, block));
      return block;
    }
    if (this.#state === 'sparse-map') {
      if (rest.length < block) return 0;
      this.#sparseHeader(rest.subarray(0, block));
      return block;
    }
    const length = Math.min(rest.length, this.#state === 'padding' ? this.#padding : this.#remaining);
    if (this.#state === 'padding') {
      this.#padding -= length;
      if (this.#padding === 0) this.#state = 'header';
      return length;
    }
    const piece = rest.subarray(0, length);
    if (this.#state === 'meta') this.#meta?.chunks.push(Buffer.from(piece));
    else if (this.#sparse !== undefined) this.#sparse.write(piece);
    else this.#handler.data(piece);
    this.#remaining -= length;
    if (this.#remaining === 0) this.#contentDone();
    return length;
  }

  #contentDone(): void {
    if (this.#state === 'meta') this.#applyMeta();
    else {
      this.#sparse?.end();
      this.#sparse = undefined;
      this.#handler.end();
    }
    this.#state = this.#padding > 0 ? 'padding' : 'header';
  }

  #startContent(state: 'content' | 'meta', size: number): void {
    this.#remaining = size;
    this.#padding = (block - (size % block)) % block;
    this.#state = state;
    if (size === 0) this.#contentDone();
  }

  #header(header: Buffer): void {
    if (header.every((byte) => byte === 0)) {
      this.#state = 'end';
      return;
    }
    checkSum(header);
    const flag = String.fromCharCode(header[156] ?? 0);
    const size = readNumber(header, 124, 12);
    if (flag === 'x' || flag === 'g' || flag === 'L' || flag === 'K') {
      if (size > maximumHeader) throw malformed(`an extended header of ${size} bytes`);
      this.#meta = { kind: flag, chunks: [] };
      this.#startContent('meta', size);
      return;
    }
    const type = types[flag];
    if (type === undefined) throw malformed(`entries of type ${JSON.stringify(flag)} are not supported`);
    const entry = this.#entry(header, type, size);
    const sparse = this.#sparseRecords();
    this.#local.clear();
    this.#longName = this.#longLink = undefined;
    if ((sparse !== undefined || flag === 'S') && !this.#sparseAllowed)
      throw malformed('sparse entries are not allowed in image layers');
    if (flag === 'S') this.#oldSparse(header, entry);
    else if (sparse === undefined) this.#startEntry(entry, entry.size);
    else
      this.#startSparse(
        { ...entry, path: sparse.path ?? entry.path },
        entry.size,
        sparse.size,
        sparse.pieces,
      );
  }

  #startEntry(entry: TarEntry, archived: number): void {
    this.#handler.entry(entry);
    this.#startContent('content', archived);
  }

  #startSparse(entry: TarEntry, archived: number, size: number, pieces: SparsePiece[] | undefined): void {
    this.#sparse = new SparseContent(size, pieces, this.#handler);
    this.#startEntry({ ...entry, size }, archived);
  }

  /** What PAX headers say of a sparse file; undefined for any other. */
  #sparseRecords():
    { path: Buffer | undefined; size: number; pieces: SparsePiece[] | undefined } | undefined {
    const text = (name: string): string | undefined =>
      this.#local.get(`GNU.sparse.${name}`)?.toString('latin1');
    const sizeText = text('realsize') ?? text('size');
    if (sizeText === undefined) return undefined;
    const size = Number(sizeText);
    if (!/^[0-9]+$/.test(sizeText) || !Number.isSafeInteger(size))
      throw malformed(`the size of a sparse file is ${JSON.stringify(sizeText)}`);
    const map = text('map');
    const numbers = map === undefined || map === '' ? [] : map.split(',').map(Number);
    return {
      path: this.#local.get('GNU.sparse.name'),
      size,
      pieces: text('major') === '1' ? undefined : sparsePieces(numbers, size),
    };
  }

  /** GNU's old format has four pieces in the header, and further headers with more. */
  #oldSparse(header: Buffer, entry: TarEntry): void {
    const unfinished = { entry, archived: entry.size, numbers: readPieces(header, 386, 4) };
    const size = readNumber(header, 483, 12);
    this.#unfinished = { ...unfinished, entry: { ...entry, size } };
    if (header[482] === 0) this.#finishOldSparse();
    else this.#state = 'sparse-map';
  }

  #sparseHeader(header: Buffer): void {
    const numbers = this.#unfinished?.numbers ?? [];
    if (numbers.length > maximumHeader) throw malformed('the map of a sparse file is too long');
    numbers.push(...readPieces(header, 0, 21));
    if (header[504] === 0) this.#finishOldSparse();
  }

  #finishOldSparse(): void {
    const unfinished = this.#unfinished;
    if (unfinished === undefined) return;
    this.#unfinished = undefined;
    const { entry, archived, numbers } = unfinished;
    this.#startSparse(entry, archived, entry.size, sparsePieces(numbers, entry.size));
  }

  #entry(header: Buffer, type: TarEntryType, headerSize: number): TarEntry {
    const record = (name: string): Buffer | undefined => this.#local.get(name) ?? this.#global.get(name);
    const number = (name: string, otherwise: number): number => {
      const text = record(name)?.toString('latin1');
      if (text === undefined) return otherwise;
      if (!/^[0-9]+$/.test(text) || !Number.isSafeInteger(Number(text)))
        throw malformed(`${name} is ${JSON.stringify(text)}`);
      return Number(text);
    };
    const xattrs = new Map<string, Buffer>();
    for (const source of [this.#global, this.#local])
      for (const [name, value] of source)
        if (name.startsWith('SCHILY.xattr.')) xattrs.set(name.slice('SCHILY.xattr.'.length), value);
    const modifiedText = record('mtime')?.toString('latin1');
    const path = record('path') ?? this.#longName ?? ustarName(header);
    // Some tools write directories as files whose name ends in a slash.
    const directory = type === 'file' && path.at(-1) === 0x2f;
    const size = type === 'file' && !directory ? number('size', headerSize) : 0;
    return {
      path,
      link: record('linkpath') ?? this.#longLink ?? cString(header, 157, 100),
      type: directory ? 'directory' : type,
      mode: readNumber(header, 100, 8) & 0o7777,
      uid: number('uid', readNumber(header, 108, 8)),
      gid: number('gid', readNumber(header, 116, 8)),
      size,
      modified:
        modifiedText === undefined
          ? BigInt(readNumber(header, 136, 12)) * 1_000_000_000n
          : parseTime(modifiedText),
      major: type === 'character' || type === 'block' ? readNumber(header, 329, 8) : 0,
      minor: type === 'character' || type === 'block' ? readNumber(header, 337, 8) : 0,
      xattrs,
    };
  }

  #applyMeta(): void {
    const meta = this.#meta;
    if (meta === undefined) return;
    this.#meta = undefined;
    const bytes = Buffer.concat(meta.chunks);
    if (meta.kind === 'L') this.#longName = trimNul(bytes);
    else if (meta.kind === 'K') this.#longLink = trimNul(bytes);
    else
      for (const [name, value] of parseRecords(bytes))
        if (name === 'GNU.sparse.offset' || name === 'GNU.sparse.numbytes') this.#addToSparseMap(value);
        else (meta.kind === 'x' ? this.#local : this.#global).set(name, value);
  }

  /** PAX 0.0 repeats two records for each piece; later versions have all numbers in one. */
  #addToSparseMap(number: Buffer): void {
    const map = this.#local.get('GNU.sparse.map');
    this.#local.set(
      'GNU.sparse.map',
      map === undefined ? number : Buffer.concat([map, Buffer.from(','), number]),
    );
  }
}

/** Offset and length of up to so many pieces of a sparse file; the first that is all zeros ends them. */
function readPieces(header: Buffer, start: number, count: number): number[] {
  const numbers: number[] = [];
  for (let at = start; at < start + 24 * count && header[at] !== 0; at += 24)
    numbers.push(readNumber(header, at, 12), readNumber(header, at + 12, 12));
  return numbers;
}

function checkSum(header: Buffer): void {
  let unsigned = 8 * 32;
  let signed = 8 * 32;
  for (let at = 0; at < block; at++) {
    if (at >= 148 && at < 156) continue;
    const byte = header[at] ?? 0;
    unsigned += byte;
    signed += byte > 127 ? byte - 256 : byte;
  }
  const stored = readNumber(header, 148, 8);
  if (stored !== unsigned && stored !== signed) throw malformed('a header has a wrong checksum');
}

function cString(header: Buffer, offset: number, length: number): Buffer {
  return Buffer.from(trimNul(header.subarray(offset, offset + length)));
}

function trimNul(bytes: Buffer): Buffer {
  const end = bytes.indexOf(0);
  return end < 0 ? bytes : bytes.subarray(0, end);
}

function ustarName(header: Buffer): Buffer {
  const name = cString(header, 0, 100);
  // Only POSIX ustar ("ustar\0") has a prefix; GNU's magic ("ustar  ") puts other fields there.
  if (header.toString('latin1', 257, 263) !== 'ustar\0') return name;
  const prefix = cString(header, 345, 155);
  return prefix.length === 0 ? name : Buffer.concat([prefix, Buffer.from('/'), name]);
}

/** An octal number, or GNU's base-256 form. Negative numbers only make sense for times. */
function readNumber(header: Buffer, offset: number, length: number): number {
  const first = header[offset] ?? 0;
  if ((first & 0x80) !== 0) {
    let value = BigInt(first & 0x7f);
    for (let at = 1; at < length; at++) value = (value << 8n) | BigInt(header[offset + at] ?? 0);
    if (first === 0xff) value -= 1n << BigInt(8 * length - 1);
    const number = Number(value);
    if (!Number.isSafeInteger(number) || (number < 0 && offset !== 136))
      throw malformed('a number is out of range');
    return number;
  }
  const text = header
    .toString('latin1', offset, offset + length)
    .replace(/\0.*$/s, '')
    .trim();
  if (text === '') return 0;
  if (!/^[0-7]+$/.test(text)) throw malformed(`${JSON.stringify(text)} is not an octal number`);
  return parseInt(text, 8);
}

function parseTime(text: string): bigint {
  const match = /^(-?)([0-9]{1,15})(?:\.([0-9]*))?$/.exec(text);
  if (match === null) throw malformed(`mtime is ${JSON.stringify(text)}`);
  const fraction = BigInt((match[3] ?? '').padEnd(9, '0').slice(0, 9));
  const value = BigInt(match[2] ?? '0') * 1_000_000_000n + fraction;
  return match[1] === '-' ? -value : value;
}

/** The records of a PAX header: `length name=value\n`. */
function parseRecords(bytes: Buffer): [string, Buffer][] {
  const records: [string, Buffer][] = [];
  for (let at = 0; at < bytes.length;) {
    const space = bytes.indexOf(0x20, at);
    const length = Number(bytes.toString('latin1', at, space < 0 ? at : space));
    const equals = bytes.indexOf(0x3d, space);
    if (
      space < 0 ||
      !Number.isSafeInteger(length) ||
      length < 5 ||
      at + length > bytes.length ||
      equals < 0 ||
      equals >= at + length ||
      bytes[at + length - 1] !== 0x0a
    )
      throw malformed('an extended header cannot be read');
    records.push([
      bytes.toString('utf8', space + 1, equals),
      Buffer.from(bytes.subarray(equals + 1, at + length - 1)),
    ]);
    at += length;
  }
  return records;
}
