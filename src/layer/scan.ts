import { pipeline } from 'node:stream/promises';
import type { Layer } from './layer.ts';
import { type TarEntry, TarReader } from './tar-reader.ts';

/** What wants to know what is in a layer, entry by entry. */
export interface LayerVisitor {
  /** @returns how many bytes of the file's content are wanted at most; 0 when none are. */
  entry(entry: TarEntry): number;
  /** The content that was asked for; undefined when the file is larger. */
  content(entry: TarEntry, content: Buffer | undefined): void;
}

/**
 * Reads a layer from its beginning to its end without unpacking it. Nothing of it is kept but the content of one file, as
 * far as it is wanted.
 *
 * @throws KilnError `E_TAR_MALFORMED`, and what reading the layer throws.
 */
export async function scanLayer(
  layer: Pick<Layer, 'uncompressed'>,
  visitor: LayerVisitor,
  signal?: AbortSignal,
): Promise<void> {
  let wanted = 0;
  let current: TarEntry | undefined;
  let chunks: Buffer[] = [];
  const reader = new TarReader({
    entry: (entry) => {
      current = entry;
      chunks = [];
      wanted = visitor.entry(entry);
    },
    data: (chunk) => {
      if (wanted > 0 && (current?.size ?? 0) <= wanted) chunks.push(Buffer.from(chunk));
    },
    // Only sparse files have holes, which layers have not.
    hole: () => undefined,
    end: () => {
      if (current !== undefined && wanted > 0)
        visitor.content(current, current.size <= wanted ? Buffer.concat(chunks) : undefined);
      current = undefined;
    },
  });
  await pipeline(
    await layer.uncompressed(signal),
    async (stream: AsyncIterable<Buffer>) => {
      for await (const chunk of stream) reader.write(chunk);
      reader.finish();
    },
    { ...(signal === undefined ? {} : { signal }) },
  );
}
