import { KilnError } from '../support/index.ts';

/** A piece of a sparse file that has content; what is between pieces is zeros. */
export interface SparsePiece {
  readonly offset: number;
  readonly length: number;
}

/** Receives a sparse file in order. */
export interface SparseHandler {
  data(chunk: Buffer): void;
  /** So many zero bytes come next. */
  hole(length: number): void;
}

const block = 512;
/** Largest map accepted inside an entry, in bytes. */
const maximumMap = 1 << 20;

function malformed(why: string): KilnError {
  return new KilnError(`malformed tar: ${why}`, {
    code: 'E_TAR_MALFORMED',
    category: 'build',
    remedy: 'The archive is damaged or was made by a broken tool; make it again.',
  });
}

/** Pairs of offset and length. @throws KilnError `E_TAR_MALFORMED` for pieces that overlap or lie outside the file. */
export function sparsePieces(numbers: readonly number[], size: number): SparsePiece[] {
  const pieces: SparsePiece[] = [];
  let end = 0;
  if (numbers.length % 2 !== 0) throw malformed('the map of a sparse file is cut');
  for (let at = 0; at < numbers.length; at += 2) {
    const [offset = NaN, length = NaN] = numbers.slice(at, at + 2);
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < end || length < 0)
      throw malformed('the map of a sparse file is out of order');
    end = offset + length;
    if (end > size) throw malformed('the map of a sparse file leads out of it');
    pieces.push({ offset, length });
  }
  return pieces;
}

/**
 * Spreads the content of a sparse entry over the file it stands for. GNU tar stores only the pieces that are no holes; the map
 * of them is in the headers (old format, PAX 0.0 and 0.1) or before the content (PAX 1.0): GNU tar manual, "Storing
 * Sparse Files".
 */
export class SparseContent {
  readonly #size: number;
  readonly #handler: SparseHandler;
  #pieces: SparsePiece[] | undefined;
  #map = Buffer.alloc(0);
  #position = 0;

  /** @param pieces undefined when the map is at the beginning of the content. */
  constructor(size: number, pieces: readonly SparsePiece[] | undefined, handler: SparseHandler) {
    this.#size = size;
    this.#handler = handler;
    this.#pieces = pieces === undefined ? undefined : [...pieces];
  }

  write(chunk: Buffer): void {
    let rest = chunk;
    if (this.#pieces === undefined) {
      this.#map = Buffer.concat([this.#map, chunk]);
      if (this.#map.length > maximumMap + block) throw malformed('the map of a sparse file is too long');
      const used = this.#readMap();
      if (used === undefined) return;
      rest = this.#map.subarray(used);
    }
    while (rest.length > 0) {
      const piece = this.#pieces?.[0];
      if (piece === undefined) throw malformed('a sparse file has more content than its map');
      this.#skipTo(piece.offset);
      const left = piece.offset + piece.length - this.#position;
      const data = rest.subarray(0, left);
      if (data.length > 0) this.#handler.data(data);
      this.#position += data.length;
      rest = rest.subarray(data.length);
      if (data.length === left) this.#pieces?.shift();
    }
  }

  end(): void {
    if (this.#pieces === undefined || this.#pieces.some(({ length }) => length > 0))
      throw malformed('a sparse file has less content than its map');
    this.#skipTo(this.#size);
  }

  #skipTo(offset: number): void {
    if (offset <= this.#position) return;
    this.#handler.hole(offset - this.#position);
    this.#position = offset;
  }

  /** Decimal numbers, one a line: how many pieces, then offset and length of each; filled up to a block. */
  #readMap(): number | undefined {
    const lines = this.#map.toString('latin1').split('\n');
    const count = Number(lines[0]);
    if (lines.length < 2) return undefined;
    if (!/^[0-9]+$/.test(lines[0] ?? '') || !Number.isSafeInteger(count))
      throw malformed('the map of a sparse file cannot be read');
    if (lines.length < 2 * count + 2) return undefined;
    const used = lines.slice(0, 2 * count + 1);
    const bytes = used.reduce((sum, line) => sum + line.length + 1, 0);
    const end = Math.ceil(bytes / block) * block;
    if (this.#map.length < end) return undefined;
    this.#pieces = sparsePieces(used.slice(1).map(Number), this.#size);
    return end;
  }
}
