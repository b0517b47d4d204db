import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { parseRate, registryOptions } from '../../src/cli/index.ts';
import { digestOf, hostPlatform, mediaTypes, parseReference } from '../../src/oci/index.ts';
import { fetchImage, RegistryClient, type RegistryOptions } from '../../src/registry/index.ts';
import { Progress, type ProgressEvent } from '../../src/support/index.ts';
import { testBlob } from '../support/blobs.ts';
import { type Exchange, type Fault, startFaultProxy } from '../support/faults.ts';
import { bodyOf, serve } from '../support/http.ts';
import { busyboxLayer, pushTestImage } from '../support/images.ts';
import { kiln, temporaryDirectory, writeFiles } from '../support/programs.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';

const { bytes: content, descriptor, open } = testBlob(randomBytes(300_000));

/** Options for images of `registry.example`, whose mirrors these are, and where warnings go. */
function withMirrors(
  mirrors: readonly string[],
  more: RegistryOptions & { readonly fallback?: boolean } = {},
): { options: RegistryOptions; warnings: string[] } {
  const progress = new Progress();
  const warnings: string[] = [];
  progress.listen((event: ProgressEvent) => {
    if (event.type === 'log' && event.level === 'warn') warnings.push(event.message);
  });
  const { fallback = false, ...options } = more;
  return {
    warnings,
    options: {
      progress,
      pullRetries: 1,
      ...options,
      registries: new Map([['registry.example', { mirrors, fallback }]]),
    },
  };
}

describe('a mirror', () => {
  let one: TestRegistry;
  let two: TestRegistry;
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  before(async () => {
    scratch = await temporaryDirectory();
    [one, two] = await Promise.all([startRegistry(), startRegistry()]);
    const layer = await busyboxLayer(scratch.path);
    await pushTestImage(scratch.path, `${one.host}/hub/team/app:1`, { layers: [layer] });
    await pushTestImage(scratch.path, `${two.host}/team/app:1`, { layers: [layer] });
    await pushTestImage(scratch.path, `${two.host}/team/app:2`, {
      layers: [layer],
      config: { Cmd: ['two'] },
    });
    await pushTestImage(scratch.path, `${two.host}/library/busybox:1`, { layers: [layer] });
  });
  after(async () => {
    for (const part of [one, two, scratch]) await part[Symbol.asyncDispose]();
  });

  /** Fetches an image with all its layers. @returns undefined when there is none. */
  async function pull(options: RegistryOptions, name: string): Promise<string | undefined> {
    await using client = new RegistryClient(options);
    const reference = parseReference(name);
    const image = await fetchImage(client, reference, hostPlatform());
    for (const layer of image?.manifest.layers ?? [])
      await bodyOf(await client.source(reference).openBlob(layer));
    return image?.descriptor.digest;
  }

  test('is asked in place of the registry, below its own path', async () => {
    const { options, warnings } = withMirrors([`${one.host}/hub`]);
    await one.clearLog();
    assert.ok(await pull(options, 'registry.example/team/app:1'));
    const log = await one.accessLog();
    assert.deepEqual([...new Set(log.map((line) => line.split('/')[3]))], ['team']);
    assert.deepEqual(
      log.filter((line) => line.startsWith('GET')).map((line) => line.replace(/sha256:\S+/, 'DIGEST')),
      [
        'GET /v2/hub/team/app/manifests/1 200',
        'GET /v2/hub/team/app/blobs/DIGEST 200',
        'GET /v2/hub/team/app/blobs/DIGEST 200',
      ],
    );
    assert.deepEqual(warnings, []);
  });

  test('that does not have an image leaves it to the next, without a warning', async () => {
    const { options, warnings } = withMirrors([`${one.host}/hub`, two.host]);
    await two.clearLog();
    assert.ok(await pull(options, 'registry.example/team/app:1'));
    assert.deepEqual(await two.accessLog(), []);
    assert.ok(await pull(options, 'registry.example/team/app:2'));
    assert.equal(await pull(options, 'registry.example/team/app:3'), undefined);
    assert.deepEqual(warnings, []);
  });

  test('that fails is passed over with one warning, and left alone for a while', async () => {
    await using broken = await serve((_request, response) => void response.writeHead(500).end());
    const { options, warnings } = withMirrors([broken.host, two.host]);
    await using client = new RegistryClient(options);
    for (const tag of ['1', '2', '1'])
      assert.ok(await fetchImage(client, parseReference(`registry.example/team/app:${tag}`), hostPlatform()));
    assert.equal(warnings.length, 1);
    assert.match(warnings[0] ?? '', new RegExp(`mirror ${broken.host} could not be used .*500`));
    // The first and one more try; a registry without mirrors is asked more patiently.
    assert.equal(broken.requests.length, 2);
  });

  test('is the only place that is asked, when that was said', async () => {
    await using broken = await serve((_request, response) => void response.writeHead(403).end());
    const only = withMirrors([two.host]);
    assert.equal(await pull(only.options, 'registry.example/nothing:1'), undefined);
    const failing = withMirrors([broken.host, two.host]);
    await assert.rejects(pull(failing.options, 'registry.example/nothing:1'), {
      code: 'E_REGISTRY_UNAUTHORIZED',
    });
    const asking = withMirrors([two.host], { fallback: true, pullRetries: 0 });
    await assert.rejects(pull(asking.options, 'registry.example/nothing:1'), {
      code: 'E_REGISTRY_UNAVAILABLE',
      message: /registry\.example/,
    });
  });

  test('gets its own credentials and nobody else’s', async () => {
    const basic = (user: string): string => `Basic ${Buffer.from(`${user}:p`).toString('base64')}`;
    await using own = await serve((_request, response) =>
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end(),
    );
    await using other = await serve((_request, response) =>
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end(),
    );
    const auths = {
      'registry.example': { username: 'registry', password: 'p' },
      [`${own.host}/hub`]: { username: 'mirror', password: 'p' },
    };
    const config = await writeFiles(`${scratch.path}/config`, { 'config.json': JSON.stringify({ auths }) });
    const { options } = withMirrors([`${own.host}/hub`, other.host], { dockerConfigDirectory: config });
    await assert.rejects(pull(options, 'registry.example/team/app:1'), { code: 'E_REGISTRY_UNAUTHORIZED' });
    const sent = (requests: typeof own.requests): unknown[] =>
      requests.map(({ headers }) => headers.authorization);
    assert.deepEqual(sent(own.requests), [undefined, basic('mirror')]);
    assert.deepEqual(sent(other.requests), [undefined]);
  });

  /** A mirror that is `one` with faults, before `two`, which has no fault. */
  async function pullThrough(
    faultFor: (exchange: Exchange) => Fault | undefined,
    use: (client: RegistryClient, warnings: string[]) => Promise<void>,
  ): Promise<void> {
    await using proxy = await startFaultProxy(one.host, faultFor);
    const { options, warnings } = withMirrors([proxy.host, two.host]);
    await using client = new RegistryClient(options);
    for (const { host } of [one, two])
      await client.repository({ registry: host, repository: 'blobs' }).uploadBlob(descriptor, open);
    await use(client, warnings);
  }

  const source = (client: RegistryClient): ReturnType<RegistryClient['source']> =>
    client.source({ registry: 'registry.example', repository: 'blobs' });

  test('that loses a blob midway is followed by the next, from there on', async () => {
    await pullThrough(
      ({ path }) => (path.includes(descriptor.digest) ? { kind: 'cut-answer', after: 20_000 } : undefined),
      async (client, warnings) => {
        await two.clearLog();
        assert.deepEqual(await bodyOf(await source(client).openBlob(descriptor)), content);
        assert.equal(warnings.length, 1);
        assert.match((await two.accessLog()).join(), /GET .* 206/);
      },
    );
  });

  test('that sends wrong content is found out, and not asked again', async () => {
    await pullThrough(
      ({ path }) => (path.includes(descriptor.digest) ? { kind: 'alter-answer', at: 5 } : undefined),
      async (client, warnings) => {
        await assert.rejects(bodyOf(await source(client).openBlob(descriptor)), { code: 'E_BLOB_CORRUPT' });
        assert.match(warnings.join(), /could not be used .* is damaged/);
        assert.deepEqual(await bodyOf(await source(client).openBlob(descriptor)), content);
        assert.deepEqual(Buffer.from(await source(client).readBlob(descriptor, 1_000_000)), content);
      },
    );
  });

  test('that lies about a document of known digest is passed over at once', async () => {
    const manifest = Buffer.from(
      JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] }),
    );
    await pullThrough(
      ({ path }) => (path.includes('sha256:') ? { kind: 'alter-answer', at: 5 } : undefined),
      async (client) => {
        for (const { host } of [one, two])
          await client
            .repository({ registry: host, repository: 'blobs' })
            .putManifest('1', mediaTypes.ociIndex, manifest);
        const found = await source(client).getManifest(digestOf(manifest));
        assert.deepEqual(Buffer.from(found?.bytes ?? []), manifest);
        assert.deepEqual(Buffer.from(await source(client).readBlob(descriptor, 1_000_000)), content);
      },
    );
  });

  test('is where blobs may be mounted from', async () => {
    const { options } = withMirrors([`${one.host}/hub`, two.host], { fallback: true });
    await using client = new RegistryClient(options);
    assert.deepEqual(client.places({ registry: 'registry.example', repository: 'x' }), [
      { registry: one.host, repository: 'hub/x' },
      { registry: two.host, repository: 'x' },
      { registry: 'registry.example', repository: 'x' },
    ]);
  });

  test('of Docker Hub gives a build its base, and the push goes elsewhere', async () => {
    const context = await writeFiles(`${scratch.path}/context`, {
      Dockerfile: 'FROM busybox:1\nRUN echo built > /built\n',
    });
    const build = (env: Record<string, string>, ...args: string[]): ReturnType<typeof kiln> =>
      kiln(
        'executor',
        [
          ...[
            '--context',
            context,
            '--cache-dir',
            `${scratch.path}/volume`,
            '--skip-default-registry-fallback',
          ],
          ...['--destination', `${one.host}/built:1`, ...args],
        ],
        { env },
      );
    await one.clearLog();
    const byFlag = await build({}, '--registry-mirror', two.host);
    assert.equal(byFlag.code, 0, byFlag.stderr);
    assert.ok(!(await one.accessLog()).some((line) => line.includes('busybox')));
    const missing = await build({ KANIKO_REGISTRY_MIRROR: one.host }, '--cache-dir', `${scratch.path}/other`);
    assert.match(missing.messages, /E_BASE_NOT_FOUND/);
    const map = `gcr.io=${one.host};index.docker.io=${two.host}`;
    const byMap = await build({ KILN_REGISTRY_MAP: map }, '--cache-dir', `${scratch.path}/third`);
    assert.equal(byMap.code, 0, byMap.stderr);
  });
});

describe('the flags', () => {
  const flags = {
    insecurePull: false,
    insecureRegistry: [],
    skipTlsVerifyPull: false,
    skipTlsVerifyRegistry: [],
    registryCertificate: [],
    registryClientCert: [],
    registryMirror: [],
    registryMap: [],
    credentialHelpers: [],
    skipDefaultRegistryFallback: false,
  };

  test('give maps in their order, and mirrors of Docker Hub after its maps', () => {
    const { registries } = registryOptions(
      {
        ...flags,
        registryMirror: ['m1', 'm2/path'],
        registryMap: ['index.docker.io=a;docker.io=b', 'gcr.io=127.0.0.1'],
        insecureRegistry: ['gcr.io'],
        registryCertificate: ['x.example:5000=/ca.crt'],
        registryClientCert: ['x.example:5000=/c.crt,/c.key'],
      },
      new Progress(),
    );
    assert.deepEqual(Object.fromEntries(registries ?? []), {
      'docker.io': { mirrors: ['a', 'b', 'm1', 'm2/path'] },
      'gcr.io': { insecure: true, mirrors: ['127.0.0.1'] },
      'x.example:5000': {
        certificate: '/ca.crt',
        clientCertificate: { certificate: '/c.crt', key: '/c.key' },
      },
    });
  });

  test('give retries, a size of chunks and a bandwidth', () => {
    const { pullRetries, pushRetries, chunkSize, bytesPerSecond } = registryOptions(
      {
        ...flags,
        imageDownloadRetry: 0,
        pushRetry: 9,
        pushChunkSize: 1_000_000,
        bandwidth: parseRate('20MB/s'),
      },
      new Progress(),
    );
    assert.deepEqual([pullRetries, pushRetries, chunkSize, bytesPerSecond], [0, 9, 1_000_000, 20_000_000]);
    for (const wrong of ['0', '20MB/h', 'fast']) assert.throws(() => parseRate(wrong), { code: 'E_USAGE' });
  });

  for (const [what, given] of [
    ['a map without =', { registryMap: ['gcr.io'] }],
    ['a map to nothing', { registryMap: ['gcr.io='] }],
    ['a certificate without host', { registryCertificate: ['/ca.crt'] }],
    ['a client certificate without key', { registryClientCert: ['x=/c.crt'] }],
    ['a client certificate with too much', { registryClientCert: ['x=a,b,c'] }],
  ] as const)
    test(`refuse ${what}`, () => {
      assert.throws(() => registryOptions({ ...flags, ...given }, new Progress()), {
        code: 'E_USAGE',
        remedy: /^Write it as --registry-/,
      });
    });

  for (const mirror of ['', 'http://', 'a b', 'user@host', 'host/UPPER', 'host/a//b', 'host?x', 'ftp://host'])
    test(`refuse the mirror "${mirror}"`, () => {
      assert.throws(() => new RegistryClient(withMirrors([mirror]).options), { code: 'E_MIRROR_INVALID' });
    });
});
