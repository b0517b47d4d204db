import { mountRights, OverlayIsolation } from '../../executor/isolation/index.ts';
import { describeError } from '../../src/support/index.ts';

/** `preflight.ts SCRATCH`: what this process may mount, and why not. */
const [scratch = ''] = process.argv.slice(2);
console.log(mountRights());
await using isolation = new OverlayIsolation();
try {
  await isolation.preflight(scratch);
  console.log('it can');
} catch (error) {
  console.log(describeError(error));
}
