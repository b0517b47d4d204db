import assert from 'node:assert/strict';
import { test } from 'node:test';
import { requireSafeSigner } from '../../executor/signer-rules.ts';
import { Progress } from '../../src/support/index.ts';

test('where steps run in place no command signs, and a key that steps can read is warned of', () => {
  const progress = new Progress();
  const warnings: string[] = [];
  using _listening = progress.listen((event) => {
    if (event.type === 'log') warnings.push(event.message);
  });
  const sign = (): Promise<never> => Promise.reject(new Error('not here'));
  assert.throws(
    () => requireSafeSigner({ signer: { keyID: undefined, runsProgram: true, sign } }, progress),
    {
      code: 'E_CACHE_SIGNING',
    },
  );
  requireSafeSigner({}, progress);
  assert.deepEqual(warnings, []);
  requireSafeSigner({ signer: { keyID: 'x', runsProgram: false, sign } }, progress);
  assert.match(warnings.join('\n'), /can read the key/);
});
