import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { pinModules } from '../../executor/isolation/inplace/pinned-modules.ts';

let directory = '';
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kiln-pinned-'));
});
after(() => rm(directory, { recursive: true, force: true }));

test('a module that was replaced since it was pinned is not loaded', async () => {
  const load = (name: string): Promise<unknown> => import(pathToFileURL(join(directory, name)).href);
  await writeFile(join(directory, 'kept.js'), 'export const value = 1;');
  await writeFile(join(directory, 'replaced.js'), 'export const value = 2;');
  await writeFile(join(directory, 'leading.js'), "export { value } from './replaced.js';");
  using _pinned = await pinModules(directory);
  await writeFile(join(directory, 'replaced.js'), 'globalThis.planted = true; export const value = 3;');
  assert.deepEqual({ ...((await load('kept.js')) as object) }, { value: 1 });
  for (const name of ['replaced.js', 'leading.js'])
    await assert.rejects(load(name), { code: 'E_INPLACE_ALTERED' });
  assert.equal('planted' in globalThis, false);
});
