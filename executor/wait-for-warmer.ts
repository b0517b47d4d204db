import { setTimeout as sleep } from 'node:timers/promises';
import { formatSeconds, KilnError, type Progress } from '../src/support/index.ts';
import { NodeClient } from '../src/volume/index.ts';

/** Milliseconds between two questions. */
const interval = 500;
const silent = 'it does not answer';

/**
 * Waits until the warmer of the node has made ready what it is configured to. After `seconds` the build goes on all the
 * same, since it can do without, and says what was not ready.
 *
 * @param directory the cache volume, which need not be there yet.
 */
export async function waitForWarmer(
  directory: string,
  seconds: number,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  const client = new NodeClient(directory);
  const started = performance.now();
  const left = (): number => Math.max(1, Math.ceil(started + seconds * 1000 - performance.now()));
  let told: string | undefined;
  for (;;) {
    const why = await whyNotReady(client, AbortSignal.any([signal, AbortSignal.timeout(left())]));
    signal.throwIfAborted();
    const waited = formatSeconds((performance.now() - started) / 1000);
    if (why === undefined) {
      if (told !== undefined) progress.info(`the node's warmer was ready after ${waited}`);
      return;
    }
    if (left() <= 1) {
      // The last question may have been cut off: what it said before is worth more.
      const last = why === silent && told !== undefined ? told : why;
      progress.warn(`the node's warmer was not ready after ${waited}, and the build goes on: ${last}`);
      return;
    }
    if (why !== told) progress.info(`waiting for the node's warmer: ${why}`);
    told = why;
    await sleep(Math.min(interval, left()), undefined, { signal });
  }
}

async function whyNotReady(client: NodeClient, signal: AbortSignal): Promise<string | undefined> {
  try {
    const status = await client.status(signal);
    if ('outcome' in status) return status.detail;
    if (status.ready) return undefined;
    const open = status.checks.filter(({ ok }) => !ok).map(({ name, detail }) => `${name}: ${detail}`);
    return open.length === 0 ? 'it is not ready' : open.join('; ');
  } catch (error) {
    if (error instanceof KilnError) return error.message;
    if (signal.aborted) return silent;
    throw error;
  }
}
