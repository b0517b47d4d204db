import { createHash, type Hash } from 'node:crypto';
import { type Descriptor, digestHex } from '../../oci/index.ts';
import { KilnError } from '../../support/index.ts';

/** Opens a blob's content from its beginning. */
export type OpenBlob = (signal?: AbortSignal) => Promise<AsyncIterable<Uint8Array>>;

/** One pass over the content. */
interface Pass {
  readonly chunks: AsyncIterator<Uint8Array>;
  readonly hash: Hash;
  position: number;
  /** What was read and not yet given away. */
  rest: Uint8Array;
  /** A slice of it is under way, or was left before its end. */
  taken: boolean;
}

/**
 * A blob's content on its way up, in slices that may be asked for again from any byte. All of it is hashed, also what is
 * passed over; the last piece is given away only when size and digest are right, so that nothing else is ever stored under the digest.
 */
export class UploadContent implements AsyncDisposable {
  /** Why the content cannot be had. No other attempt helps then. */
  failure: unknown;
  readonly #descriptor: Descriptor;
  readonly #label: string;
  readonly #open: OpenBlob;
  readonly #signal: AbortSignal | undefined;
  #pass: Pass | undefined;

  constructor(descriptor: Descriptor, label: string, open: OpenBlob, signal: AbortSignal | undefined) {
    this.#descriptor = descriptor;
    this.#label = label;
    this.#open = open;
    this.#signal = signal;
  }

  /** The bytes from `start` up to `end`, which is more than `start`. */
  async *slice(start: number, end: number): AsyncGenerator<Uint8Array> {
    try {
      const pass = await this.#at(start);
      pass.taken = true;
      while (pass.position < end) {
        const piece = await this.#read(pass, end - pass.position);
        if (pass.position === this.#descriptor.size) await this.#check(pass);
        yield piece;
      }
      pass.taken = false;
    } catch (error) {
      this.failure ??= error;
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const pass = this.#pass;
    this.#pass = undefined;
    await pass?.chunks.return?.();
  }

  /** A pass that stands at a byte: the present one if it is there, otherwise a new one. */
  async #at(start: number): Promise<Pass> {
    if (this.#pass?.taken === false && this.#pass.position === start) return this.#pass;
    await this[Symbol.asyncDispose]();
    const content = await this.#open(this.#signal);
    const pass: Pass = {
      chunks: content[Symbol.asyncIterator](),
      hash: createHash('sha256'),
      position: 0,
      rest: new Uint8Array(),
      taken: false,
    };
    this.#pass = pass;
    while (pass.position < start) await this.#read(pass, start - pass.position);
    return pass;
  }

  /** The next bytes, at most `limit` of them. */
  async #read(pass: Pass, limit: number): Promise<Uint8Array> {
    while (pass.rest.length === 0) {
      const { done, value } = (await pass.chunks.next()) as IteratorResult<Uint8Array, undefined>;
      if (done === true) throw this.wrong(`it ends after ${pass.position} bytes`);
      pass.rest = value;
    }
    const piece = pass.rest.subarray(0, limit);
    pass.rest = pass.rest.subarray(piece.length);
    pass.hash.update(piece);
    pass.position += piece.length;
    return piece;
  }

  async #check(pass: Pass): Promise<void> {
    while (pass.rest.length === 0) {
      const { done, value } = (await pass.chunks.next()) as IteratorResult<Uint8Array, undefined>;
      if (done === true) break;
      pass.rest = value;
    }
    if (pass.rest.length > 0) throw this.wrong(`it goes on after ${this.#descriptor.size} bytes`);
    if (pass.hash.copy().digest('hex') !== digestHex(this.#descriptor.digest))
      throw this.wrong('it has another digest');
  }

  /** The error for content that is not the descriptor's. */
  wrong(why: string): KilnError {
    return new KilnError(`${this.#label} is not pushed, its content here is damaged: ${why}`, {
      code: 'E_BLOB_CORRUPT',
      category: 'environment',
      remedy: 'Look at the disk that it lies on; on a cache volume, warmer verify finds what is damaged.',
    });
  }
}
