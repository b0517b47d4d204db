import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { pushAll, pushError, type PushOutcome } from '../../executor/export/push.ts';
import type { Pushable } from '../../executor/export/pushable.ts';
import { formatReference, mediaTypes, parseReference } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { KilnError, Progress } from '../../src/support/index.ts';
import { testBlob } from '../support/blobs.ts';
import { type Exchange, type Fault, startFaultProxy } from '../support/faults.ts';
import { SeededRandom } from '../support/random.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';

/** An image of a seed's own. */
function imageOf(seed: number): Pushable {
  const random = new SeededRandom(seed);
  const layers = [1, 2].map(() => testBlob(random.bytes(50_000), mediaTypes.ociLayerGzip));
  const config = testBlob(Buffer.from(`{"seed":${seed}}`), mediaTypes.ociConfig);
  const manifest = testBlob(
    Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: mediaTypes.ociManifest,
        config: config.descriptor,
        layers: layers.map(({ descriptor }) => descriptor),
      }),
    ),
    mediaTypes.ociManifest,
  );
  return {
    blobs: [...layers, config].map(({ descriptor, open }) => ({ descriptor, open, origins: [] })),
    children: [],
    root: manifest,
  };
}

let one: TestRegistry;
let two: TestRegistry;
let client: RegistryClient;
before(async () => {
  [one, two] = await Promise.all([startRegistry(), startRegistry()]);
  client = new RegistryClient({ pushRetries: 0 });
});
after(async () => {
  await client[Symbol.asyncDispose]();
  await Promise.all([one, two].map((registry) => registry[Symbol.asyncDispose]()));
});

const quiet = { ignoreImmutableTags: false, progress: new Progress() };

function push(image: Pushable, names: readonly string[], options = quiet): Promise<PushOutcome[]> {
  return pushAll(client, image, names.map(parseReference), options);
}

const kindsOf = (outcomes: readonly PushOutcome[]): string[] =>
  outcomes.map(({ destination, kind }) => `${kind} ${formatReference(destination)}`);

async function digestAt(name: string): Promise<string | undefined> {
  const reference = parseReference(name);
  return (await client.repository(reference).headManifest(reference.tag ?? ''))?.digest;
}

describe('a push to several destinations', () => {
  test('uploads each blob once to each registry, and mounts it in its other repositories', async () => {
    const image = imageOf(1);
    const names = [
      `${one.host}/a:1`,
      `${two.host}/a:1`,
      `${one.host}/b:1`,
      `${one.host}/b:2`,
      `${two.host}/c/d:1`,
    ];
    await Promise.all([one.clearLog(), two.clearLog()]);
    const outcomes = await push(image, names);
    assert.deepEqual(
      kindsOf(outcomes),
      names.map((name) => `pushed ${name}`),
    );
    for (const name of names) assert.equal(await digestAt(name), image.root.descriptor.digest);
    for (const [registry, first] of [
      [one, 'a'],
      [two, 'a'],
    ] as const) {
      const log = await registry.accessLog();
      const uploaded = log.filter((line) => /^PUT \/v2\/.*\/blobs\/uploads\/.* 201$/.test(line));
      assert.equal(uploaded.length, image.blobs.length, uploaded.join('\n'));
      assert.ok(uploaded.every((line) => line.startsWith(`PUT /v2/${first}/`)));
      const mounted = log.filter((line) => /^POST .*mount=.*from=a.* 201$/.test(line));
      assert.equal(mounted.length, image.blobs.length, log.join('\n'));
    }
  });

  test('of which one fails says which were pushed and which not', async () => {
    const image = imageOf(2);
    await using proxy = await startFaultProxy(two.host, () => ({ kind: 'answer', status: 503 }));
    const names = [`${one.host}/good:1`, `${proxy.host}/bad:1`, `${proxy.host}/bad:2`, `${one.host}/fine:1`];
    const outcomes = await push(image, names);
    assert.deepEqual(
      outcomes.map(({ kind }) => kind),
      ['pushed', 'failed', 'failed', 'pushed'],
    );
    const error = pushError(outcomes);
    assert.ok(error instanceof KilnError);
    assert.equal(error.code, 'E_PUSH_INCOMPLETE');
    assert.equal(error.category, 'registry');
    assert.ok(
      error.message.startsWith(
        `not pushed to ${names[1] ?? ''}, ${names[2] ?? ''}; pushed to ${names[0] ?? ''}, ${names[3] ?? ''}: `,
      ),
      error.message,
    );
    assert.match(error.message, /answered 503/);
    assert.equal(error.message.split('answered 503').length, 2, 'each reason once');
    assert.equal(await digestAt(`${one.host}/fine:1`), image.root.descriptor.digest);
    assert.equal(await digestAt(`${two.host}/bad:1`), undefined);
  });

  test('whose first repository is refused uploads to the next', async () => {
    const image = imageOf(3);
    const denied = (exchange: Exchange): Fault | undefined =>
      exchange.path.startsWith('/v2/closed/') ? { kind: 'answer', status: 403 } : undefined;
    await using proxy = await startFaultProxy(one.host, denied);
    const outcomes = await push(image, [`${proxy.host}/closed:1`, `${proxy.host}/open:1`]);
    assert.deepEqual(
      outcomes.map(({ kind }) => kind),
      ['failed', 'pushed'],
    );
    assert.equal(await digestAt(`${one.host}/open:1`), image.root.descriptor.digest);
    const [failed] = outcomes;
    assert.ok(failed?.kind === 'failed' && failed.error instanceof KilnError);
    assert.equal(failed.error.code, 'E_REGISTRY_UNAUTHORIZED');
    // Alone, the error is the registry's own.
    assert.equal(pushError([failed]), failed.error);
  });

  test('puts what an index refers to before it', async () => {
    const { blobs, root } = imageOf(4);
    const index = testBlob(
      Buffer.from(
        JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [root.descriptor] }),
      ),
      mediaTypes.ociIndex,
    );
    const name = `${one.host}/index:1`;
    assert.deepEqual(kindsOf(await push({ blobs, children: [root], root: index }, [name])), [
      `pushed ${name}`,
    ]);
    assert.equal(await digestAt(name), index.descriptor.digest);
  });

  test('that is aborted ends at once, for its reason', async () => {
    const controller = new AbortController();
    const reason = new Error('no longer wanted');
    await using proxy = await startFaultProxy(one.host, () => {
      controller.abort(reason);
      return { kind: 'delay', milliseconds: 2000 };
    });
    const started = performance.now();
    const pushed = pushAll(
      client,
      imageOf(5),
      [parseReference(`${proxy.host}/x:1`)],
      quiet,
      controller.signal,
    );
    await assert.rejects(pushed, reason);
    assert.ok(performance.now() - started < 1500);
  });
});

/** What registries answer that let nobody change a tag. */
const answers: readonly [string, number, unknown][] = [
  [
    'Amazon ECR',
    400,
    errors(
      'TAG_INVALID',
      "The image tag '1' already exists in the 'x' repository and cannot be overwritten because the tag is immutable.",
    ),
  ],
  [
    'Google Artifact Registry',
    400,
    errors('DENIED', 'The repository has enabled tag immutability, the tag 1 already exists'),
  ],
  ['Harbor', 412, errors('PRECONDITION', "Failed to process request due to 'x:1' configured as immutable.")],
  ['Docker Hub', 403, errors('DENIED', 'the tag 1 is immutable')],
  ['Quay', 409, errors('TAG_IMMUTABLE', 'Cannot overwrite the tag')],
  ['GitLab', 403, errors('DENIED', 'pushing to immutable tag "1" is denied')],
  ['Nexus', 400, errors('UNKNOWN', 'Repository does not allow updating assets: docker')],
];

function errors(code: string, message: string): unknown {
  return { errors: [{ code, message }] };
}

describe('a tag that cannot be changed', () => {
  for (const [registry, status, body] of answers)
    test(`is told apart at ${registry}, and left when that was said`, async () => {
      const fault: Fault = {
        kind: 'answer',
        status,
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      };
      await using proxy = await startFaultProxy(one.host, ({ method, path }) =>
        method === 'PUT' && path.endsWith('/manifests/1') ? fault : undefined,
      );
      const image = imageOf(100 + status);
      const repository = `fixed-${registry.toLowerCase().replaceAll(' ', '-')}`;
      const name = `${proxy.host}/${repository}:1`;
      const [refused] = await push(image, [name]);
      assert.ok(refused?.kind === 'failed' && refused.error instanceof KilnError);
      assert.equal(refused.error.code, 'E_TAG_IMMUTABLE');

      const warnings: string[] = [];
      const progress = new Progress();
      progress.listen((event) => event.type === 'log' && warnings.push(event.message));
      assert.deepEqual(kindsOf(await push(image, [name], { ignoreImmutableTags: true, progress })), [
        `left ${name}`,
      ]);
      assert.match(warnings.join('\n'), /stays as it is/);
      // Who is told the digest finds the image.
      const { digest } = image.root.descriptor;
      const there = client.repository({ registry: one.host, repository });
      assert.equal((await there.headManifest(digest))?.digest, digest);

      // Pushed once more, it is what the tag is of.
      await push(image, [`${one.host}/${repository}:1`]);
      assert.deepEqual(kindsOf(await push(image, [name])), [`pushed ${name}`]);
    });

  test('is not what any other refusal is about', async () => {
    await using proxy = await startFaultProxy(one.host, ({ method }) =>
      method === 'PUT'
        ? { kind: 'answer', status: 403, body: JSON.stringify(errors('DENIED', 'requested access denied')) }
        : undefined,
    );
    const options = { ...quiet, ignoreImmutableTags: true };
    const [outcome] = await push({ ...imageOf(6), blobs: [] }, [`${proxy.host}/x:1`], options);
    assert.ok(outcome?.kind === 'failed' && outcome.error instanceof KilnError);
    assert.equal(outcome.error.code, 'E_REGISTRY_UNAUTHORIZED');
  });
});
