import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { RegistryClient, type RegistryOptions } from '../../src/registry/index.ts';
import { proxyFor } from '../../src/registry/http/proxies.ts';
import { testBlob } from '../support/blobs.ts';
import { type KeyPair, TestAuthority } from '../support/certificates.ts';
import { bodyOf, serve } from '../support/http.ts';
import { kiln, temporaryDirectory, writeFiles } from '../support/programs.ts';
import { startProxy, type TestProxy } from '../support/proxy.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';

const { bytes: content, descriptor, open } = testBlob(randomBytes(300_000));

/** The same server by an address that does not count as this machine's, though it is. */
function fromOutside(host: string): string {
  return host.replace('127.0.0.1', '0.0.0.0');
}

/** Pushes a blob and reads it back. */
async function use(registry: string, options: RegistryOptions): Promise<void> {
  await using client = new RegistryClient(options);
  const repository = client.repository({ registry, repository: 'x' });
  await repository.uploadBlob(descriptor, open);
  const source = client.source({ registry, repository: 'x' });
  assert.deepEqual(await bodyOf(await source.openBlob(descriptor)), content);
}

describe('certificates', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let authority: TestAuthority;
  let stranger: TestAuthority;
  let ours: KeyPair;
  let registry: TestRegistry;
  let strict: TestRegistry;
  before(async () => {
    directory = await temporaryDirectory();
    authority = await TestAuthority.create(directory.path);
    stranger = await TestAuthority.create(directory.path, 'stranger');
    ours = await authority.issue('client');
    const server = await authority.issue('server');
    registry = await startRegistry({ tls: server });
    strict = await startRegistry({
      tls: { ...server, clients: { authority: authority.certificate, pair: ours } },
    });
  });
  after(async () => {
    await registry[Symbol.asyncDispose]();
    await strict[Symbol.asyncDispose]();
    await directory[Symbol.asyncDispose]();
  });

  const settings = (host: string, more: object): RegistryOptions => ({
    registries: new Map([[host, more]]),
    pullRetries: 0,
    pushRetries: 0,
  });

  test('that nobody vouches for are refused, and the error names the flag', async () => {
    const host = fromOutside(registry.host);
    for (const options of [{}, settings(host, { certificate: stranger.certificate })])
      await assert.rejects(use(host, options), {
        code: 'E_REGISTRY_CERTIFICATE',
        message: `the certificate of ${host} is not trusted`,
        remedy: `Give the certificate of its authority: --registry-certificate ${host}=FILE.`,
      });
  });

  test('of an authority that was given are trusted, for that registry only', async () => {
    const host = fromOutside(registry.host);
    await use(host, settings(host, { certificate: authority.certificate }));
    await assert.rejects(use(host, settings('other.example', { certificate: authority.certificate })), {
      code: 'E_REGISTRY_CERTIFICATE',
    });
  });

  test('are not asked about where that was said', async () => {
    const host = fromOutside(registry.host);
    await use(host, settings(host, { skipTlsVerify: true }));
    await use(host, settings(host, { insecure: true }));
    await use(host, { skipTlsVerify: true });
    await use(host, { insecure: true, insecurePull: true });
    await assert.rejects(use(host, { skipTlsVerifyPull: true }), { code: 'E_REGISTRY_CERTIFICATE' });
  });

  test('of ours are shown to a registry that wants them', async () => {
    const { host } = strict;
    const certificate = authority.certificate;
    await use(host, settings(host, { certificate, clientCertificate: ours }));
    await assert.rejects(use(host, settings(host, { certificate })), {
      code: /^E_REGISTRY_(?:CERTIFICATE|UNAVAILABLE)$/,
      remedy: /--registry-client-cert/,
    });
  });

  test('that cannot be read are an error that names the file', async () => {
    const { host } = registry;
    await writeFile(join(directory.path, 'nonsense'), 'nonsense');
    for (const [more, name] of [
      [{ certificate: '/nowhere/ca.crt' }, '/nowhere/ca.crt'],
      [{ clientCertificate: { certificate: ours.certificate, key: '/nowhere/key' } }, '/nowhere/key'],
      [{ clientCertificate: { certificate: join(directory.path, 'nonsense'), key: ours.key } }, 'nonsense'],
    ] as const)
      await assert.rejects(use(host, settings(host, more)), {
        code: 'E_CERTIFICATE_FILE',
        message: new RegExp(name),
      });
  });

  test('of the machine’s own store are trusted', async () => {
    // Only a process of its own reads another store.
    const host = fromOutside(registry.host);
    const context = await writeFiles(join(directory.path, 'context'), {
      Dockerfile: `FROM ${host}/nothing:1\n`,
    });
    const args = ['--context', context, '--cache-dir', join(directory.path, 'volume')];
    const trusting = { SSL_CERT_FILE: authority.certificate, SSL_CERT_DIR: '/nonexistent' };
    assert.match((await kiln('executor', args)).messages, /E_REGISTRY_CERTIFICATE/);
    assert.match((await kiln('executor', args, { env: trusting })).messages, /E_BASE_NOT_FOUND/);
  });
});

describe('without encryption', () => {
  let registry: TestRegistry;
  before(async () => {
    registry = await startRegistry();
  });
  after(() => registry[Symbol.asyncDispose]());

  test('a registry of this machine is spoken to, and others only where that was said', async () => {
    await use(registry.host, {});
    const host = fromOutside(registry.host);
    await assert.rejects(use(host, { pushRetries: 0 }), {
      code: 'E_REGISTRY_UNAVAILABLE',
      message: `the registry ${host} does not speak HTTPS`,
      remedy: `If it is meant to speak plain HTTP: --insecure-registry ${host}.`,
    });
    await use(host, { registries: new Map([[host, { insecure: true }]]) });
    await use(host, { insecure: true, insecurePull: true });
    await assert.rejects(use(host, { insecurePull: true, pushRetries: 0 }), {
      code: 'E_REGISTRY_UNAVAILABLE',
    });
    await assert.rejects(use(host, { insecure: true, pullRetries: 0 }), { code: 'E_REGISTRY_UNAVAILABLE' });
  });

  test('credentials are not sent to a token server of a registry that has encryption', async () => {
    await using directory = await temporaryDirectory();
    const authority = await TestAuthority.create(directory.path);
    await using tokens = await serve((_request, response) => void response.end('{"token":"x"}'));
    await using secure = await startRegistry({
      tls: await authority.issue('server'),
      tokens: {
        realm: `http://${tokens.host}/token`,
        service: 's',
        issuer: 'i',
        certificate: authority.certificate,
      },
    });
    await assert.rejects(use(secure.host, {}), {
      code: 'E_REGISTRY_UNAUTHORIZED',
      message: /without encryption/,
    });
    assert.equal(tokens.requests.length, 0);
  });
});

describe('through a proxy', () => {
  let proxy: TestProxy;
  let guarded: TestProxy;
  let registry: TestRegistry;
  let secure: TestRegistry;
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  before(async () => {
    directory = await temporaryDirectory();
    proxy = await startProxy();
    guarded = await startProxy({ user: 'u', password: 'p' });
    registry = await startRegistry();
    const authority = await TestAuthority.create(directory.path);
    secure = await startRegistry({ tls: await authority.issue('server') });
  });
  after(async () => {
    for (const part of [proxy, guarded, registry, secure, directory]) await part[Symbol.asyncDispose]();
  });

  const options = (environment: Record<string, string>): RegistryOptions => ({
    insecure: true,
    insecurePull: true,
    pullRetries: 1,
    pushRetries: 1,
    environment,
  });

  test('registries are reached with and without encryption', async () => {
    const plain = fromOutside(registry.host);
    const encrypted = fromOutside(secure.host);
    const environment = { HTTP_PROXY: `http://${proxy.host}`, https_proxy: proxy.host };
    await use(plain, options(environment));
    await use(encrypted, options(environment));
    const requests = await proxy.requests();
    assert.ok(
      requests.includes(`PUT`) || requests.some((line) => line.startsWith(`GET http://${plain}/v2/`)),
    );
    assert.ok(requests.includes(`CONNECT ${encrypted}`), requests.join('\n'));
  });

  test('a password for it is used, and its lack is one clear error', async () => {
    const through = (login: string): RegistryOptions =>
      options({ HTTP_PROXY: `${login}${guarded.host}`, HTTPS_PROXY: `${login}${guarded.host}` });
    await use(fromOutside(registry.host), through('http://u:p@'));
    const host = fromOutside(secure.host);
    await use(host, through('http://u:p@'));
    const wrong = { ...through('http://u:wrong@'), insecure: false, skipTlsVerify: true };
    await assert.rejects(use(host, wrong), (error: Error & { code?: string }) => {
      assert.equal(error.code, 'E_PROXY_REFUSED');
      assert.match(error.message, /^the proxy 127\.0\.0\.1:[0-9]+ refuses connections to .* \(40[17]\)$/);
      assert.doesNotMatch(error.message, /wrong/);
      return true;
    });
  });

  test('this machine and what NO_PROXY covers are not reached', async () => {
    const before = (await proxy.requests()).length;
    const environment = { HTTP_PROXY: proxy.host, HTTPS_PROXY: proxy.host };
    await use(registry.host, options(environment));
    await use(fromOutside(registry.host), options({ ...environment, NO_PROXY: 'x.example, 0.0.0.0/8' }));
    assert.equal((await proxy.requests()).length, before);
  });
});

describe('NO_PROXY', () => {
  const proxied = (url: string, exceptions: string): boolean =>
    proxyFor(new URL(url), {
      https_proxy: 'proxy.example:3128',
      HTTP_PROXY: 'proxy.example',
      no_proxy: exceptions,
    }) !== undefined;

  for (const [exceptions, url, expected] of [
    ['', 'https://registry.example/', true],
    ['*', 'https://registry.example/', false],
    ['registry.example', 'https://registry.example/', false],
    ['registry.example', 'https://a.registry.example/', false],
    ['registry.example', 'https://myregistry.example/', true],
    ['.example', 'https://registry.example/', false],
    ['.registry.example', 'https://registry.example/', true],
    ['*.registry.example', 'https://a.registry.example/', false],
    ['REGISTRY.example', 'https://registry.EXAMPLE/', false],
    ['registry.example:443', 'https://registry.example/', false],
    ['registry.example:5000', 'https://registry.example/', true],
    ['registry.example:5000', 'http://registry.example:5000/', false],
    ['10.0.0.0/8', 'https://10.1.2.3:5000/', false],
    ['10.0.0.0/8', 'https://11.1.2.3:5000/', true],
    ['10.0.0.0/33', 'https://10.1.2.3/', true],
    ['10.1.2.3', 'https://10.1.2.3:5000/', false],
    ['10.1.2.3:5000', 'https://10.1.2.3:5001/', true],
    ['fd00::/8', 'https://[fd12::1]:5000/', false],
    ['fd00::/8', 'https://[fe80::1]/', true],
    ['[fd12::1]:5000', 'https://[fd12::1]:5000/', false],
    ['fd12::1', 'https://[fd12::1]:5000/', false],
    ['a.example , b.example,\tc.example', 'https://c.example/', false],
    ['', 'https://localhost:5000/', false],
    ['', 'http://127.1.2.3/', false],
    ['', 'http://[::1]:5000/', false],
  ] as const)
    test(`"${exceptions}" ${expected ? 'does not cover' : 'covers'} ${url}`, () => {
      assert.equal(proxied(url, exceptions), expected);
    });

  test('is not needed where there is no proxy, and a proxy must have an address', () => {
    const url = new URL('https://registry.example');
    assert.equal(proxyFor(url, { HTTPS_PROXY: '', http_proxy: 'proxy.example' }), undefined);
    assert.equal(proxyFor(url, { HTTPS_PROXY: '', https_proxy: 'p.example' })?.href, 'http://p.example/');
    assert.equal(proxyFor(url, { HTTPS_PROXY: 'https://p.example:8443' })?.href, 'https://p.example:8443/');
    for (const wrong of ['ftp://p.example', 'http://', 'u:secret@ host'])
      assert.throws(
        () => proxyFor(url, { HTTPS_PROXY: wrong }),
        (error: Error & { code?: string }) => {
          assert.equal(error.code, 'E_PROXY_INVALID');
          assert.doesNotMatch(error.message, /secret/);
          return true;
        },
      );
  });
});
