import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

const root = join(import.meta.dirname, '../..');

// In a process of its own, since what is tested is whether the process survives.
const script = `
  import { setTimeout as sleep } from 'node:timers/promises';
  import { WorkerPool } from ${JSON.stringify(join(root, 'executor/isolation/task-worker.ts'))};
  import { unpackLayer } from ${JSON.stringify(join(root, 'src/layer/index.ts'))};
  const endAfter = async (milliseconds) => {
    const workers = new WorkerPool(${JSON.stringify(pathToFileURL(join(root, 'executor/isolation/overlay.ts')))}, 'rootfs-worker');
    workers.warm();
    await sleep(milliseconds);
    await workers.close();
  };
  const abortAfter = (milliseconds) =>
    unpackLayer({ file: '/dev/zero', compression: 'none' }, '/nonexistent', { signal: AbortSignal.timeout(milliseconds) })
      .catch(() => undefined);
  for (let delay = 20; delay < 160; delay += 8)
    await Promise.all([endAfter(delay), abortAfter(delay + 1), endAfter(delay + 2), abortAfter(delay + 3)]);
  console.log('survived');
`;

test('workers that are ended while they still load do not take the process with them', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script]);
  assert.equal(stdout, 'survived\n');
});
