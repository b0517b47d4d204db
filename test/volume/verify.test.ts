import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFile, chmod, chown, readdir, rm, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { hostPlatform, parseReference } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { type VerifyResult, Volume } from '../../src/volume/index.ts';
import { kiln } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

describe('verify', () => {
  let workshop: Workshop;
  before(async () => {
    workshop = await openWorkshop();
    const warmed = await kiln('warmer', ['--cache-dir', workshop.volume, '--image', workshop.base]);
    assert.equal(warmed.code, 0, warmed.stderr);
  });
  after(() => workshop[Symbol.asyncDispose]());

  interface Ground {
    readonly directory: string;
    readonly blobs: string;
    readonly layer: string;
  }
  /** A copy of a volume with the base image on it. */
  async function warmVolume(): Promise<Ground> {
    const directory = join(workshop.directory, workshop.unique('verify'));
    execFileSync('cp', ['-a', workshop.volume, directory]);
    const [name = ''] = await readdir(join(directory, 'layers'));
    return {
      directory,
      blobs: join(directory, 'blobs/sha256'),
      layer: join(directory, 'layers', name, 'fs'),
    };
  }
  async function verify(
    { directory }: Ground,
    ...args: string[]
  ): Promise<{ code: number | null; result: VerifyResult }> {
    const ended = await kiln('warmer', ['verify', '--cache-dir', directory, '-o', 'json', ...args]);
    assert.notEqual(ended.stdout, '', ended.stderr);
    return { code: ended.code, result: JSON.parse(ended.stdout) as VerifyResult };
  }
  const found = ({ damages }: VerifyResult): string[] =>
    damages.map(({ kind, problem, outcome }) => `${kind} ${problem} ${outcome}`);

  const harms: Readonly<Record<string, (ground: Ground) => Promise<unknown>>> = {
    content: ({ layer }) => appendFile(join(layer, 'etc/passwd'), 'x'),
    mode: ({ layer }) => chmod(join(layer, 'etc/passwd'), 0o600),
    owner: ({ layer }) => chown(join(layer, 'etc/passwd'), 5, 0),
    time: ({ layer }) => utimes(join(layer, 'etc/passwd'), 1, 1),
    'an attribute': ({ layer }) =>
      Promise.resolve(execFileSync('setfattr', ['-n', 'user.x', '-v', 'y', join(layer, 'etc/passwd')])),
    'a file more': ({ layer }) => writeFile(join(layer, 'new'), ''),
    'a file less': ({ layer }) => rm(join(layer, 'etc/group')),
    'a link replaced by its file': async ({ layer }) => {
      await rm(join(layer, 'bin/ls'));
      await writeFile(join(layer, 'bin/ls'), '');
    },
  };
  test('finds nothing wrong with a volume that is sound', async () => {
    const { code, result } = await verify(await warmVolume());
    assert.equal(code, 0);
    assert.deepEqual([result.images, result.blobs, result.layers, result.unchecked], [1, 3, 1, 0]);
    assert.deepEqual(result.damages, []);
  });

  test('finds an unpacked layer altered in content, mode, owner, time, attributes, names and links', async () => {
    for (const [what, harm] of Object.entries(harms)) {
      const ground = await warmVolume();
      await harm(ground);
      await using volume = await Volume.open(ground.directory, { access: 'read-only' });
      const result = await volume.verify();
      assert.deepEqual(found(result), ['layer altered found'], what);
      assert.deepEqual(result.damages[0]?.images, [workshop.base], what);
    }
  });

  test('finds altered, truncated and missing blobs, changes nothing, and ends with 1', async () => {
    const ground = await warmVolume();
    const names = await readdir(ground.blobs);
    assert.equal(names.length, 3);
    for (const name of names) await chmod(join(ground.blobs, name), 0o644);
    const [first = '', second = '', third = ''] = names;
    await appendFile(join(ground.blobs, first), 'x');
    await truncate(join(ground.blobs, second), 1);
    await rm(join(ground.blobs, third));
    const { code, result } = await verify(ground);
    assert.equal(code, 1);
    const altered = result.damages.filter(({ problem }) => problem === 'altered').map(({ digest }) => digest);
    assert.deepEqual(altered.sort(), [`sha256:${first}`, `sha256:${second}`].sort());
    assert.deepEqual((await readdir(ground.blobs)).sort(), [first, second].sort());
  });

  test('heals every blob and layer from the registry, by digest', async () => {
    const ground = await warmVolume();
    for (const name of await readdir(ground.blobs)) {
      await chmod(join(ground.blobs, name), 0o644);
      await truncate(join(ground.blobs, name), 1);
    }
    await appendFile(join(ground.layer, 'etc/passwd'), 'x');
    const repaired = await verify(ground, '--repair');
    assert.equal(repaired.code, 0, JSON.stringify(repaired.result));
    assert.deepEqual(new Set(repaired.result.damages.map(({ outcome }) => outcome)), new Set(['repaired']));
    assert.equal(repaired.result.damages.length, 4);
    const again = await verify(ground);
    assert.deepEqual(again.result.damages, []);
    await using volume = await Volume.open(ground.directory, { access: 'read-only' });
    const image = await volume.find(parseReference(workshop.base), hostPlatform());
    await using lease = await volume.acquireLayers(image?.layers ?? []);
    assert.equal(lease?.paths.length, 1);
  });

  test('brings back a blob that is missing', async () => {
    const ground = await warmVolume();
    const [name = ''] = await readdir(ground.blobs);
    await rm(join(ground.blobs, name));
    assert.deepEqual(found((await verify(ground, '--repair')).result), ['blob missing repaired']);
    assert.deepEqual((await verify(ground)).result.damages, []);
  });

  test('leaves a damaged layer alone that a build has mounted, and says so', async () => {
    const ground = await warmVolume();
    await using volume = await Volume.open(ground.directory, { access: 'read-write' });
    const image = await volume.find(parseReference(workshop.base), hostPlatform());
    assert.ok(image);
    const lease = await volume.acquireLayers(image.layers);
    assert.ok(lease);
    await appendFile(join(ground.layer, 'etc/passwd'), 'x');
    const used = await verify(ground, '--repair');
    assert.equal(used.code, 1);
    assert.deepEqual(found(used.result), ['layer altered in_use']);
    await lease[Symbol.asyncDispose]();
    assert.deepEqual(found((await verify(ground, '--repair')).result), ['layer altered repaired']);
  });

  test('says what cannot be healed because the registry is gone', async () => {
    const ground = await warmVolume();
    const [name = ''] = await readdir(ground.blobs);
    await rm(join(ground.blobs, name));
    await using volume = await Volume.open(ground.directory, { access: 'read-write' });
    await using client = new RegistryClient({ pullRetries: 0 });
    await workshop.registry.stop();
    const result = await volume.verify({ repair: client });
    assert.ok(found(result).includes('blob missing failed'), JSON.stringify(result));
    assert.ok(result.damages.every(({ message }) => message !== ''));
  });
});
