import { FileTable, type PackedFiles } from './file-table.ts';
import { Inventory, type InventoryImage, type InventoryParts, type PackedParts } from './inventory.ts';

/*
 * An inventory as bytes: a JSON header with its length before it, then arrays, each at a multiple of eight bytes. What there
 * is much of is in columns, which take a fraction of the time to read that as many JSON objects do. It is read by the
 * machine that wrote it or its like: numbers are in the processor's order, which the header names.
 */

const formatVersion = 1;

interface Header {
  readonly format: number;
  readonly littleEndian: boolean;
  readonly others: readonly number[];
  /** Bytes of each array, in their order. */
  readonly lengths: readonly number[];
}

const pinnedFlag = 1;
const oursFlag = 2;

/** Packs an inventory. */
export function encodeInventory({ parts }: Inventory): Uint8Array {
  const arrays = arraysOf(parts);
  const header: Header = {
    format: formatVersion,
    littleEndian,
    others: parts.others,
    lengths: arrays.map(({ byteLength }) => byteLength),
  };
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeUInt32LE(text.length);
  const pieces = [
    length,
    text,
    ...arrays.map((array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)),
  ];
  return Buffer.concat(pieces.flatMap((piece) => [piece, Buffer.alloc(padding(piece.length))]));
}

/** Unpacks an inventory. @returns undefined for bytes of another version or machine, or that are damaged. */
export function decodeInventory(bytes: Uint8Array): Inventory | undefined {
  // Views of numbers need their own alignment, whatever that of the bytes is.
  const buffer = bytes.byteOffset % 8 === 0 ? bytes : Uint8Array.from(bytes);
  const view = Buffer.from(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  try {
    const end = 8 + view.readUInt32LE(0);
    const header = JSON.parse(view.toString('utf8', 8, end)) as Header;
    if (header.format !== formatVersion || header.littleEndian !== littleEndian) return undefined;
    const reader = new ArrayReader(view, end + padding(end), header.lengths);
    const parts: InventoryParts = {
      images: unpackImages(reader),
      others: header.others,
      digests: reader.bytes(),
      known: reader.bytes(),
      manifestBlobs: packedParts(reader),
      manifestLayers: packedParts(reader),
      blobs: fileTable(reader),
      layers: fileTable(reader),
    };
    return new Inventory(parts);
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof RangeError || error instanceof TypeError)
      return undefined;
    throw error;
  }
}

const littleEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

function padding(length: number): number {
  return (8 - (length % 8)) % 8;
}

type Numbers = Uint8Array | Int32Array | Float64Array;

/** In the order in which `decodeInventory` reads them. */
function arraysOf(parts: InventoryParts): Numbers[] {
  const { images, digests, known, manifestBlobs, manifestLayers, blobs, layers } = parts;
  const filesOf = ({ packed: { names, sizes, states } }: FileTable): Numbers[] => [names, sizes, states];
  return [
    ...packImages(images),
    digests,
    known,
    ...[manifestBlobs.starts, manifestBlobs.ids, manifestLayers.starts, manifestLayers.ids],
    ...filesOf(blobs),
    ...filesOf(layers),
  ];
}

class ArrayReader {
  readonly #view: Buffer;
  readonly #lengths: readonly number[];
  #offset: number;
  #next = 0;

  constructor(view: Buffer, offset: number, lengths: readonly number[]) {
    this.#view = view;
    this.#offset = offset;
    this.#lengths = lengths;
  }

  bytes(): Uint8Array {
    const { start, length } = this.#take();
    return new Uint8Array(this.#view.buffer, start, length);
  }

  text(): string {
    return Buffer.from(this.bytes()).toString();
  }

  integers(): Int32Array {
    const { start, length } = this.#take();
    return new Int32Array(this.#view.buffer, start, length / 4);
  }

  numbers(): Float64Array {
    const { start, length } = this.#take();
    return new Float64Array(this.#view.buffer, start, length / 8);
  }

  #take(): { start: number; length: number } {
    const length = this.#lengths[this.#next] ?? 0;
    const start = this.#view.byteOffset + this.#offset;
    if (this.#offset + length > this.#view.length) throw new RangeError('the inventory is cut short');
    this.#next += 1;
    this.#offset += length + padding(length);
    return { start, length };
  }
}

function packedParts(reader: ArrayReader): PackedParts {
  return { starts: reader.integers(), ids: reader.integers() };
}

function fileTable(reader: ArrayReader): FileTable {
  const packed: PackedFiles = { names: reader.bytes(), sizes: reader.numbers(), states: reader.bytes() };
  return new FileTable(packed);
}

/** Neither references nor platforms have line breaks. */
const separator = '\n';

function packImages(images: readonly InventoryImage[]): Numbers[] {
  const text = (column: (image: InventoryImage) => string): Buffer =>
    Buffer.from(images.map(column).join(separator));
  return [
    text(({ reference }) => reference),
    text(({ platform }) => platform),
    Int32Array.from(images, ({ manifest }) => manifest),
    Float64Array.from(images, ({ pulledAt }) => pulledAt),
    Float64Array.from(images, ({ checkedAt }) => checkedAt),
    Uint8Array.from(images, ({ pinned, ours }) => (pinned ? pinnedFlag : 0) | (ours ? oursFlag : 0)),
  ];
}

function unpackImages(reader: ArrayReader): InventoryImage[] {
  const references = reader.text().split(separator);
  const platforms = reader.text().split(separator);
  const manifests = reader.integers();
  const pulledAt = reader.numbers();
  const checkedAt = reader.numbers();
  const flags = reader.bytes();
  return Array.from(manifests, (manifest, row) => ({
    reference: references[row] ?? '',
    platform: platforms[row] ?? '',
    manifest,
    pulledAt: pulledAt[row] ?? 0,
    checkedAt: checkedAt[row] ?? 0,
    pinned: ((flags[row] ?? 0) & pinnedFlag) !== 0,
    ours: ((flags[row] ?? 0) & oursFlag) !== 0,
  }));
}
