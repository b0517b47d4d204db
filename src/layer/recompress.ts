import { rm } from 'node:fs/promises';
import { KilnError, messageOf, systemErrorCode } from '../support/index.ts';
import type { Layer } from './layer.ts';
import { spaceError } from './unpack.ts';
import { type CompressedOutput, fileLayer, writeCompressed } from './write-layer.ts';

/**
 * Writes a layer once more with another compression, in one streaming pass. Its content and so its DiffID stay.
 *
 * @throws KilnError `E_BLOB_CORRUPT` when its content is not what its DiffID says; EnvironmentError `E_NO_SPACE`. The output
 * is removed.
 */
export async function recompressLayer(
  layer: Layer,
  request: CompressedOutput,
  signal?: AbortSignal,
): Promise<Layer> {
  try {
    const chunks = await layer.uncompressed(signal);
    // It may fail before its first piece is asked for; whoever asks then hears of it.
    chunks.on('error', () => undefined);
    const facts = await writeCompressed(chunks as AsyncIterable<Buffer>, request, signal);
    if (facts.diffID !== layer.diffID) throw damaged(layer, `its content has the digest ${facts.diffID}`);
    return fileLayer(request.output, facts);
  } catch (error) {
    await rm(request.output, { force: true });
    if (/^(?:Z_|ERR_ZLIB|ZSTD_)/.test(systemErrorCode(error) ?? ''))
      throw damaged(layer, messageOf(error), error);
    throw spaceError(error, request.output) ?? error;
  }
}

function damaged({ digest }: Layer, why: string, cause?: unknown): KilnError {
  return new KilnError(`the layer ${digest} is damaged: ${why}`, {
    code: 'E_BLOB_CORRUPT',
    category: 'environment',
    cause,
    remedy: 'If it lies on the cache volume: warmer verify --repair.',
  });
}
