import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { pack } from 'tar-stream';
import { blobLayer } from '../../src/layer/index.ts';
import { describeKey, type KeyDefinition, openLayerCache, stepKey } from '../../src/layercache/index.ts';
import {
  decodeManifest,
  type DiffID,
  digestOf,
  hostPlatform,
  mediaTypes,
  parseReference,
} from '../../src/oci/index.ts';
import { fetchImage, RegistryClient } from '../../src/registry/index.ts';
import { KilnError } from '../../src/support/index.ts';
import { type TestBlob, testBlob } from '../support/blobs.ts';
import { type Exchange, type Fault, type FaultProxyOptions, startFaultProxy } from '../support/faults.ts';
import { bodyOf } from '../support/http.ts';
import { SeededRandom } from '../support/random.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';

interface SmallImage {
  readonly layers: readonly (TestBlob & { readonly diffID: DiffID })[];
  readonly config: TestBlob;
  readonly manifest: Buffer;
}

/** An image of a few small layers that no other seed has. */
async function smallImage(random: SeededRandom): Promise<SmallImage> {
  const layers = [];
  for (let number = 0; number < 3; number++) {
    const archive = pack();
    archive.entry({ name: `file${number}`, mtime: new Date(0) }, random.bytes(1 + random.below(150_000)));
    archive.finalize();
    const tar = await bodyOf(archive);
    layers.push({ ...testBlob(gzipSync(tar), mediaTypes.ociLayerGzip), diffID: digestOf(tar) as DiffID });
  }
  const config = testBlob(
    Buffer.from(
      JSON.stringify({
        ...hostPlatform(),
        rootfs: { type: 'layers', diff_ids: layers.map(({ diffID }) => diffID) },
      }),
    ),
    mediaTypes.ociConfig,
  );
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: config.descriptor,
      layers: layers.map(({ descriptor }) => descriptor),
    }),
  );
  return { layers, config, manifest };
}

/** All that can go wrong, each with about the same chance. */
function anyFault(random: SeededRandom, { method }: Exchange): Fault {
  const reading = method === 'GET' || method === 'HEAD';
  return random.pick<Fault>([
    { kind: 'delay', milliseconds: random.below(100) },
    { kind: 'answer', status: random.pick([500, 502, 503, 504]) },
    { kind: 'answer', status: 429, headers: random.chance(0.5) ? { 'retry-after': '0' } : {} },
    { kind: 'answer', status: random.pick([400, 401, 403, 404, 405]) },
    { kind: 'lose-answer' },
    { kind: 'cut-answer', after: random.below(100_000) },
    { kind: 'repeat-request' },
    ...(reading
      ? [
          { kind: 'truncate-answer', after: random.below(1000) } as const,
          { kind: 'alter-answer', at: random.below(1000) } as const,
          { kind: 'repeat-answer' } as const,
          { kind: 'wrong-digest-header' } as const,
          { kind: 'redirect' } as const,
          { kind: 'ignore-range' } as const,
        ]
      : [
          { kind: 'cut-request', after: random.below(100_000) } as const,
          { kind: 'alter-request', at: random.below(1000) } as const,
        ]),
  ]);
}

/** Asserts that an error is one for a person: ours, of the registry, and naming where it happened. */
function assertExplained(error: unknown, where: string): void {
  assert.ok(error instanceof KilnError, String(error));
  assert.equal(error.category, 'registry', error.message);
  assert.match(error.code, /^E_(?:REGISTRY_\w+|BLOB_\w+|MANIFEST_\w+|OCI_MALFORMED)$/);
  assert.ok(error.message.includes(where), `"${error.message}" does not name ${where}`);
}

const seeds = Array.from({ length: 24 }, (_, seed) => seed + 1);

/** Some seeds at the same time. */
async function forSeeds(work: (seed: number, random: SeededRandom) => Promise<void>): Promise<void> {
  for (let first = 0; first < seeds.length; first += 8)
    await Promise.all(
      seeds.slice(first, first + 8).map(async (seed) => {
        try {
          await work(seed, new SeededRandom(seed));
        } catch (error) {
          throw new Error(`seed ${seed}: ${String(error)}`, { cause: error });
        }
      }),
    );
}

describe('behind a proxy where anything goes wrong', () => {
  let registry: TestRegistry;
  before(async () => {
    registry = await startRegistry();
  });
  after(() => registry[Symbol.asyncDispose]());

  /** A client whose registry is behind a proxy; every third request or so meets a fault. */
  async function troubled(
    random: SeededRandom,
    options?: FaultProxyOptions,
  ): Promise<AsyncDisposable & { client: RegistryClient; host: string; faults: () => number }> {
    const rate = random.pick([0.1, 0.3, 0.6]);
    const seed = random.below(2 ** 32);
    const seen = new Map<string, number>();
    // By what is asked and how often it was before, so that a seed means the same however requests interleave.
    const faultFor = (exchange: Exchange): Fault | undefined => {
      const what = `${exchange.method} ${exchange.path.replace(/uploads\/[^/]+$/, 'uploads/')}`;
      const times = (seen.get(what) ?? 0) + 1;
      seen.set(what, times);
      const choice = createHash('sha256').update(`${seed} ${what} ${times}`).digest().readUInt32LE();
      const own = new SeededRandom(choice);
      return own.chance(rate) ? anyFault(own, exchange) : undefined;
    };
    const proxy = await startFaultProxy(registry.host, faultFor, options);
    const client = new RegistryClient({ pullRetries: 3, pushRetries: 3 });
    return {
      client,
      host: proxy.host,
      faults: () => proxy.exchanges.filter(({ fault }) => fault !== undefined).length,
      [Symbol.asyncDispose]: async () => {
        await client[Symbol.asyncDispose]();
        await proxy[Symbol.asyncDispose]();
      },
    };
  }

  async function push(client: RegistryClient, host: string, name: string, image: SmallImage): Promise<void> {
    const repository = client.repository({ registry: host, repository: name });
    await Promise.all(
      [...image.layers, image.config].map(({ descriptor, open }) => repository.uploadBlob(descriptor, open)),
    );
    await repository.putManifest('1', mediaTypes.ociManifest, image.manifest);
  }

  /** Asserts that what a tag of the registry names is all there and right. @returns false when there is no tag. */
  async function assertWhole(client: RegistryClient, name: string): Promise<boolean> {
    const repository = client.repository({ registry: registry.host, repository: name });
    const found = await repository.getManifest('1');
    if (found === undefined) return false;
    const { config, layers } = decodeManifest(found.bytes);
    for (const descriptor of [config, ...layers]) await bodyOf(await repository.openBlob(descriptor));
    return true;
  }

  test('a push ends with the image, or with an error and no image that is not whole', async () => {
    let pushed = 0;
    let failed = 0;
    await forSeeds(async (seed, random) => {
      const name = `pushed/${seed}`;
      const image = await smallImage(random);
      await using trouble = await troubled(random, { keepsCutUploads: random.chance(0.5) });
      await using direct = new RegistryClient();
      let error: unknown;
      await push(trouble.client, trouble.host, name, image).catch((reason: unknown) => (error = reason));
      const there = await assertWhole(direct, name);
      if (error === undefined) {
        assert.ok(there, 'the push succeeded, but there is no image');
        const repository = direct.repository({ registry: registry.host, repository: name });
        assert.deepEqual(Buffer.from((await repository.getManifest('1'))?.bytes ?? []), image.manifest);
        pushed += 1;
      } else {
        assertExplained(error, trouble.host);
        failed += 1;
      }
    });
    assert.ok(
      pushed > 3 && failed > 3,
      `${pushed} pushed, ${failed} failed: the test is too kind or too cruel`,
    );
  });

  test('a pull ends with the image, or with an error', async () => {
    let pulled = 0;
    let failed = 0;
    await forSeeds(async (seed, random) => {
      const name = `pulled/${seed}`;
      const image = await smallImage(random);
      await using direct = new RegistryClient();
      await push(direct, registry.host, name, image);
      await using trouble = await troubled(random);
      const reference = parseReference(`${trouble.host}/${name}:1`);
      try {
        const found = await fetchImage(trouble.client, reference, hostPlatform());
        if (found === undefined) throw notThere(trouble.host);
        const source = trouble.client.source(reference);
        for (const [position, layer] of found.manifest.layers.entries()) {
          const bytes = await bodyOf(await source.openBlob(layer));
          assert.deepEqual(bytes, image.layers[position]?.bytes);
        }
        assert.deepEqual(Buffer.from(found.manifestBytes), image.manifest);
        assert.deepEqual(Buffer.from(found.configBytes), image.config.bytes);
        pulled += 1;
      } catch (error) {
        assertExplained(error, trouble.host);
        failed += 1;
      }
    });
    assert.ok(
      pulled > 3 && failed > 3,
      `${pulled} pulled, ${failed} failed: the test is too kind or too cruel`,
    );
  });

  test('a cache entry is whole or not there, and what is found is right', async () => {
    const outcomes = new Map<string, number>();
    await forSeeds(async (seed, random) => {
      const [layer] = (await smallImage(random)).layers;
      assert.ok(layer !== undefined);
      const definition: KeyDefinition = {
        kind: 'base',
        chainID: null,
        platform: { os: 'linux', architecture: `seed${seed}` },
      };
      const key = stepKey(definition);
      const entry = {
        key,
        parentChainID: null,
        created: new Date(1_700_000_000_000),
        createdBy: `RUN ${seed}`,
        origin: undefined,
        description: describeKey(definition),
        signature: undefined,
      };

      await using trouble = await troubled(random);
      await using direct = new RegistryClient();
      const cache = openLayerCache(`${trouble.host}/cache/${seed}`, trouble.client, 'test');
      const stored = await cache.store(entry, blobLayer(layer, layer.descriptor, layer.diffID)).then(
        () => true,
        (error: unknown) => {
          assertExplained(error, trouble.host);
          return false;
        },
      );
      const truth = openLayerCache(`${registry.host}/cache/${seed}`, direct, 'test');
      for (const [place, kind] of [
        [truth, 'truth'],
        [cache, 'proxy'],
      ] as const) {
        const result = (await place.lookup([key], {})).get(key);
        assert.ok(result !== undefined);
        outcomes.set(`${kind} ${result.outcome}`, (outcomes.get(`${kind} ${result.outcome}`) ?? 0) + 1);
        if (kind === 'truth') assert.ok(!stored || result.outcome === 'hit', `stored, but ${result.outcome}`);
        if (result.outcome !== 'hit') {
          assert.match(result.detail, /./);
          continue;
        }
        assert.equal(result.layer?.diffID, layer.diffID);
        assert.deepEqual(
          { ...result.entry, layer: null, creator: '' },
          { ...entry, layer: null, creator: '' },
        );
        try {
          assert.deepEqual(await bodyOf(await result.layer.compressed()), layer.bytes);
        } catch (error) {
          assert.equal(kind, 'proxy');
          assertExplained(error, trouble.host);
        }
      }
    });
    for (const outcome of ['truth hit', 'truth miss', 'proxy hit'])
      assert.ok((outcomes.get(outcome) ?? 0) > 0, `never ${outcome}: ${JSON.stringify([...outcomes])}`);
  });
});

function notThere(host: string): KilnError {
  return new KilnError(`${host}: no such image`, { code: 'E_MANIFEST_NOT_FOUND', category: 'registry' });
}
