import { createReadStream } from 'node:fs';
import { createHash } from 'node:crypto';
import { pipeline } from 'node:stream/promises';
import type { DiffID, Digest, LayerCompression } from '../oci/index.ts';
import { capabilityError } from '../os/index.ts';
import { EnvironmentError, KilnError, runWorker, systemErrorCode } from '../support/index.ts';
import { decompressor } from './decompress.ts';
import { type TarHandler, TarReader } from './tar-reader.ts';
import { treeDigestHere } from './tree-digest.ts';
import { TreeWriter, type TreeWriterOptions } from './tree-writer.ts';
import type { OverlayMark } from './xattrs.ts';

/** A layer's blob on disk. */
export interface CompressedFile {
  readonly file: string;
  readonly compression: LayerCompression;
}

export interface UnpackResult {
  readonly diffID: DiffID;
  readonly entries: number;
  /** Bytes of file content. */
  readonly bytes: number;
  /** Opaque directories (latin1, relative): only a process that may mount can read the attribute that marks them. */
  readonly opaque: readonly string[];
  /**
   * Directories that the layer has only for what is in them (latin1, relative, `''` the root): where a layer below has
   * one, its attributes hold.
   */
  readonly implied: readonly string[];
  /** Which mounts the tree serves as a lower directory: those of root, and those of user namespaces. */
  readonly overlayMarks: readonly OverlayMark[];
  /** The largest user or group id that a file belongs to. */
  readonly maximumId: number;
  /** Device nodes left out, since a user namespace may not make them. */
  readonly skippedDevices: number;
  /** Of the unpacked tree, to find out later whether it has been altered. */
  readonly tree: Digest;
}

/**
 * Unpacks a layer into an existing, empty directory, which then serves as an overlayfs lower directory: whiteouts are
 * character devices 0:0, opaque directories carry overlayfs' attributes. Runs in a worker thread.
 *
 * @throws KilnError `E_LAYER_CORRUPT` when the content is not what `expectedDiffID` says, `E_TAR_UNSAFE`,
 *   `E_TAR_MALFORMED`; EnvironmentError `E_NO_SPACE`. The directory is then to be thrown away.
 */
export async function unpackLayer(
  source: CompressedFile,
  target: string,
  options: { readonly expectedDiffID?: DiffID; readonly signal?: AbortSignal } = {},
): Promise<UnpackResult> {
  const writer: TreeWriterOptions = { root: target, whiteouts: 'overlay' };
  try {
    const result = await runWorker<UnpackResult>(
      import.meta.url,
      'unpack-worker',
      { source, writer },
      options.signal,
    );
    if (options.expectedDiffID !== undefined && options.expectedDiffID !== result.diffID)
      throw new KilnError(
        `the layer's content has digest ${result.diffID}, its image says ${options.expectedDiffID}`,
        {
          code: 'E_LAYER_CORRUPT',
          category: 'registry',
          remedy: 'The image was altered or made by a broken tool; push it again.',
        },
      );
    return result;
  } catch (error) {
    throw spaceError(error, target) ?? error;
  }
}

/** The error for a full disk, when that is what `error` is. */
export function spaceError(error: unknown, directory: string): EnvironmentError | undefined {
  const code = systemErrorCode(error);
  if (code !== 'ENOSPC' && code !== 'EDQUOT') return undefined;
  return new EnvironmentError(`no space left in ${directory}`, {
    code: 'E_NO_SPACE',
    cause: error,
    remedy: 'Free some space there, or give a larger volume.',
  });
}

/** Unpacks an archive on the calling thread; the stream's other stages use other threads. */
export async function unpackInto(source: CompressedFile, options: TreeWriterOptions): Promise<UnpackResult> {
  const writer = new TreeWriter(options);
  try {
    const diffID = await readArchive(source, writer);
    writer.finish();
    const { entries, bytes, implied, overlayMarks, maximumId, skippedDevices } = writer;
    const opaque = [...writer.opaque];
    const tree = treeDigestHere(options.root);
    return { diffID, entries, bytes, opaque, implied, overlayMarks, maximumId, skippedDevices, tree };
  } catch (error) {
    writer.abort();
    throw error;
  }
}

/**
 * Reads a layer's archive.
 *
 * @returns the digest of its uncompressed bytes.
 * @throws KilnError `E_LAYER_CORRUPT`, `E_TAR_MALFORMED`, and what the handler throws.
 */
export async function readArchive(source: CompressedFile, handler: TarHandler): Promise<DiffID> {
  const reader = new TarReader(handler);
  const hash = createHash('sha256');
  try {
    await pipeline(
      createReadStream(source.file, { highWaterMark: 1 << 16 }),
      decompressor(source.compression),
      async (chunks: AsyncIterable<Buffer>) => {
        for await (const chunk of chunks) {
          hash.update(chunk);
          reader.write(chunk);
        }
      },
    );
    reader.finish();
  } catch (error) {
    throw compressionError(error, source.file) ?? capabilityError(error) ?? error;
  }
  return `sha256:${hash.digest('hex')}` as DiffID;
}

function compressionError(error: unknown, file: string): KilnError | undefined {
  const code = systemErrorCode(error);
  if (code?.startsWith('Z_') !== true && code?.startsWith('ZSTD_') !== true) return undefined;
  return new KilnError('the compressed data is damaged', {
    code: 'E_LAYER_CORRUPT',
    category: 'registry',
    where: file,
    cause: error,
  });
}
