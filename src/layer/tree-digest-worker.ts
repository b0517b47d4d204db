import { parentPort, workerData } from 'node:worker_threads';
import { plainError, workerLoaded } from '../support/index.ts';
import { treeDigestHere } from './tree-digest.ts';

workerLoaded();
try {
  parentPort?.postMessage({ result: treeDigestHere(workerData as string) });
} catch (error) {
  parentPort?.postMessage({ error: plainError(error) });
}
