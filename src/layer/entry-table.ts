import { constants } from 'node:fs';
import {
  nativeMemory,
  type NativeMemory,
  sameStatus,
  status,
  type StatusFields,
  statusWords,
} from '../os/index.ts';
import { entryFacts, type EntryFacts } from './entry-facts.ts';

const chunkBits = 12;
const chunkEntries = 1 << chunkBits;
const endWord = statusWords;
const nameWord = statusWords + 1;
const entryWords = statusWords + 2;

const nameChunkBits = 16;
const nameChunkSize = 1 << nameChunkBits;
const nameMask = nameChunkSize - 1;

/**
 * Entries of a tree: for each a status record, a name, and the index after all that is in it. 64 bytes each, and the names,
 * in pieces of memory that grow without being copied and that the next table can use again.
 */
export class EntryTable {
  /** How many entries there are. What comes later may be written over. */
  count = 0;
  #chunks: Uint32Array[] = [];
  #names: NativeMemory[] = [];
  #nameEnd = 0;

  /** @param spare a table that is needed no more; its memory is this one's then. */
  constructor(spare?: EntryTable) {
    if (spare === undefined) return;
    [this.#chunks, this.#names] = [spare.#chunks, spare.#names];
    [spare.#chunks, spare.#names, spare.count] = [[], [], 0];
  }

  /** The records of the piece that an entry is in; {@link at} says where. */
  records(index: number): Uint32Array {
    const chunk = this.#chunks[index >> chunkBits];
    if (chunk === undefined) throw new RangeError(`there is no entry ${index}`);
    return chunk;
  }

  /** Where the record of an entry is in its piece. */
  at(index: number): number {
    return (index & (chunkEntries - 1)) * entryWords;
  }

  end(index: number): number {
    return this.records(index)[this.at(index) + endWord] ?? 0;
  }

  setEnd(index: number, end: number): void {
    this.records(index)[this.at(index) + endWord] = end;
  }

  mode(index: number): number {
    return status.mode(this.records(index), this.at(index));
  }

  isDirectory(index: number): boolean {
    return (this.mode(index) & constants.S_IFMT) === constants.S_IFDIR;
  }

  links(index: number): number {
    return status.links(this.records(index), this.at(index));
  }

  inode(index: number): bigint {
    return status.inode(this.records(index), this.at(index));
  }

  /** Whether the file system knows when a directory was made. */
  hasBirth(index: number): boolean {
    return status.hasBirth(this.records(index), this.at(index));
  }

  /** The parts of a status that a layer keeps. */
  facts(index: number): EntryFacts {
    return entryFacts(this.records(index), this.at(index));
  }

  /** Whether an entry agrees with one of another table in some fields of its status. */
  agrees(index: number, other: EntryTable, otherIndex: number, fields: StatusFields): boolean {
    return sameStatus(
      this.records(index),
      this.at(index),
      other.records(otherIndex),
      other.at(otherIndex),
      fields,
    );
  }

  name(index: number): string {
    const position = this.#namePosition(index);
    const { bytes } = this.#nameChunk(position);
    const start = position & nameMask;
    return bytes.toString('latin1', start, bytes.indexOf(0, start));
  }

  /** Where an entry's name is in memory, with a zero behind it. */
  nameAddress(index: number): number {
    const position = this.#namePosition(index);
    return this.#nameChunk(position).address + (position & nameMask);
  }

  /** Compares names by their bytes: negative when this one comes first, 0 when they are equal. */
  compareName(index: number, other: EntryTable, otherIndex: number): number {
    const [position, otherPosition] = [this.#namePosition(index), other.#namePosition(otherIndex)];
    const [left, right] = [this.#nameChunk(position).bytes, other.#nameChunk(otherPosition).bytes];
    let [at, otherAt] = [position & nameMask, otherPosition & nameMask];
    for (; ; at++, otherAt++) {
      const byte = left[at] ?? 0;
      const difference = byte - (right[otherAt] ?? 0);
      if (difference !== 0 || byte === 0) return difference;
    }
  }

  #namePosition(index: number): number {
    return this.records(index)[this.at(index) + nameWord] ?? 0;
  }

  #nameChunk(position: number): NativeMemory {
    const chunk = this.#names[position >>> nameChunkBits];
    if (chunk === undefined) throw new RangeError(`there is no name at ${position}`);
    return chunk;
  }

  /** Makes room for an entry with a name, behind the others. It counts once {@link count} is set so. */
  reserve(name: string): number {
    const position = this.#placeName(name.length);
    const { bytes } = this.#nameChunk(position);
    bytes.write(`${name}\0`, position & nameMask, 'latin1');
    return this.count;
  }

  /** {@link reserve} with the name of an entry of another table. */
  reserveSame(other: EntryTable, otherIndex: number): number {
    const otherPosition = other.#namePosition(otherIndex);
    const { bytes: from } = other.#nameChunk(otherPosition);
    const start = otherPosition & nameMask;
    const length = from.indexOf(0, start) - start;
    const position = this.#placeName(length);
    const { bytes } = this.#nameChunk(position);
    for (let byte = 0; byte <= length; byte++) bytes[(position & nameMask) + byte] = from[start + byte] ?? 0;
    return this.count;
  }

  /** Finds room for the name of the next entry: no name lies in two pieces. */
  #placeName(length: number): number {
    const index = this.count;
    if (index >> chunkBits === this.#chunks.length)
      this.#chunks.push(new Uint32Array(chunkEntries * entryWords));
    let position = this.#nameEnd;
    if ((position & nameMask) + length >= nameChunkSize) position = (position | nameMask) + 1;
    if (position >>> nameChunkBits === this.#names.length) this.#names.push(nativeMemory(nameChunkSize));
    this.records(index)[this.at(index) + nameWord] = position;
    this.#nameEnd = position + length + 1;
    return position;
  }
}
