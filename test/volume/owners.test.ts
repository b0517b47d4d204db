import assert from 'node:assert/strict';
import { chownSync, lstatSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { servesHere } from '../../src/volume/lower.ts';
import { Volume } from '../../src/volume/index.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { amd64, debian, FakeRegistry, testImage } from './fixtures.ts';

const writable = { access: 'read-write' } as const;

async function filledVolume(directory: string): Promise<void> {
  await using volume = await Volume.open(directory, writable);
  const registry = new FakeRegistry();
  registry.push(debian, await testImage(['a']));
  await volume.pull(registry.client, debian, amd64);
}

describe('a volume', () => {
  test('gets files by whose owners its ids can be told, once', async () => {
    await using directory = await temporaryDirectory();
    await filledVolume(directory.path);
    const owners = join(directory.path, 'owners');
    assert.deepEqual(readdirSync(owners).sort(), ['0', '1', '65535']);
    for (const id of [0, 1, 65535]) {
      const { uid, gid } = lstatSync(join(owners, String(id)));
      assert.deepEqual([uid, gid], [id, id]);
    }
    const before = lstatSync(owners).ino;
    await (await Volume.open(directory.path, writable))[Symbol.asyncDispose]();
    assert.equal(lstatSync(owners).ino, before);
    assert.deepEqual(
      readdirSync(join(directory.path, 'ingest')).filter((name) => name.startsWith('owners')),
      [],
    );
  });

  for (const [what, path, uid, gid, message] of [
    ['other users', 'owners/1', 100_000, 1, /belongs to 1:1 there belongs to 100000:1 here/],
    [
      'other users from some id on',
      'owners/65535',
      7,
      65535,
      /belongs to 65535:65535 there belongs to 7:65535/,
    ],
    ['another group', 'owners/0', 0, 2000, /belongs to 0:0 there belongs to 0:2000 here/],
  ] as const)
    test(`with the files of ${what} is neither mounted nor written`, async () => {
      await using directory = await temporaryDirectory();
      await filledVolume(directory.path);
      chownSync(join(directory.path, path), uid, gid);
      await assert.rejects(Volume.open(directory.path, writable), { code: 'E_VOLUME_OWNERS', message });
      await using volume = await Volume.open(directory.path, { access: 'read-only' });
      const image = await volume.find(debian, amd64);
      assert.ok(image);
      await assert.rejects(volume.acquireLayers(image.layers), { code: 'E_VOLUME_OWNERS' });
    });

  test('of a namespace with a single id is not one of root', async () => {
    await using directory = await temporaryDirectory();
    await filledVolume(directory.path);
    for (const name of ['0', '1', '65535']) rmSync(join(directory.path, 'owners', name));
    writeFileSync(join(directory.path, 'owners/single-id'), '');
    await assert.rejects(Volume.open(directory.path, writable), {
      code: 'E_VOLUME_OWNERS',
      message: /unpacked in a user namespace with a single id/,
    });
  });

  test('from before there were such files is taken when its layers are root’s', async () => {
    await using directory = await temporaryDirectory();
    await filledVolume(directory.path);
    rmSync(join(directory.path, 'owners'), { recursive: true });
    await (await Volume.open(directory.path, writable))[Symbol.asyncDispose]();
    rmSync(join(directory.path, 'owners'), { recursive: true });
    chownSync(join(directory.path, 'layers'), 1000, 1000);
    await assert.rejects(Volume.open(directory.path, writable), { code: 'E_VOLUME_OWNERS' });
  });
});

describe('an unpacked layer', () => {
  test('serves root when its deletions have the attributes that root’s mounts read', () => {
    assert.equal(servesHere({ overlayMarks: ['trusted'], maximumId: 1_000_000, implied: [] }), true);
    assert.equal(servesHere({ overlayMarks: ['user'], maximumId: 0, implied: [] }), false);
  });
});
