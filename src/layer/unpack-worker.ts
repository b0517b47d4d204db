import { parentPort, workerData } from 'node:worker_threads';
import { plainError, workerLoaded } from '../support/index.ts';
import type { TreeWriterOptions } from './tree-writer.ts';
import { type CompressedFile, unpackInto } from './unpack.ts';

const { source, writer } = workerData as { source: CompressedFile; writer: TreeWriterOptions };
workerLoaded();
try {
  parentPort?.postMessage({ result: await unpackInto(source, writer) });
} catch (error) {
  parentPort?.postMessage({ error: plainError(error) });
}
