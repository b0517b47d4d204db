import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { mutate } from './fuzz-inputs.ts';

/** Seconds of fuzzing; `KILN_FUZZ_SECONDS` for more. */
const seconds = Number(process.env.KILN_FUZZ_SECONDS ?? 5);
/** No text of this size may take longer, also where the machine has much else to do. */
const longestRound = 10_000;

test('whatever is in a Dockerfile, it is understood or refused, and soon', async (context) => {
  const seed = Number(process.env.KILN_FUZZ_SEED ?? Date.now() % 1_000_000);
  const round = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(new URL('fuzz-worker.ts', import.meta.url), { workerData: { seed, round } });
  let failure: unknown;
  worker.once('error', (error: unknown) => {
    failure = error;
  });
  try {
    const started = performance.now();
    let [last, since] = [0, started];
    while (failure === undefined && performance.now() - started < seconds * 1000) {
      await sleep(50);
      const now = Atomics.load(round, 0);
      if (now !== last) [last, since] = [now, performance.now()];
      // Loading the modules is not a round.
      const limit = now === 0 ? 3 * longestRound : longestRound;
      assert.ok(
        performance.now() - since < limit,
        `round ${now} of seed ${seed} does not end: ${JSON.stringify(mutate(seed, now))}`,
      );
    }
  } finally {
    await worker.terminate();
  }
  context.diagnostic(`seed ${seed}, ${Atomics.load(round, 0)} rounds`);
  assert.ifError(failure);
});
