import { createInterface } from 'node:readline';
import { mount, mountFlags } from '../../src/os/index.ts';

/*
 * The first process of a step where there is no shell to be it, as in Kiln's own image: see StepInit. Everything is loaded
 * before it says that it is ready, since soon after its root is the step's.
 */

const lines = createInterface({ input: process.stdin });
lines.once('line', (proc) => {
  mount('proc', proc, 'proc', mountFlags.noSuid | mountFlags.noDev | mountFlags.noExec, null);
  process.stdout.write('ready\n');
});
lines.once('close', () => process.exit());
