import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, stat } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { digestOf } from '../../src/oci/index.ts';
import { EnvironmentError, KilnError, Progress } from '../../src/support/index.ts';
import { NodeClient, type NodeImage } from '../../src/volume/index.ts';
import type { NodeServerLimits } from '../../warmer/daemon/node-server.ts';
import { startServers } from '../../warmer/daemon/servers.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { eventually, FakeWarming, fakeDigest, fakeStatus } from '../support/warming.ts';

const request = { reference: 'docker.io/library/debian:12', platform: 'linux/amd64', build: 'b1' };

interface Node extends AsyncDisposable {
  readonly directory: string;
  readonly warming: FakeWarming;
  readonly client: NodeClient;
  readonly warnings: string[];
}

/** A volume with a daemon's socket, and a client. */
async function openNode(limits: Partial<NodeServerLimits> = {}): Promise<Node> {
  await using cleanup = new AsyncDisposableStack();
  const { path } = cleanup.use(await temporaryDirectory());
  await mkdir(join(path, 'ingest'));
  const warming = new FakeWarming();
  const progress = new Progress();
  const warnings: string[] = [];
  progress.listen((event) => event.type === 'log' && warnings.push(event.message));
  cleanup.use(await startServers({ warming, directory: path, socket: true, listen: [], progress, limits }));
  const open = cleanup.move();
  return {
    directory: path,
    warming,
    warnings,
    client: new NodeClient(path),
    [Symbol.asyncDispose]: () => open.disposeAsync(),
  };
}

function ready(outcome: Awaited<ReturnType<NodeClient['ensure']>>): NodeImage {
  assert.notEqual(outcome.outcome, 'absent');
  return outcome as NodeImage;
}

/** Sends bytes as they are. @returns what came back until the server closed the connection, or `milliseconds` passed. */
async function sendRaw(directory: string, bytes: string, milliseconds = 5000): Promise<string> {
  const socket = connect(join(directory, 'warmer.sock'));
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  socket.on('error', () => undefined);
  socket.write(bytes);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  await Promise.race([closed, sleep(milliseconds, undefined, { ref: false })]);
  socket.destroy();
  return text;
}

function post(path: string, body: string): string {
  return `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

describe("the node's socket", () => {
  test('makes an image ready, tells how far it is, and holds it until the client lets go', async () => {
    await using node = await openNode();
    const told: [number, number][] = [];
    node.warming.onAsked = (asked) => {
      asked.progress(10, 100);
      void sleep(300).then(() => {
        asked.progress(60, 100);
        asked.ready('pulled');
      });
    };
    const image = ready(await node.client.ensure(request, { onProgress: (...at) => told.push(at) }));
    assert.equal(image.outcome, 'pulled');
    assert.equal(image.digest, fakeDigest);
    assert.deepEqual(told, [
      [10, 100],
      [60, 100],
    ]);
    assert.equal(node.warming.asked[0]?.reference, request.reference);
    await sleep(50);
    assert.equal(node.warming.leases, 1);
    image[Symbol.dispose]();
    await eventually(() => node.warming.leases === 0);
  });

  test('sends what an image is made of before its layers are there', async () => {
    await using node = await openNode();
    const configBytes = Buffer.from(
      '{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}',
    );
    const config = {
      mediaType: 'application/vnd.oci.image.config.v1+json',
      digest: digestOf(configBytes),
      size: configBytes.length,
    };
    const manifestBytes = Buffer.from(JSON.stringify({ schemaVersion: 2, config, layers: [] }));
    let seen: string | undefined;
    node.warming.onAsked = (asked) => asked.image({ manifestBytes, configBytes });
    const waiting = node.client.ensure(request, { onImage: ({ digest }) => (seen = digest) });
    await eventually(() => seen === digestOf(manifestBytes));
    node.warming.asked[0]?.ready();
    ready(await waiting)[Symbol.dispose]();
  });

  test('does not believe documents that do not belong together', async () => {
    await using node = await openNode();
    const configBytes = Buffer.from(
      '{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}',
    );
    const config = { mediaType: 'x', digest: digestOf('another'), size: configBytes.length };
    const manifestBytes = Buffer.from(JSON.stringify({ schemaVersion: 2, config, layers: [] }));
    node.warming.onAsked = (asked) => asked.image({ manifestBytes, configBytes });
    const options = { onImage: () => assert.fail('it was believed') };
    await assert.rejects(node.client.ensure(request, options), { code: 'E_WARMER_MISBEHAVED' });
  });

  test('lets go of an image whose client was killed', async () => {
    await using node = await openNode();
    node.warming.onAsked = (asked) => asked.ready('warm');
    const code = `const { NodeClient } = await import(${JSON.stringify(join(import.meta.dirname, '../../src/volume/index.ts'))});
      await new NodeClient(${JSON.stringify(node.directory)}).ensure(${JSON.stringify(request)});
      console.log('ready'); setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module-typescript', '--eval', code], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(child.stdout, 'data');
    assert.equal(node.warming.leases, 1);
    child.kill('SIGKILL');
    await eventually(() => node.warming.leases === 0);
  });

  test('tells the daemon that a client has gone while its image is fetched, and serves the others on', async () => {
    await using node = await openNode();
    const controller = new AbortController();
    const gone = node.client.ensure(request, { signal: controller.signal });
    const stays = node.client.ensure({ ...request, build: 'b2' });
    await eventually(() => node.warming.asked.length === 2);
    controller.abort(new Error('enough'));
    await assert.rejects(gone, /enough/);
    await eventually(() => node.warming.asked.filter(({ signal }) => signal.aborted).length === 1);
    // The pull goes on for the other one, and what is told to the one that left harms nobody.
    const bytes = { manifestBytes: Buffer.from('{}'), configBytes: Buffer.from('{}') };
    for (const asked of node.warming.asked.filter(({ signal }) => signal.aborted)) asked.image(bytes);
    for (const asked of node.warming.asked) {
      asked.progress(1, 2);
      asked.ready('joined');
    }
    const image = ready(await stays);
    assert.equal(image.outcome, 'joined');
    image[Symbol.dispose]();
    await eventually(() => node.warming.leases === 0);
  });

  test('holds an image for a client that does nothing only for a while', async () => {
    await using node = await openNode({ leaseTime: 100 });
    node.warming.onAsked = (asked) => asked.ready();
    using _image = ready(await node.client.ensure(request));
    await eventually(() => node.warming.leases === 0);
  });

  test('hands the words of a refusal and of a failure to the client', async () => {
    await using node = await openNode();
    node.warming.onAsked = (asked) =>
      asked.fail(
        new EnvironmentError('no pattern allows it', {
          code: 'E_NOT_ALLOWED',
          where: asked.reference,
          remedy: 'Allow it.',
        }),
      );
    await assert.rejects(node.client.ensure(request), {
      name: 'KilnError',
      code: 'E_NOT_ALLOWED',
      category: 'environment',
      message: 'docker.io/library/debian:12: no pattern allows it',
      remedy: 'Allow it.',
    });
    node.warming.onAsked = (asked) => {
      asked.progress(1, 2);
      asked.fail(
        new KilnError('the registry said no', { code: 'E_REGISTRY_UNAVAILABLE', category: 'registry' }),
      );
    };
    await assert.rejects(node.client.ensure(request), {
      code: 'E_REGISTRY_UNAVAILABLE',
      category: 'registry',
    });
    assert.deepEqual(node.warnings, []);
    node.warming.onAsked = (asked) => asked.fail(new TypeError('a fault of ours'));
    await assert.rejects(node.client.ensure(request), { code: 'E_WARMER_FAILED' });
    assert.match(node.warnings.join(), /a fault of ours/);
  });

  test('knows a build for as long as its connection is open', async () => {
    await using node = await openNode();
    const build = {
      build: 'b1',
      label: 'app:1',
      images: [{ reference: request.reference, platform: 'linux/amd64' }],
    };
    const announced = node.client.announce(build);
    await eventually(() => node.warming.builds.size === 1);
    assert.deepEqual(node.warming.builds.get('b1')?.images, build.images);
    announced[Symbol.dispose]();
    await eventually(() => node.warming.builds.size === 0);
  });

  test('takes reports, without what it does not know', async () => {
    await using node = await openNode();
    const report = {
      build: 'b1',
      succeeded: true,
      seconds: 1.5,
      bases: [
        { reference: 'docker.io/library/debian:12', platform: 'linux/amd64', outcome: 'cold' as const },
      ],
      steps: { cached: 2, ran: 1 },
      cache: { location: 'registry.example/cache', hits: ['k1-00'] },
    };
    assert.equal(await node.client.report(report), true);
    assert.deepEqual(node.warming.reports, [report]);
    const strange = { ...report, __proto__: { evil: 1 }, unknown: 'x', steps: { ...report.steps, more: 1 } };
    await sendRaw(node.directory, post('/v1/report', JSON.stringify(strange)), 300);
    assert.deepEqual(node.warming.reports[1], report);
  });

  test('says how the daemon is', async () => {
    await using node = await openNode();
    node.warming.current = fakeStatus({
      ready: false,
      checks: [{ name: 'images', ok: false, detail: 'one is missing' }],
    });
    assert.deepEqual(await node.client.status(), {
      ready: false,
      checks: [{ name: 'images', ok: false, detail: 'one is missing' }],
    });
  });

  for (const [what, path, body, says] of [
    ['what is not JSON', '/v1/ensure', '{', /400.*not JSON/s],
    ['what is not UTF-8 text', '/v1/ensure', '\u0000', /400/],
    ['a list', '/v1/ensure', '[]', /400.*must be an object/s],
    [
      'a request without a build',
      '/v1/ensure',
      JSON.stringify({ ...request, build: undefined }),
      /400.*build must be/s,
    ],
    [
      'a reference that is none',
      '/v1/ensure',
      JSON.stringify({ ...request, reference: '../../etc' }),
      /400.*E_REFERENCE_INVALID/s,
    ],
    [
      'a reference that is too long',
      '/v1/ensure',
      JSON.stringify({ ...request, reference: 'a'.repeat(5000) }),
      /400.*reference must be/s,
    ],
    [
      'a platform that is none',
      '/v1/ensure',
      JSON.stringify({ ...request, platform: 'a/b/c/d' }),
      /400.*invalid platform/s,
    ],
    [
      'a number for a string',
      '/v1/ensure',
      JSON.stringify({ ...request, reference: 1 }),
      /400.*reference must be/s,
    ],
    [
      'an outcome that does not exist',
      '/v1/report',
      '{"build":"b","succeeded":true,"seconds":1,"steps":{"cached":0,"ran":0},"bases":[{"reference":"a","platform":"linux","outcome":"x"}]}',
      /400.*bases\[0\]\.outcome/s,
    ],
    [
      'seconds below zero',
      '/v1/report',
      '{"build":"b","succeeded":true,"seconds":-1,"steps":{},"bases":[]}',
      /400.*seconds/s,
    ],
    ['another path', '/v2/ensure', '{}', /404.*E_NO_SUCH_ROUTE/s],
  ] as const)
    test(`refuses ${what}, and says why`, async () => {
      await using node = await openNode();
      const answer = await sendRaw(node.directory, post(path, body));
      assert.match(answer, says);
      assert.deepEqual(node.warming.asked, []);
      assert.deepEqual(node.warming.reports, []);
    });

  test('refuses a body that is too large, whether it says so or not', async () => {
    await using node = await openNode();
    const said = await sendRaw(
      node.directory,
      `POST /v1/report HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n`,
    );
    assert.match(said, /413.*E_REQUEST_TOO_LARGE/s);
    const chunk = `10000\r\n${'x'.repeat(0x10000)}\r\n`;
    const unsaid = await sendRaw(
      node.directory,
      `POST /v1/report HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n${chunk.repeat(20)}`,
    );
    assert.match(unsaid, /413/);
  });

  test('closes connections whose request does not come', async () => {
    await using node = await openNode({ requestTime: 300 });
    const begun = performance.now();
    const [silent, head, body] = await Promise.all([
      sendRaw(node.directory, '', 5000),
      sendRaw(node.directory, 'POST /v1/ensure HTTP/1.1\r\nhost:', 5000),
      sendRaw(node.directory, 'POST /v1/ensure HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{', 5000),
    ]);
    assert.ok(performance.now() - begun < 4000);
    for (const answer of [silent, head, body]) assert.match(answer, /^(?:HTTP\/1.1 408|$)/);
    assert.deepEqual(node.warming.asked, []);
  });

  test('drops a client that sends the next request before its answer', async () => {
    await using node = await openNode();
    const one = post('/v1/ensure', JSON.stringify(request));
    await sendRaw(node.directory, one.repeat(50), 2000);
    assert.equal(node.warming.asked.length, 1);
    await eventually(() => node.warming.asked[0]?.signal.aborted === true);
  });

  test('spends no memory on a client that does not read', async () => {
    await using node = await openNode({ progressInterval: 0 });
    const socket = connect(join(node.directory, 'warmer.sock'));
    socket.pause().write(post('/v1/ensure', JSON.stringify(request)));
    await eventually(() => node.warming.asked.length === 1);
    const before = process.memoryUsage().arrayBuffers;
    for (let bytes = 0; bytes < 200_000; bytes++) node.warming.asked[0]?.progress(bytes, 200_000);
    assert.ok(process.memoryUsage().arrayBuffers - before < 4_000_000);
    socket.destroy();
  });

  test('limits how many images are asked for at once, and the rest learn that it is busy', async () => {
    await using node = await openNode({ requests: 2 });
    const first = [node.client.ensure(request), node.client.ensure(request)];
    await eventually(() => node.warming.asked.length === 2);
    await assert.rejects(node.client.ensure(request), { code: 'E_WARMER_BUSY' });
    for (const asked of node.warming.asked) asked.ready();
    for (const waiting of first) ready(await waiting)[Symbol.dispose]();
    await eventually(() => node.warming.leases === 0);
    node.warming.onAsked = (asked) => asked.ready();
    ready(await node.client.ensure(request))[Symbol.dispose]();
  });

  test('serves on while a thousand connections do nothing', async () => {
    await using node = await openNode({ requestTime: 30_000, connections: 1100 });
    const idle: Socket[] = [];
    for (let index = 0; index < 1000; index++) {
      const socket = connect(join(node.directory, 'warmer.sock')).on('error', () => undefined);
      idle.push(socket);
      if (index % 100 === 0) await sleep(10);
    }
    node.warming.onAsked = (asked) => asked.ready('warm');
    ready(await node.client.ensure(request))[Symbol.dispose]();
    // They fit into the queue of the socket, however slowly they are accepted.
    await eventually(() => idle.every(({ readyState }) => readyState === 'open'));
    for (const socket of idle) socket.destroy();
  });

  test('may be connected to by every user on the node', async () => {
    await using node = await openNode();
    assert.equal((await stat(join(node.directory, 'warmer.sock'))).mode & 0o777, 0o666);
  });

  test('replaces the socket that a killed daemon left behind, and what it had begun', async () => {
    await using scratch = await temporaryDirectory();
    await mkdir(join(scratch.path, 'ingest'));
    const code = `const { startServers } = await import(${JSON.stringify(join(import.meta.dirname, '../../warmer/daemon/servers.ts'))});
      await startServers({ directory: ${JSON.stringify(scratch.path)}, socket: true, listen: [], warming: { listen: () => ({}) } });
      require('node:net').createServer().listen(${JSON.stringify(join(scratch.path, 'warmer.sock.abcdef'))});
      console.log('listens'); setInterval(() => {}, 1000);`;
    const child = spawn(
      process.execPath,
      ['--input-type=commonjs-typescript', '--eval', `(async () => {${code}})()`],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    await once(child.stdout, 'data');
    const servers = {
      warming: new FakeWarming(),
      directory: scratch.path,
      socket: true,
      listen: [],
      progress: new Progress(),
    };
    await assert.rejects(startServers(servers), { code: 'E_WARMER_RUNNING' });
    child.kill('SIGKILL');
    await once(child, 'exit');
    const refused = await new NodeClient(scratch.path).status();
    assert.ok('outcome' in refused && refused.detail.includes('nobody listens'));
    await using _servers = await startServers(servers);
    assert.ok('ready' in (await new NodeClient(scratch.path).status()));
    assert.deepEqual((await readdir(scratch.path)).sort(), ['ingest', 'warmer.sock']);
  });

  test('takes its socket away when it ends, and says so to those who wait', async () => {
    const node = await openNode();
    const waiting = node.client.ensure(request);
    const announced = node.client.announce({ build: 'b', label: 'l', images: [] });
    await eventually(() => node.warming.asked.length === 1 && node.warming.builds.size === 1);
    const ended = node[Symbol.asyncDispose]();
    await assert.rejects(waiting, { code: 'E_WARMER_STOPPING' });
    await ended;
    assert.equal(node.warming.builds.size, 0);
    announced[Symbol.dispose]();
  });

  test('names a path that is too long for a socket', async () => {
    await using scratch = await temporaryDirectory();
    const directory = join(scratch.path, 'd'.repeat(100));
    await mkdir(join(directory, 'ingest'), { recursive: true });
    const servers = {
      warming: new FakeWarming(),
      directory,
      socket: true,
      listen: [],
      progress: new Progress(),
    };
    await assert.rejects(startServers(servers), { code: 'E_SOCKET_PATH_TOO_LONG' });
    assert.equal((await new NodeClient(directory).ensure(request)).outcome, 'absent');
  });
});

describe('a build at the socket', () => {
  /** A daemon that answers with these bytes, whatever it is asked, and then does nothing. */
  async function strangeNode(
    answer: string | undefined,
  ): Promise<AsyncDisposable & { readonly client: NodeClient }> {
    const scratch = await temporaryDirectory();
    const open = new Set<Socket>();
    const server = createServer((socket) => {
      open.add(socket);
      socket.on('error', () => undefined);
      socket.once('data', () => answer !== undefined && socket.write(answer));
    });
    server.listen(join(scratch.path, 'warmer.sock'));
    await once(server, 'listening');
    return {
      client: new NodeClient(scratch.path, { answer: 200, silence: 200, standstill: 400, report: 100 }),
      [Symbol.asyncDispose]: async () => {
        for (const socket of open) socket.destroy();
        server.close();
        await scratch[Symbol.asyncDispose]();
      },
    };
  }

  const stream = 'HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n';

  test('finds that there is no daemon, which is no error', async () => {
    await using scratch = await temporaryDirectory();
    const client = new NodeClient(scratch.path);
    const outcome = await client.ensure(request);
    assert.ok(outcome.outcome === 'absent' && outcome.detail.includes('no socket'));
    client.announce({ build: 'b', label: 'l', images: [] })[Symbol.dispose]();
    assert.equal(await client.report({} as never), false);
    assert.deepEqual(await client.status(), outcome);
  });

  for (const [what, answer, code] of [
    ['a daemon that hangs', undefined, 'E_WARMER_UNRESPONSIVE'],
    ['one that falls silent', stream, 'E_WARMER_UNRESPONSIVE'],
    ['one that speaks another protocol', 'SSH-2.0-OpenSSH_9\r\n', 'E_WARMER_MISBEHAVED'],
    ['nonsense in the stream', `${stream}{"type":"progress"}\n`, 'E_WARMER_MISBEHAVED'],
    [
      'a digest that is none',
      `${stream}{"type":"ready","digest":"../x","outcome":"warm"}\n`,
      'E_WARMER_MISBEHAVED',
    ],
    ['a line without end', `${stream}${'x'.repeat(3_000_000)}`, 'E_WARMER_MISBEHAVED'],
    [
      'an error that is none',
      `${stream}{"type":"error","error":{"code":"rm -rf","category":"usage","message":""}}\n`,
      'E_WARMER_MISBEHAVED',
    ],
    ['a status without a reason', 'HTTP/1.1 418 No\r\ncontent-length: 2\r\n\r\n{}', 'E_WARMER_MISBEHAVED'],
    ['an error page without end', `HTTP/1.1 500 No\r\n\r\n${'x'.repeat(200_000)}`, 'E_WARMER_MISBEHAVED'],
  ] as const)
    test(`is not held up or misled by ${what}`, async () => {
      await using node = await strangeNode(answer);
      const begun = performance.now();
      await assert.rejects(node.client.ensure(request), { name: 'EnvironmentError', code });
      assert.equal(await node.client.report({} as never), false);
      assert.ok(performance.now() - begun < 2000);
    });

  test('gives up a pull that stands still, although the daemon lives', async () => {
    await using node = await openNode({ heartbeat: 20 });
    const client = new NodeClient(node.directory, { standstill: 300, silence: 5000 });
    await assert.rejects(client.ensure(request), { code: 'E_WARMER_UNRESPONSIVE' });
    await eventually(() => node.warming.asked[0]?.signal.aborted === true);
  });

  test('does not take a pull for hung that is slow', async () => {
    await using node = await openNode({ heartbeat: 20 });
    const client = new NodeClient(node.directory, { standstill: 200, silence: 200 });
    const waiting = client.ensure(request);
    for (let step = 1; step <= 8; step++) {
      await sleep(80);
      node.warming.asked[0]?.progress(step, 8);
    }
    node.warming.asked[0]?.ready();
    ready(await waiting)[Symbol.dispose]();
  });

  test('stops at once when it is aborted, also while nobody answers', async () => {
    await using node = await strangeNode(undefined);
    const signal = AbortSignal.timeout(50);
    const begun = performance.now();
    await assert.rejects(node.client.status(signal), { name: 'TimeoutError' });
    await assert.rejects(node.client.ensure(request, { signal }), { name: 'TimeoutError' });
    assert.ok(performance.now() - begun < 150);
  });

  test('cannot make a hung daemon wait for its report for long', async () => {
    await using node = await strangeNode(undefined);
    const begun = performance.now();
    assert.equal(await node.client.report({} as never), false);
    assert.ok(performance.now() - begun < 400);
  });

  test('is not kept alive by a connection that it left open', async () => {
    await using node = await openNode();
    const code = `const { NodeClient } = await import(${JSON.stringify(join(import.meta.dirname, '../../src/volume/index.ts'))});
      new NodeClient(${JSON.stringify(node.directory)}).announce({ build: 'b', label: 'l', images: [] });`;
    const child = spawn(process.execPath, ['--input-type=module-typescript', '--eval', code], {
      stdio: 'inherit',
    });
    assert.deepEqual(await once(child, 'exit'), [0, null]);
  });
});
