import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { digestOf, mediaTypes } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { parseChallenges } from '../../src/registry/auth/challenge.ts';
import { testBlob } from '../support/blobs.ts';
import { bodyOf } from '../support/http.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';

const { bytes: content, descriptor, open } = testBlob(randomBytes(300_000));

describe('against a registry', () => {
  let registry: TestRegistry;
  const client = new RegistryClient();
  before(async () => {
    registry = await startRegistry();
  });
  after(async () => {
    await client[Symbol.asyncDispose]();
    await registry[Symbol.asyncDispose]();
  });

  test('a blob is uploaded once, mounted into a second repository, and read back', async () => {
    const a = client.repository({ registry: registry.host, repository: 'a/one' });
    const b = client.repository({ registry: registry.host, repository: 'b' });
    assert.equal(await a.uploadBlob(descriptor, open), 'uploaded');
    assert.equal(await a.uploadBlob(descriptor, open), 'exists');
    assert.equal(await b.uploadBlob(descriptor, open, { mountFrom: ['nowhere', 'a/one'] }), 'mounted');
    assert.deepEqual(await bodyOf(await b.openBlob(descriptor)), content);
    assert.deepEqual(await b.statBlob(descriptor.digest), { size: content.length });
  });

  test('manifests and tags come back as they were put', async () => {
    const repository = client.repository({ registry: registry.host, repository: 'c' });
    const config = Buffer.from('{}');
    const configDescriptor = { mediaType: mediaTypes.ociConfig, digest: digestOf(config), size: 2 };
    await repository.uploadBlob(configDescriptor, () => Promise.resolve(Readable.from([config])));
    const manifest = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: mediaTypes.ociManifest,
        config: configDescriptor,
        layers: [],
      }),
    );
    for (const tag of ['one', 'two']) await repository.putManifest(tag, mediaTypes.ociManifest, manifest);
    assert.equal((await repository.headManifest('one'))?.digest, digestOf(manifest));
    assert.deepEqual(Buffer.from((await repository.getManifest('two'))?.bytes ?? []), manifest);
    assert.equal(await repository.getManifest('three'), undefined);
    assert.deepEqual((await Array.fromAsync(repository.listTags())).sort(), ['one', 'two']);
    assert.equal(await repository.deleteManifest(digestOf(manifest)), true);
    assert.equal(await repository.headManifest('one'), undefined);
  });
});

describe('with credentials', () => {
  test('Basic is answered from config.json, by path; without them the error says so', async () => {
    await using registry = await startRegistry({ user: 'u', password: 'p:w' });
    const directory = mkdtempSync(join(tmpdir(), 'kiln-config-'));
    try {
      const auth = Buffer.from('u:p:w').toString('base64');
      const wrong = Buffer.from('u:no').toString('base64');
      writeFileSync(
        join(directory, 'config.json'),
        JSON.stringify({ auths: { [registry.host]: { auth: wrong }, [`${registry.host}/team`]: { auth } } }),
      );
      await using client = new RegistryClient({ dockerConfigDirectory: directory });
      assert.equal(
        await client
          .repository({ registry: registry.host, repository: 'team/x' })
          .uploadBlob(descriptor, open),
        'uploaded',
      );
      await assert.rejects(
        client.repository({ registry: registry.host, repository: 'other' }).uploadBlob(descriptor, open),
        { code: 'E_REGISTRY_UNAUTHORIZED' },
      );
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test('all forms of challenge are read', () => {
    const challenges = parseChallenges([
      'Basic realm="a, b", Bearer realm="https://x/t?a=b",service=s ,scope="r:x:pull,push"',
      'Negotiate',
    ]);
    assert.deepEqual(
      challenges.map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]),
      [
        ['basic', { realm: 'a, b' }],
        ['bearer', { realm: 'https://x/t?a=b', service: 's', scope: 'r:x:pull,push' }],
        ['negotiate', {}],
      ],
    );
  });
});
