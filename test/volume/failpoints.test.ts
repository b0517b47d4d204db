import assert from 'node:assert/strict';
import { cp, readFile, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { digestOf, parseReference } from '../../src/oci/index.ts';
import { Volume } from '../../src/volume/index.ts';
import { cleanIngest } from '../../src/volume/ingest.ts';
import { type Failpoint, Failpoints } from '../support/failpoints.ts';
import { FakeRegistry, amd64, temporaryDirectory, testImage } from './fixtures.ts';

const writable = { access: 'read-write' } as const;
const names = ['one', 'two', 'three'] as const;
const seeds: Readonly<Record<string, readonly string[]>> = {
  one: ['base', 'a'],
  two: ['base', 'b'],
  three: ['c'],
};

function referenceOf(name: string): ReturnType<typeof parseReference> {
  return parseReference(`test.invalid/${name}:1`);
}

type Operation = (volume: Volume, registry: FakeRegistry) => Promise<unknown>;
type Mode = readonly [Failpoint['mode'], Failpoint['code']];

const error: Mode = ['once', 'EIO'];
const fullDisk: Mode = ['once', 'ENOSPC'];
const crash: Mode = ['crash', 'EIO'];

/** What is done to a volume that has images `one` and `two`, and a blob that nothing refers to. */
const operations: Readonly<Record<string, readonly [Operation, readonly Mode[]]>> = {
  'a prune of everything': [
    (volume) => volume.prune({ all: true, gracePeriodSeconds: 0 }),
    [error, fullDisk, crash],
  ],
  'a prune of unpacked layers': [(volume) => volume.prune({ all: true, unpackedOnly: true }), [error, crash]],
  'a pull of a tag that moved': [
    async (volume, registry) => {
      registry.push(referenceOf('one'), await testImage(['base', 'c'], 4000));
      await volume.pull(registry.client, referenceOf('one'), amd64);
    },
    [error, crash],
  ],
  'a pin': [(volume) => volume.setPinned(referenceOf('one'), undefined, true), [crash]],
  'a reindex': [(volume) => volume.reindex(), [error]],
};

describe('a volume on which a change of the file system fails', () => {
  let template: Awaited<ReturnType<typeof temporaryDirectory>>;
  let failpoints: Failpoints;

  async function newRegistry(): Promise<FakeRegistry> {
    const registry = new FakeRegistry();
    for (const name of names) registry.push(referenceOf(name), await testImage(seeds[name] ?? [], 4000));
    return registry;
  }

  before(async () => {
    template = await temporaryDirectory();
    const registry = await newRegistry();
    await using volume = await Volume.open(template.path, writable);
    for (const name of ['one', 'two']) await volume.pull(registry.client, referenceOf(name), amd64);
    const { image, blobs } = await testImage(['garbage'], 4000);
    for (const layer of image.manifest.layers) {
      const bytes = blobs.get(layer.digest);
      assert.ok(bytes);
      await volume.blobs.ingest(layer, [bytes] as unknown as AsyncIterable<Uint8Array>);
    }
    failpoints = await Failpoints.install();
  });
  after(async () => {
    failpoints[Symbol.dispose]();
    await template[Symbol.asyncDispose]();
  });

  for (const [what, [operation, modes]] of Object.entries(operations))
    for (const [mode, code] of modes)
      test(`is right after ${what} in which each one fails (${mode}, ${code})`, async () => {
        let number = 1;
        while (await fails(operation, { number, mode, code })) number += 1;
        assert.ok(number > 2, `only ${number} changes were made`);
      });

  /** @returns false when there are fewer changes than that. */
  async function fails(operation: Operation, point: Failpoint): Promise<boolean> {
    const directory = `${template.path}-${point.number}`;
    try {
      await cp(template.path, directory, { recursive: true });
      const registry = await newRegistry();
      const { reached, error } = await failpoints.run(point, async () => {
        await using volume = await Volume.open(directory, writable);
        await operation(volume, registry);
      });
      if (!reached) assert.ifError(error);
      await requireRight(directory, `${point.number}`);
      await requireUsable(directory, registry);
      return reached;
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }

  /** Nothing refers to what is not there, and all that is there is what its name says. */
  async function requireRight(directory: string, where: string): Promise<void> {
    await using reader = await Volume.open(directory, { access: 'read-only' });
    for (const { reference, complete } of await reader.images()) {
      assert.ok(complete, `${reference} misses a blob after failure ${where}`);
      assert.ok(await reader.find(parseReference(reference), amd64));
    }
    for (const name of await readdir(join(directory, 'blobs/sha256')))
      assert.equal(digestOf(await readFile(join(directory, 'blobs/sha256', name))), `sha256:${name}`);
    for (const name of await readdir(join(directory, 'layers'))) {
      const [file = ''] = await readdir(join(directory, 'layers', name, 'fs'));
      assert.match(file, /^layer-/);
      assert.equal((await readFile(join(directory, 'layers', name, 'fs', file))).length, 4000);
      await readFile(join(directory, 'layers', name, 'sealed'));
    }
  }

  /** All can be done that was to be done, and nothing is left lying about. */
  async function requireUsable(directory: string, registry: FakeRegistry): Promise<void> {
    await using volume = await Volume.open(directory, writable);
    for (const name of names) {
      await volume.pull(registry.client, referenceOf(name), amd64, { unpack: false });
      await volume.setPinned(referenceOf(name), undefined, false);
      assert.ok(await volume.find(referenceOf(name), amd64));
    }
    await volume.prune({ all: true, gracePeriodSeconds: 0 });
    assert.deepEqual(await volume.images(), []);
    await cleanIngest(join(directory, 'ingest'), Date.now() + 48 * 3600_000);
    for (const path of ['blobs/sha256', 'layers', 'ingest'])
      assert.deepEqual(await readdir(join(directory, path)), [], path);
  }
});
