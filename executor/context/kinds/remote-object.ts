import { addAbortSignal, type Readable } from 'node:stream';
import { BuildError, KilnError, messageOf } from '../../../src/support/index.ts';
import type { ArchiveStream } from './unpack.ts';

/** Where a reading broke off: so many bytes of one version had arrived. */
export interface Position {
  readonly offset: number;
  readonly version: string;
}

/** What a server gives of an object. */
export interface ObjectPart {
  readonly body: Readable;
  /** Bytes of the whole object. */
  readonly size: number | undefined;
  /** Names the content: a strong ETag, or a generation. Undefined when the server says nothing of the kind. */
  readonly version: string | undefined;
}

/** An object of a server: a file, or what is in a bucket. */
export interface RemoteObject {
  /** How messages call it; without secrets. */
  readonly name: string;
  /**
   * Asks for the object, or for what comes after a position.
   *
   * @throws KilnError `E_CONTEXT_CHANGED` when that version is gone, and others for what the server does not give.
   */
  read(from: Position | undefined, signal: AbortSignal): Promise<ObjectPart>;
}

/** A stream that gets no further breaks off for good after so many attempts. */
const maximumBreaks = 4;

/** Thrown when a stream broke off and nobody can say what its rest is. */
export class BrokenStream extends BuildError {
  override readonly name: string = 'BrokenStream';
}

/**
 * Reads an object whole. Where its stream breaks off it is asked for the rest, of the same version only, so that the bytes of two
 * versions never mix.
 *
 * @throws BrokenStream `E_CONTEXT_CUT`; what {@link RemoteObject.read} throws.
 */
export async function readObject(object: RemoteObject, signal: AbortSignal): Promise<ArchiveStream> {
  const first = await object.read(undefined, signal);
  return { size: first.size, bytes: bytesOf(object, first, signal), source: first.body };
}

async function* bytesOf(
  object: RemoteObject,
  first: ObjectPart,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const { size, version } = first;
  let part = first;
  let offset = 0;
  for (let breaks = 0; ; breaks++) {
    let broken: unknown;
    try {
      for await (const chunk of addAbortSignal(signal, part.body)) {
        offset += (chunk as Buffer).length;
        breaks = 0;
        yield chunk as Buffer;
      }
    } catch (error) {
      // Libraries call it an abort, too, when a connection is cut.
      if (signal.aborted || error instanceof KilnError) throw error;
      broken = error;
    }
    if (broken === undefined && (size === undefined || offset === size)) return;
    if (version === undefined || breaks >= maximumBreaks || (size !== undefined && offset > size))
      throw cut(object, offset, size, broken);
    part = await object.read({ offset, version }, signal);
  }
}

function cut({ name }: RemoteObject, offset: number, size: number | undefined, cause: unknown): BrokenStream {
  const of = size === undefined ? '' : ` of ${size}`;
  return new BrokenStream(`the build context ${name} broke off after ${offset}${of} bytes`, {
    code: 'E_CONTEXT_CUT',
    cause: cause === undefined ? undefined : new Error(messageOf(cause)),
    remedy: 'Try again; if it stays so, look at the server and the proxies on the way.',
  });
}

/** The error for an object that is another now than when its first bytes were read. */
export function changed(name: string): BuildError {
  return new BuildError(`the build context ${name} was changed while it was read`, {
    code: 'E_CONTEXT_CHANGED',
    remedy: 'Build again; give each version a name of its own, so that builds do not meet.',
  });
}

/** The error for an object that a server does not give. @param credentials what to do when it does not know us. */
export function refused(name: string, status: number, credentials: string, words = ''): BuildError {
  const said = words === '' ? '' : ` (${words})`;
  return new BuildError(`the build context ${name}: the server answered ${status}${said}`, {
    code: status === 404 || status === 410 ? 'E_CONTEXT_NOT_FOUND' : 'E_CONTEXT_REFUSED',
    remedy:
      status === 401 || status === 403
        ? credentials
        : status === 404 || status === 410
          ? 'Check the address.'
          : 'Try again later.',
  });
}

/** The error for a server that does not answer. */
export function unavailable(name: string, error: unknown): BuildError {
  const known = error instanceof KilnError ? error : undefined;
  return new BuildError(`the build context ${name} cannot be fetched: ${messageOf(error)}`, {
    code: 'E_CONTEXT_UNAVAILABLE',
    cause: known === undefined ? error : known.cause,
    remedy: known?.remedy ?? 'Check the address, the network and the proxy.',
  });
}
