import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { Progress } from '../../src/support/index.ts';
import { parseListenAddress } from '../../warmer/daemon/listen-address.ts';
import type { PullRecord, WarmingStatus } from '../../warmer/daemon/types.ts';
import { WebServer } from '../../warmer/daemon/web-server.ts';
import { busyStatus } from '../support/busy-status.ts';
import { checkMetrics, type MetricFamily } from '../support/check-metrics.ts';
import { FakeWarming, fakeImage, fakeStatus } from '../support/warming.ts';
import { openWebServer, type TestWeb } from '../support/web.ts';

interface Web extends TestWeb {
  get(path: string, headers?: Readonly<Record<string, string>>, method?: string): Promise<Answer>;
}

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Buffer;
  readonly text: string;
}

async function openWeb(options?: Parameters<typeof openWebServer>[0]): Promise<Web> {
  const web = await openWebServer(options);
  return { ...web, get: (path, headers = {}, method = 'GET') => ask(web.port, path, headers, method) };
}

function ask(
  port: number,
  path: string,
  headers: Readonly<Record<string, string>>,
  method: string,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      { host: '127.0.0.1', port, path, method, headers, agent: false },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('end', () => {
          const body = Buffer.concat(chunks);
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body,
            text: body.toString('utf8'),
          });
        });
        response.on('error', reject);
      },
    );
    request.on('error', reject).end();
  });
}

function pull(part: Partial<PullRecord>): PullRecord {
  return {
    reference: 'docker.io/library/debian:12',
    platform: 'linux/amd64',
    registry: 'docker.io',
    outcome: 'pulled',
    reason: 'schedule',
    startedAt: new Date(),
    seconds: 3,
    bytes: 1000,
    ...part,
  };
}

const notReady: Partial<WarmingStatus> = {
  ready: false,
  checks: [
    { name: 'volume', ok: true, detail: 'writable' },
    { name: 'images', ok: false, detail: '3 of 5 are warm' },
  ],
};

describe('the probes', () => {
  test('say ready when the daemon is, and otherwise which check fails', async () => {
    await using web = await openWeb();
    const ready = await web.get('/readyz');
    assert.deepEqual([ready.status, ready.text], [200, 'ok']);
    await using other = await openWeb();
    other.warming.current = fakeStatus(notReady);
    const answer = await other.get('/readyz');
    assert.equal(answer.status, 503);
    assert.equal(
      answer.text,
      '[+]volume ok: writable\n[-]images failed: 3 of 5 are warm\nreadyz check failed\n',
    );
  });

  test('name each check when they are asked to', async () => {
    await using web = await openWeb();
    const answer = await web.get('/readyz?verbose');
    assert.equal(answer.status, 200);
    assert.match(answer.text, /^\[\+\]configuration ok: .*\n(?:\[\+\].*\n)+readyz check passed\n$/);
    for (const path of ['/livez', '/healthz', '/startupz'])
      assert.match((await web.get(`${path}?verbose`)).text, /\[\+\]daemon ok/);
  });

  test('do not restart a daemon whose registry is down, and keep it ready when its volume is warm', async () => {
    await using web = await openWeb();
    web.warming.current = fakeStatus({
      images: [
        fakeImage('docker.io/library/debian:12', {
          phase: 'failed',
          failures: 9,
          lastError: { code: 'E_REGISTRY_UNAVAILABLE', message: 'down', at: new Date() },
        }),
      ],
    });
    for (const path of ['/livez', '/readyz', '/healthz', '/startupz'])
      assert.equal((await web.get(path)).status, 200, path);
  });

  test('keep a daemon alive that is not ready, and one that cannot say how it is', async () => {
    await using web = await openWeb();
    web.warming.current = fakeStatus(notReady);
    assert.equal((await web.get('/livez')).status, 200);
    await using broken = await openWeb();
    broken.warming.status = () => Promise.reject(new Error('the volume cannot be read'));
    assert.equal((await broken.get('/livez')).status, 200);
    assert.equal((await broken.get('/readyz')).status, 503);
    assert.equal((await broken.get('/startupz')).status, 503);
    const page = await broken.get('/');
    assert.equal(page.status, 503);
    assert.match(page.text, /the volume cannot be read/);
  });

  test('take a daemon that is stuck for dead', async () => {
    await using web = await openWeb({ patience: 50 });
    web.warming.status = () => new Promise(() => undefined);
    assert.equal((await web.get('/livez')).status, 503);
    assert.equal((await web.get('/readyz')).status, 503);
    assert.equal((await web.get('/metrics')).status, 200, 'counters are told all the same');
  });

  test('look at the daemon once however many ask', async () => {
    await using web = await openWeb();
    let looks = 0;
    const status = web.warming.status.bind(web.warming);
    web.warming.status = () => {
      looks += 1;
      return status();
    };
    await Promise.all(Array.from({ length: 50 }, () => web.get('/readyz')));
    assert.equal(looks, 1);
  });
});

describe('the metrics', () => {
  const value = (
    families: ReadonlyMap<string, MetricFamily>,
    name: string,
    labels = '',
  ): number | undefined => families.get(name)?.samples.get(`${name}${labels}`);

  test('count what the daemon does and measure how it is', async () => {
    await using web = await openWeb({ leases: () => 2 });
    const { warming } = web;
    warming.current = fakeStatus({
      images: [
        fakeImage('docker.io/library/debian:12', { size: 100, checkedAt: new Date(Date.now() - 60_000) }),
        fakeImage('docker.io/library/node:24', { size: 50, phase: 'pulling' }),
        fakeImage('docker.io/library/old@sha256:x', {
          size: 1,
          checkedAt: new Date(0),
          nextRefreshAt: undefined,
        }),
      ],
      builds: [{ build: 'b', label: 'l', images: [], since: new Date() }],
      configuration: { ...fakeStatus().configuration, rejected: { at: new Date(), message: 'line 3' } },
    });
    warming.emit({ type: 'pull', record: pull({}) });
    warming.emit({ type: 'pull', record: pull({ outcome: 'rate_limited', bytes: 0 }) });
    warming.emit({ type: 'request', result: 'joined' });
    warming.report({
      build: 'b',
      succeeded: true,
      seconds: 1,
      bases: [
        { reference: 'a', platform: 'linux/amd64', outcome: 'warm' },
        { reference: 'b', platform: 'linux/amd64', outcome: 'cold' },
      ],
      steps: { cached: 5, ran: 2 },
    });
    warming.emit({
      type: 'prune',
      result: 'done',
      reclaimedBytes: 77,
      skipped: { in_use: 1, pinned: 2, too_young: 0 },
    });
    warming.emit({ type: 'reload', accepted: false, message: 'line 3' });
    const answer = await web.get('/metrics');
    assert.match(String(answer.headers['content-type']), /^text\/plain; version=0\.0\.4/);
    const families = checkMetrics(answer.text);
    const expected: [string, string, number][] = [
      ['kiln_warm_pulls_total', '{registry="docker.io",result="pulled"}', 1],
      ['kiln_warm_pulls_total', '{registry="docker.io",result="rate_limited"}', 1],
      ['kiln_warm_pulls_total', '{registry="docker.io",result="failed"}', 0],
      ['kiln_warm_pull_bytes_total', '{registry="docker.io"}', 1000],
      ['kiln_warm_images', '{state="warm"}', 2],
      ['kiln_warm_images', '{state="pulling"}', 1],
      ['kiln_warm_images', '{state="failed"}', 0],
      ['kiln_warm_images_bytes', '', 151],
      ['kiln_ensure_requests_total', '{result="joined"}', 1],
      ['kiln_cache_requests_total', '{store="base",result="hit"}', 1],
      ['kiln_cache_requests_total', '{store="base",result="miss"}', 1],
      ['kiln_cache_requests_total', '{store="layer",result="hit"}', 5],
      ['kiln_cache_requests_total', '{store="layer",result="miss"}', 2],
      ['kiln_builds_total', '{result="succeeded"}', 1],
      ['kiln_gc_runs_total', '{result="done"}', 1],
      ['kiln_gc_reclaimed_bytes_total', '', 77],
      ['kiln_gc_skipped_total', '{reason="pinned"}', 2],
      ['kiln_config_last_reload_successful', '', 0],
      ['kiln_config_reloads_total', '{result="rejected"}', 1],
      ['kiln_volume_used_bytes', '', 34e9],
      ['kiln_volume_free_bytes', '', 48e9],
      ['kiln_leases_active', '', 2],
      ['kiln_builds_active', '', 1],
      ['kiln_ready', '', 1],
    ];
    for (const [name, labels, wanted] of expected)
      assert.equal(value(families, name, labels), wanted, `${name}${labels}`);
    const age = value(families, 'kiln_warm_oldest_refresh_age_seconds') ?? 0;
    assert.ok(age >= 600 - 1 && age < 700, `the digest, which is never refreshed, does not count: ${age}`);
    assert.equal(
      families.get('kiln_warm_pull_duration_seconds')?.samples.get('kiln_warm_pull_duration_seconds_count'),
      1,
    );
    assert.match([...(families.get('kiln_build_info')?.samples.keys() ?? [])].join(), /version="0\.1\.0"/);
  });

  test('name no image and no build, and no more registries than a bound', async () => {
    await using web = await openWeb();
    web.warming.current = busyStatus(60);
    for (let index = 0; index < 500; index++)
      web.warming.emit({
        type: 'pull',
        record: pull({ registry: `evil-${index}.example`, reference: `evil-${index}.example/secret:1` }),
      });
    const { text } = await web.get('/metrics');
    const families = checkMetrics(text);
    assert.doesNotMatch(text, /secret|debian|service-0/);
    assert.equal(value(families, 'kiln_warm_pulls_total', '{registry="other",result="pulled"}'), 450);
    assert.ok([...families.values()].every(({ samples }) => samples.size <= 300));
  });

  test('are all described in the documentation, with their type and labels, and no others', async () => {
    await using web = await openWeb();
    web.warming.current = fakeStatus({ images: [fakeImage('docker.io/library/debian:12')] });
    web.warming.emit({ type: 'pull', record: pull({}) });
    const families = checkMetrics((await web.get('/metrics')).text);
    const page = await readFile(join(import.meta.dirname, '../../docs/metrics.md'), 'utf8');
    const described = new Map(
      [...page.matchAll(/^\| `(kiln_[a-z_]+)` *\| (\w+) *\|([^|]*)\|/gm)].map(
        ([, name = '', type, labels = '']) => [
          name,
          `${type ?? ''} ${[...labels.matchAll(/`(\w+)`/g)]
            .map(([, label]) => label)
            .sort()
            .join()}`,
        ],
      ),
    );
    const found = new Map(
      [...families].flatMap(([name, { type, labels }]) =>
        name.startsWith('kiln_') ? [[name, `${type} ${[...labels].sort().join()}`]] : [],
      ),
    );
    assert.deepEqual([...described].sort(), [...found].sort());
  });
});

describe('the status', () => {
  test('is the daemon’s own as JSON, with a tag to ask for changes by', async () => {
    await using web = await openWeb();
    web.warming.current = busyStatus(3);
    const answer = await web.get('/status');
    assert.equal(answer.headers['content-type'], 'application/json; charset=utf-8');
    assert.deepEqual(JSON.parse(answer.text), JSON.parse(JSON.stringify(web.warming.current)));
    const again = await web.get('/status', { 'if-none-match': String(answer.headers.etag) });
    assert.deepEqual([again.status, again.text], [304, '']);
    const other = await web.get('/status', { 'if-none-match': '"x", W/"y"' });
    assert.equal(other.status, 200);
  });

  test('is compressed for who can read that', async () => {
    await using web = await openWeb();
    web.warming.current = busyStatus(60);
    const plain = await web.get('/status');
    const packed = await web.get('/status', { 'accept-encoding': 'gzip, br' });
    assert.equal(packed.headers['content-encoding'], 'gzip');
    assert.ok(packed.body.length < plain.body.length / 4);
    assert.equal(gunzipSync(packed.body).toString('utf8'), plain.text);
  });
});

describe('the server', () => {
  test('lets nobody write, and knows nothing but its own paths', async () => {
    await using web = await openWeb();
    for (const method of ['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'])
      for (const path of ['/', '/status', '/metrics', '/readyz']) {
        const answer = await web.get(path, {}, method);
        assert.deepEqual([answer.status, answer.headers.allow], [405, 'GET, HEAD'], `${method} ${path}`);
      }
    for (const path of [
      '/nothing',
      '/v1/ensure',
      '/assets/page.css',
      '/../etc/passwd',
      '/assets/..%2fpage.ts',
      '/%00',
      '//evil.example/',
    ])
      assert.equal((await web.get(path)).status, 404, path);
    assert.equal((await web.get('/', {}, 'HEAD')).status, 200);
  });

  test('tells browsers to let nobody else in', async () => {
    await using web = await openWeb();
    for (const path of ['/', '/status', '/metrics', '/livez', '/nothing']) {
      const { headers } = await web.get(path, { origin: 'https://evil.example' });
      assert.match(
        String(headers['content-security-policy']),
        /default-src 'none'.*frame-ancestors 'none'/,
        path,
      );
      assert.doesNotMatch(String(headers['content-security-policy']), /unsafe|\*/);
      assert.equal(headers['x-content-type-options'], 'nosniff');
      assert.equal(headers['access-control-allow-origin'], undefined);
    }
  });

  test('does not care what it is called', async () => {
    await using web = await openWeb();
    const named = await web.get('/', { host: 'evil.example"><script>' });
    assert.doesNotMatch(named.text, /evil/);
    const socket = connect(web.port, '127.0.0.1');
    socket.write('GET /livez HTTP/1.0\r\n\r\n');
    let text = '';
    for await (const chunk of socket) text += String(chunk);
    assert.match(text, /^HTTP\/1\.1 200/);
  });

  test('writes what others say only as text', async () => {
    await using web = await openWeb();
    const evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>\'';
    const at = new Date();
    web.warming.current = fakeStatus({
      ready: false,
      version: evil,
      checks: [{ name: evil, ok: false, detail: evil }],
      configuration: { path: evil, loadedAt: at, digest: evil, rejected: { at, message: evil } },
      images: [
        fakeImage(`a.example/${evil}:${evil}@${evil}`, {
          platform: evil,
          phase: 'failed',
          failures: 2,
          lastError: { code: evil, message: evil, at },
          usedBy: [evil],
          transfer: { bytes: 1, total: 2 },
        }),
      ],
      builds: [{ build: evil, label: evil, images: [{ reference: evil, platform: evil }], since: at }],
      pulls: [pull({ reference: evil, platform: evil, error: evil, outcome: 'failed' })],
    });
    const { text } = await web.get(
      `/?q=${encodeURIComponent(evil)}&state=${encodeURIComponent(evil)}&sort=${encodeURIComponent(evil)}`,
    );
    const all = await web.get('/');
    for (const page of [text, all.text]) {
      assert.equal([...page.matchAll(/<script/g)].length, 1, 'our own');
      assert.doesNotMatch(page, /<img/);
    }
    assert.ok(all.text.includes('&lt;script&gt;alert(1)'));
  });

  test('says which address it cannot listen at', async () => {
    await using web = await openWeb();
    const other = new WebServer(new FakeWarming(), {
      name: undefined,
      leases: () => 0,
      progress: new Progress(),
    });
    await assert.rejects(other.listen({ host: '127.0.0.1', port: web.port }), {
      code: 'E_CANNOT_LISTEN',
      message: `cannot listen at 127.0.0.1:${web.port}`,
    });
    await other[Symbol.asyncDispose]();
    for (const text of ['9090', 'x', 'host:99999', '1.2.3.4:', ':-1', 'a b:1'])
      assert.throws(() => parseListenAddress(text), { code: 'E_LISTEN_ADDRESS_INVALID' }, text);
    assert.deepEqual(parseListenAddress('[::1]:80'), { host: '::1', port: 80 });
    assert.deepEqual(parseListenAddress(':9090'), { host: undefined, port: 9090 });
  });

  test('answers a page of two thousand images that is light, and soon', async () => {
    await using web = await openWeb();
    web.warming.current = busyStatus(2000);
    const packed = await web.get('/', { 'accept-encoding': 'gzip' });
    assert.ok(packed.body.length < 40_000, `${packed.body.length} bytes`);
    const assets = [
      ...gunzipSync(packed.body)
        .toString('utf8')
        .matchAll(/(?:href|src)="(\/assets\/[^"]+)"/g),
    ].map(([, path = '']) => path);
    assert.equal(assets.length, 3);
    let bytes = 0;
    for (const path of assets) {
      const asset = await web.get(path, { 'accept-encoding': 'gzip' });
      assert.equal(asset.status, 200);
      assert.match(String(asset.headers['cache-control']), /immutable/);
      bytes += asset.body.length;
    }
    assert.ok(bytes < 12_000, `${bytes} bytes of assets`);
    assert.deepEqual(web.warnings, []);
  });
});
