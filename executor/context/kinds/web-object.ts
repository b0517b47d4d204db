import { Readable } from 'node:stream';
import type { RegistryClient, WebAnswer } from '../../../src/registry/index.ts';
import { isAbortError } from '../../../src/support/index.ts';
import {
  changed,
  type ObjectPart,
  type Position,
  refused,
  type RemoteObject,
  unavailable,
} from './remote-object.ts';

const remedyForCredentials =
  'Give user and password in the address, or an address that is signed; or fetch it before, and give tar://FILE.';

/** A file of a web server. */
export class WebObject implements RemoteObject {
  readonly name: string;
  readonly #url: URL;
  readonly #client: Pick<RegistryClient, 'readWebFile'>;

  constructor(client: Pick<RegistryClient, 'readWebFile'>, url: string, name: string) {
    this.#client = client;
    this.#url = new URL(url);
    this.name = name;
  }

  async read(from: Position | undefined, signal: AbortSignal): Promise<ObjectPart> {
    const answer = await this.#ask(from, signal);
    const version = strongTag(answer);
    if (from === undefined) {
      if (answer.status !== 200) throw await this.#refused(answer);
      return { body: answer.body, size: sizeOf(answer.header('content-length')), version };
    }
    if (answer.status === 206 && version === from.version) return this.#rest(answer, from);
    if (answer.status !== 200 && answer.status !== 206) {
      // 416: there are not so many bytes any more (RFC 9110, 15.5.17).
      if (answer.status !== 416 && answer.status !== 412) throw await this.#refused(answer);
      await answer.body.dump();
      throw changed(this.name);
    }
    if (version !== from.version) {
      await answer.body.dump();
      throw changed(this.name);
    }
    // It gives no parts, but what it gives is the same.
    return {
      body: Readable.from(skip(answer.body, from.offset)),
      size: sizeOf(answer.header('content-length')),
      version,
    };
  }

  async #ask(from: Position | undefined, signal: AbortSignal): Promise<WebAnswer> {
    const headers = {
      accept: '*/*',
      'accept-encoding': 'identity',
      ...(from === undefined ? {} : { range: `bytes=${from.offset}-`, 'if-range': from.version }),
    };
    try {
      return await this.#client.readWebFile({ url: this.#url, headers, signal });
    } catch (error) {
      if (isAbortError(error) || signal.aborted) throw error;
      throw unavailable(this.name, error);
    }
  }

  async #rest(answer: WebAnswer, { offset, version }: Position): Promise<ObjectPart> {
    const range = answer.header('content-range');
    if (partOffset(range) !== offset) {
      await answer.body.dump();
      throw unavailable(this.name, new Error('the server answered with another part than was asked for'));
    }
    return { body: answer.body, size: sizeOf(/[0-9]+$/.exec(range ?? '')?.[0]), version };
  }

  async #refused(answer: WebAnswer): Promise<Error> {
    await answer.body.dump();
    return refused(this.name, answer.status, remedyForCredentials);
  }
}

/** A weak ETag may name several contents, byte for byte (RFC 9110, 8.8.3). */
function strongTag(answer: WebAnswer): string | undefined {
  const tag = answer.header('etag');
  return tag?.startsWith('"') === true ? tag : undefined;
}

/** A number of bytes in a header. */
export function sizeOf(text: string | undefined): number | undefined {
  const size = text !== undefined && /^[0-9]+$/.test(text) ? Number(text) : undefined;
  return Number.isSafeInteger(size) ? size : undefined;
}

/** Where a part begins, by its Content-Range (RFC 9110, 14.4). */
export function partOffset(header: string | undefined): number | undefined {
  const start = /^bytes ([0-9]{1,15})-[0-9]+\/(?:[0-9]+|\*)$/.exec(header ?? '')?.[1];
  return start === undefined ? undefined : Number(start);
}

/** A stream without its first bytes. */
async function* skip(stream: AsyncIterable<Buffer>, count: number): AsyncGenerator<Buffer> {
  let left = count;
  for await (const chunk of stream) {
    if (chunk.length > left) yield chunk.subarray(left);
    left = Math.max(0, left - chunk.length);
  }
}
