import { parentPort, workerData } from 'node:worker_threads';
import { plainError, workerLoaded } from '../support/index.ts';
import { writeLayerHere, type WriteLayerRequest } from './write-layer.ts';

workerLoaded();
try {
  parentPort?.postMessage({ result: (await writeLayerHere(workerData as WriteLayerRequest)) ?? null });
} catch (error) {
  parentPort?.postMessage({ error: plainError(error) });
}
