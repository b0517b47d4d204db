/** `unsealed`: a directory that has the name of a layer but was never finished. */
export type FileState = 'absent' | 'present' | 'unsealed';

const states: readonly FileState[] = ['absent', 'present', 'unsealed'];

/** Bytes of a name: a SHA-256 digest. */
const nameLength = 32;

/** Files by number, in packed form: names are made into text only when they are asked for, since there may be many. */
export interface PackedFiles {
  readonly names: Uint8Array;
  /** Bytes. */
  readonly sizes: Float64Array;
  readonly states: Uint8Array;
}

/** The blobs of a volume, or its unpacked layers: what is there, and what is referred to and is not. Names are hexadecimal. */
export class FileTable {
  readonly packed: PackedFiles;
  readonly #names: Buffer;
  #ids: ReadonlyMap<string, number> | undefined;

  constructor(packed: PackedFiles) {
    this.packed = packed;
    const { buffer, byteOffset, byteLength } = packed.names;
    this.#names = Buffer.from(buffer, byteOffset, byteLength);
  }

  get count(): number {
    return this.packed.sizes.length;
  }

  name(id: number): string {
    return this.#names.toString('hex', id * nameLength, (id + 1) * nameLength);
  }

  /** The number of a file; undefined when it is neither there nor referred to. */
  id(name: string): number | undefined {
    this.#ids ??= new Map(Array.from({ length: this.count }, (_, id) => [this.name(id), id]));
    return this.#ids.get(name);
  }

  /** Bytes. */
  size(id: number): number {
    return this.packed.sizes[id] ?? 0;
  }

  state(id: number): FileState {
    return states[this.packed.states[id] ?? 0] ?? 'absent';
  }

  isPresent(id: number): boolean {
    return this.packed.states[id] === 1;
  }

  /** Bytes and number of all that are there. */
  get present(): { readonly count: number; readonly bytes: number } {
    let count = 0;
    let bytes = 0;
    for (let id = 0; id < this.count; id += 1) {
      if (!this.isPresent(id)) continue;
      count += 1;
      bytes += this.size(id);
    }
    return { count, bytes };
  }
}

/** Collects files for a {@link FileTable}. */
export class FileTableBuilder {
  readonly #ids = new Map<string, number>();
  readonly #sizes: number[] = [];
  readonly #states: FileState[] = [];

  /** The number of a file, which is entered as absent when it is new. */
  add(name: string, size: number): number {
    const known = this.#ids.get(name);
    if (known !== undefined) return known;
    const id = this.#sizes.push(size) - 1;
    this.#states.push('absent');
    this.#ids.set(name, id);
    return id;
  }

  setState(name: string, size: number, state: FileState): void {
    const id = this.add(name, size);
    this.#sizes[id] = size;
    this.#states[id] = state;
  }

  build(): FileTable {
    return new FileTable({
      names: Buffer.from([...this.#ids.keys()].join(''), 'hex'),
      sizes: Float64Array.from(this.#sizes),
      states: Uint8Array.from(this.#states, (state) => states.indexOf(state)),
    });
  }
}
