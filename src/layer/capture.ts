import { createHash } from 'node:crypto';
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import type { DiffID } from '../oci/index.ts';
import type { Change } from './entries.ts';
import { spaceError } from './unpack.ts';
import {
  type CompressedOutput,
  type LayerFacts,
  readBuffer,
  tarStream,
  writeCompressed,
} from './write-layer.ts';

/** A layer set down as a plain tar, because the tree it was taken from goes on changing. */
export interface CapturedLayer {
  readonly file: string;
  readonly diffID: DiffID;
  /** Bytes of the tar. */
  readonly size: number;
}

const readSize = 1 << 18;

/**
 * Writes the entries of a layer as a tar, on the calling thread and without waiting for the disk: nothing may change the
 * files meanwhile, and the next step waits.
 *
 * @param output the file to create.
 * @returns undefined, and no file, when there are no entries.
 * @throws BuildError `E_RESERVED_NAME`; EnvironmentError `E_NO_SPACE`. The output is removed.
 */
export function captureLayer(entries: Iterator<Change>, output: string): CapturedLayer | undefined {
  const first = entries.next();
  if (first.done === true) return undefined;
  const rest: Iterable<Change> = { [Symbol.iterator]: () => entries };
  const buffer = Buffer.allocUnsafe(readSize);
  const hash = createHash('sha256');
  let size = 0;
  const fd = openSync(output, 'wx', 0o600);
  try {
    for (const chunk of tarStream(first.value, rest, () => buffer)) {
      hash.update(chunk);
      size += chunk.length;
      for (let at = 0; at < chunk.length;) at += writeSync(fd, chunk, at);
    }
  } catch (error) {
    rmSync(output, { force: true });
    throw spaceError(error, output) ?? error;
  } finally {
    closeSync(fd);
  }
  return { file: output, diffID: `sha256:${hash.digest('hex')}` as DiffID, size };
}

/**
 * Compresses a captured layer. Runs on the calling thread; the compression itself on libuv's.
 *
 * @throws EnvironmentError `E_NO_SPACE`. The output is removed.
 */
export async function compressCaptured(
  captured: CapturedLayer,
  request: CompressedOutput,
  signal?: AbortSignal,
): Promise<LayerFacts> {
  try {
    const chunks = fileChunks(captured.file, readBuffer(request.compression), signal);
    return await writeCompressed(chunks, request);
  } catch (error) {
    await rm(request.output, { force: true });
    throw spaceError(error, request.output) ?? error;
  }
}

/** The content of a file. @param buffer gives the memory for the next piece. */
async function* fileChunks(
  file: string,
  buffer: () => Buffer,
  signal: AbortSignal | undefined,
): AsyncGenerator<Buffer> {
  await using handle = await open(file);
  for (;;) {
    signal?.throwIfAborted();
    const chunk = buffer();
    const { bytesRead } = await handle.read(chunk, 0, chunk.length, null);
    if (bytesRead === 0) return;
    yield chunk.subarray(0, bytesRead);
  }
}
