import { crc32, constants, deflateRaw, type ZlibOptions } from 'node:zlib';
import { promisify } from 'node:util';

const deflate = promisify<Buffer, ZlibOptions, Buffer>(deflateRaw);

const blockSize = 1 << 19;
const windowSize = 1 << 15;
/** RFC 1952 header: deflate, no name, no time, unknown operating system, so that equal content gives equal bytes. */
const header = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);

/**
 * Compresses a stream to gzip (RFC 1952) with several blocks at work at once, as pigz does: each block is deflated on
 * its own with the last 32 KiB before it as dictionary, and ends at a byte boundary. The result is one ordinary member
 * and does not depend on the number of threads.
 *
 * @param concurrency blocks compressed at the same time; memory is about 1 MB for each.
 */
export async function* gzip(
  source: AsyncIterable<Buffer>,
  level: number,
  concurrency: number,
): AsyncGenerator<Buffer> {
  yield header;
  let checksum = 0;
  let length = 0;
  const running: Promise<Buffer>[] = [];
  // Blocks are used again: left to the garbage collector, they would be most of the memory of this process.
  const free: Buffer[] = [];
  for await (const { block, dictionary, bytes, last } of blocksOf(source, free)) {
    checksum = crc32(bytes, checksum);
    length += bytes.length;
    const compressed = deflate(bytes, {
      level,
      memLevel: 9,
      finishFlush: last ? constants.Z_FINISH : constants.Z_SYNC_FLUSH,
      ...(dictionary.length === 0 ? {} : { dictionary }),
    });
    const done = compressed.finally(() => free.push(block));
    // Awaited in order below; a failure before then is not an unhandled one.
    done.catch(() => undefined);
    running.push(done);
    if (running.length >= concurrency) yield (await running.shift()) ?? Buffer.alloc(0);
  }
  for (const compressed of running) yield await compressed;
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(checksum, 0);
  trailer.writeUInt32LE(length % 2 ** 32, 4);
  yield trailer;
}

interface Block {
  /** The whole buffer, to be given back. */
  readonly block: Buffer;
  /** What comes before it; it lies in the same buffer. Empty for the first block. */
  readonly dictionary: Buffer;
  readonly bytes: Buffer;
  readonly last: boolean;
}

/**
 * Cuts a stream into blocks of equal size; the last one is marked, and is empty for an empty stream.
 * A chunk of the source is not looked at again once the next one is asked for.
 */
async function* blocksOf(source: AsyncIterable<Buffer>, free: Buffer[]): AsyncGenerator<Block> {
  const room = (): Buffer => free.pop() ?? Buffer.allocUnsafeSlow(windowSize + blockSize);
  const full = windowSize + blockSize;
  let block = room();
  let dictionary = block.subarray(0, 0);
  let end = windowSize;
  for await (const chunk of source) {
    for (let at = 0; at < chunk.length;) {
      if (end === full) {
        const next = room();
        block.copy(next, 0, blockSize);
        yield { block, dictionary, bytes: block.subarray(windowSize), last: false };
        block = next;
        dictionary = block.subarray(0, windowSize);
        end = windowSize;
      }
      const copied = chunk.copy(block, end, at);
      at += copied;
      end += copied;
    }
  }
  yield { block, dictionary, bytes: block.subarray(windowSize, end), last: true };
}
