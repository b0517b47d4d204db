import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { TestAuthority } from '../support/certificates.ts';
import { archiveOf, fetchHere } from '../support/contexts.ts';
import { listen, serve } from '../support/http.ts';
import { answerObject, type ServedObject } from '../support/object-server.ts';
import { kiln, temporaryDirectory, writeFiles } from '../support/programs.ts';
import { startProxy } from '../support/proxy.ts';

/*
 * Contexts that are archives of web servers.
 */

let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
let content: Buffer;
let text = '';
before(async () => {
  scratch = await temporaryDirectory();
  text = randomBytes(300_000).toString('hex');
  const tree = await writeFiles(join(scratch.path, 'tree'), {
    file: text,
    Dockerfile: 'FROM scratch\nCOPY file /\n',
  });
  content = archiveOf(tree, 'gzip');
});
after(() => scratch[Symbol.asyncDispose]());

/** A server of one object. */
const serveObject = (object: ServedObject): ReturnType<typeof serve> =>
  serve((request, response) => answerObject(object, request, response));

async function arrives(address: string, options?: Parameters<typeof fetchHere>[1]): Promise<void> {
  await using context = await fetchHere(address, options);
  assert.equal(readFileSync(join(context.directory, 'file'), 'utf8'), text);
}

describe('a context of a web server', () => {
  test('is fetched, also where redirects lead, with the credentials of its address for its own server only', async () => {
    await using storage = await serveObject({ content });
    await using server = await serve((_request, response) => {
      response.writeHead(302, { location: `http://${storage.host}/there?X-Amz-Signature=abc` }).end();
    });
    await arrives(`http://someone:pass%40word@${server.host}/context.tar.gz`);
    const login = Buffer.from('someone:pass@word').toString('base64');
    assert.equal(server.requests[0]?.headers.authorization, `Basic ${login}`);
    assert.equal(storage.requests[0]?.headers.authorization, undefined);
    await using endless = await serve((_request, response) => {
      response.writeHead(302, { location: '/again' }).end();
    });
    await assert.rejects(fetchHere(`http://${endless.host}/x.tar`), /redirects without end/);
    assert.ok(endless.requests.length < 10);
  });

  test('that breaks off is read on where it did, if it is still the same', async () => {
    const object = { content, etag: '"1"', cuts: [100_000, 50_000, 1] };
    await using server = await serveObject(object);
    await arrives(`http://${server.host}/x.tar.gz`);
    const starts = server.requests
      .slice(1)
      .map(({ headers }) => /^bytes=([0-9]+)-$/.exec(headers.range ?? '')?.[1]);
    assert.equal(starts.length, 3);
    // What arrived right before the end may be lost, but is then asked for again.
    for (const [index, most] of [100_000, 150_000, 150_001].entries())
      assert.ok(Number(starts[index]) <= most);
    assert.ok(Number(starts[2]) > 0);
    // A server that gives no parts, and one that cannot say whether it is the same.
    for (const other of [{ etag: '"1"', ranges: false }, { ranges: false }, { etag: 'W/"1"' }]) {
      await using plain = await serveObject({ content, cuts: [100_000], ...other });
      await arrives(`http://${plain.host}/x.tar.gz`);
      assert.equal(plain.requests.length, 2);
    }
  });

  test('that changes while it is read is never mixed', async () => {
    const object: ServedObject = { content, etag: '"1"', cuts: [100_000] };
    await using server = await serve((request, response, count) => {
      if (count === 2) Object.assign(object, { content: Buffer.alloc(content.length), etag: '"2"' });
      answerObject(object, request, response);
    });
    await assert.rejects(fetchHere(`http://${server.host}/x.tar.gz`), { code: 'E_CONTEXT_CHANGED' });
  });

  test('that never gets further is told so', async () => {
    for (const etag of ['"1"', undefined]) {
      await using server = await serve((request, response) =>
        answerObject({ content, ...(etag === undefined ? {} : { etag }), cuts: [0] }, request, response),
      );
      const failing = fetchHere(`http://${server.host}/x.tar.gz`);
      await assert.rejects(failing, { code: 'E_CONTEXT_CUT', message: /broke off after 0 of [0-9]+ bytes/ });
    }
  });

  test('that is refused, or is no archive, is told so without a secret', async () => {
    for (const [status, code, remedy] of [
      [401, 'E_CONTEXT_REFUSED', /user and password/],
      [403, 'E_CONTEXT_REFUSED', /user and password/],
      [404, 'E_CONTEXT_NOT_FOUND', /Check the address/],
      [400, 'E_CONTEXT_REFUSED', /Try again/],
    ] as const) {
      await using server = await serve(
        (_request, response) => void response.writeHead(status).end('why not'),
      );
      const address = `http://someone:hunter2@${server.host}/x.tar?private=hunter3&sig=hunter4`;
      await assert.rejects(fetchHere(address), (error: Error & { code: string; remedy: string }) => {
        assert.equal(error.code, code);
        assert.match(error.remedy, remedy);
        assert.match(error.message, new RegExp(`http://${server.host}/x.tar: the server answered ${status}`));
        assert.doesNotMatch(error.message, /hunter/);
        return true;
      });
    }
    await using page = await serve((_request, response) => void response.end('<html>'.repeat(500)));
    const failing = fetchHere(`http://${page.host}/organisation/repository`);
    await assert.rejects(failing, { code: 'E_ARCHIVE_UNKNOWN' });
    await assert.rejects(fetchHere('http://127.0.0.1:1/x.tar'), { code: 'E_CONTEXT_UNAVAILABLE' });
  });

  test('larger than the disk is refused before it is fetched', async () => {
    await using server = await serve((_request, response) => {
      response.writeHead(200, { 'content-length': String(2 ** 50) }).write(content);
    });
    await assert.rejects(fetchHere(`http://${server.host}/x.tar`), { code: 'E_NO_SPACE' });
  });

  test('is reached through a proxy, and by HTTPS with the certificate that is trusted for its host', async () => {
    const authority = await TestAuthority.create(scratch.path);
    const pair = await authority.issue('server');
    const files = { key: readFileSync(pair.key), cert: readFileSync(pair.certificate) };
    const server = createServer(files, (request, response) => answerObject({ content }, request, response));
    await using listening = await listen(server);
    const address = `https://${listening.host}/x.tar`;
    await assert.rejects(fetchHere(address), { code: 'E_CONTEXT_UNAVAILABLE' });
    await arrives(address, {
      registries: new Map([[listening.host, { certificate: authority.certificate }]]),
    });
    await using proxy = await startProxy();
    const failing = fetchHere('http://storage.invalid/x.tar', {
      environment: { HTTP_PROXY: `http://${proxy.host}` },
      pullRetries: 0,
    });
    await assert.rejects(failing, /storage.invalid/);
    assert.ok((await proxy.requests()).some((line) => line.includes('storage.invalid')));
  });

  test('is built, and its secrets appear nowhere', async () => {
    await using server = await serveObject({ content });
    const layout = join(scratch.path, 'image');
    const built = await kiln('executor', [
      ...['--context', `http://someone:hunter2@${server.host}/app.tar.gz?token=hunter3`],
      ...['--cache-dir', join(scratch.path, 'volume'), '--oci-layout-path', layout, '--log-format', 'json'],
    ]);
    assert.equal(built.code, 0, built.stderr);
    assert.doesNotMatch(built.stderr + built.stdout, /hunter/);
  });
});
