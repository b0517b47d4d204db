import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { joinFlight, SingleFlight } from '../../src/support/index.ts';

/** Work that takes so long, and gives up when its signal fires. */
function work(milliseconds: number, signal: AbortSignal | undefined): () => Promise<string> {
  return async () => {
    // As `fetch` does and unlike timers, this rejects with the signal's own reason.
    const aborted = new Promise<never>((_resolve, reject) =>
      signal?.addEventListener('abort', () => reject(signal.reason as Error)),
    );
    return Promise.race([sleep(milliseconds).then(() => 'done'), aborted]);
  };
}

const reasons: Readonly<Record<string, () => AbortSignal>> = {
  'is over its time': () => AbortSignal.timeout(20),
  'is aborted': () => abortsWith(undefined),
  'is aborted for a reason of its own': () => abortsWith(new TypeError('another part failed')),
};

function abortsWith(reason: Error | undefined): AbortSignal {
  const controller = new AbortController();
  setTimeout(() => controller.abort(reason), 20);
  return controller.signal;
}

for (const [what, signal] of Object.entries(reasons))
  test(`who joined shared work does it over when the caller that began it ${what}`, async () => {
    const flight = new SingleFlight<string, string>();
    const limit = signal();
    const starter = joinFlight(flight, 'key', work(1000, limit), limit);
    const joiner = joinFlight(flight, 'key', work(1, undefined), undefined);
    await assert.rejects(starter, (error) => error === limit.reason);
    assert.equal(await joiner, 'done');
  });

test('who joined shared work sees its failure, and does not do it again', async () => {
  const flight = new SingleFlight<string, string>();
  const failure = new Error('no such thing');
  let runs = 0;
  const fails = async (): Promise<string> => {
    runs += 1;
    await sleep(5);
    throw failure;
  };
  const callers = [1, 2].map(() => joinFlight(flight, 'key', fails, new AbortController().signal));
  for (const { reason } of (await Promise.allSettled(callers)) as PromiseRejectedResult[])
    assert.equal(reason, failure);
  assert.equal(runs, 1);
});

test('who joined shared work may leave, and it goes on for the others', async () => {
  const flight = new SingleFlight<string, string>();
  const starter = joinFlight(flight, 'key', work(60, undefined), undefined);
  const limit = AbortSignal.timeout(10);
  await assert.rejects(joinFlight(flight, 'key', work(1, limit), limit), { name: 'TimeoutError' });
  assert.equal(await starter, 'done');
});
