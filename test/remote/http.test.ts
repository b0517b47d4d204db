import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { TestAuthority } from '../support/certificates.ts';
import { listen, serve } from '../support/http.ts';
import { type LocalBuild, type LocalBuilds, openLocalBuilds } from '../support/local-builds.ts';
import { stepsThat } from '../support/programs.ts';
import { startProxy } from '../support/proxy.ts';

/*
 * ADD of files of web servers, in builds, against servers of this machine.
 */

let builds: LocalBuilds;
before(async () => {
  builds = await openLocalBuilds();
});
after(() => builds[Symbol.asyncDispose]());

const sha256 = (text: string | Buffer): string => `sha256:${createHash('sha256').update(text).digest('hex')}`;

async function succeed(
  dockerfile: string,
  options?: Parameters<LocalBuilds['build']>[1],
): Promise<LocalBuild> {
  const built = await builds.build(dockerfile, options);
  assert.equal(built.code, 0, built.stderr);
  return built;
}

/** Answers with a file that has a version, and understands conditions. */
function versioned(file: { content: string; etag?: string; modified?: string }) {
  return (request: IncomingMessage, response: ServerResponse): void => {
    const { content, etag, modified } = file;
    if (etag !== undefined) response.setHeader('etag', etag);
    if (modified !== undefined) response.setHeader('last-modified', modified);
    const { 'if-none-match': match, 'if-modified-since': since } = request.headers;
    const same = match === undefined ? since !== undefined && since === modified : match === etag;
    if (same) response.writeHead(304).end();
    else response.end(content);
  };
}

describe('ADD of a file of a web server', () => {
  test('has its name, mode 600, root as its owner, and the time that the server says', async () => {
    await using server = await serve(versioned({ content: 'x', modified: 'Tue, 14 Nov 2023 22:13:20 GMT' }));
    await using timeless = await serve((_request, response) => void response.end('y'));
    const built = await succeed(
      [
        'FROM scratch',
        `ADD http://${server.host}/dir/named.txt?a=b /in/`,
        `ADD http://${server.host}/dir/other /renamed`,
        `ADD --chmod=644 --chown=7:8 http://${timeless.host} /in/`,
        `ADD --chmod=u+x http://${timeless.host}/program http://${timeless.host}/two /many/`,
      ].join('\n'),
    );
    assert.deepEqual(
      built.tree('%P %y %m %U:%G'),
      [
        'in d 755 7:8',
        'in/__unnamed__ f 644 7:8',
        'in/named.txt f 600 0:0',
        'many d 755 0:0',
        'many/program f 700 0:0',
        'many/two f 700 0:0',
        'renamed f 600 0:0',
      ].map((line) => (line.startsWith('in d') ? 'in d 755 0:0' : line)),
    );
    assert.equal(lstatSync(join(built.root(), 'renamed')).mtimeMs, 1_700_000_000_000);
    assert.equal(lstatSync(join(built.root(), 'many/two')).mtimeMs, 0);
  });

  test('is a hit without a download while the server says that nothing changed, and a miss when it did', async () => {
    for (const versions of [
      [{ etag: '"1"' }, { etag: '"2"' }],
      [{ modified: 'Tue, 14 Nov 2023 22:13:20 GMT' }, { modified: 'Tue, 14 Nov 2023 22:13:21 GMT' }],
    ] as const) {
      const file = { content: `one ${JSON.stringify(versions)}`, ...versions[0] };
      const statuses: number[] = [];
      await using server = await serve((request, response) => {
        response.on('finish', () => statuses.push(response.statusCode));
        versioned(file)(request, response);
      });
      const dockerfile = `FROM scratch\nADD http://${server.host}/file /file\n`;
      assert.equal(stepsThat('ran', await succeed(dockerfile)).length, 1);
      assert.equal(stepsThat('cached', await succeed(dockerfile)).length, 1);
      assert.deepEqual(statuses, [200, 304]);
      const content = `two ${JSON.stringify(versions)}`;
      Object.assign(file, { content, ...versions[1] });
      const changed = await succeed(dockerfile);
      assert.equal(stepsThat('ran', changed).length, 1);
      assert.equal(readFileSync(join(changed.root(), 'file'), 'utf8'), content);
    }
  });

  test('is not downloaded again from a server that does not know conditions but gives the same ETag', async () => {
    let sent = 0;
    const body = Buffer.alloc(8 << 20, 'x');
    await using server = await serve((_request, response) => {
      response.setHeader('etag', 'W/"same"');
      response.on('close', () => (sent = response.writableFinished ? sent + 1 : sent));
      response.end(body);
    });
    const dockerfile = `FROM scratch\nADD http://${server.host}/big /big\n`;
    await succeed(dockerfile);
    assert.equal(stepsThat('cached', await succeed(dockerfile)).length, 1);
    assert.equal(server.requests.length, 2);
    assert.equal(sent, 1, 'the second answer was not read');
  });

  test('is fetched for a step that runs although it is unchanged', async () => {
    await using server = await serve(versioned({ content: 'kept', etag: '"k"' }));
    const text = (label: string): string =>
      `FROM scratch\nCOPY <<EOF /first\n${label}\nEOF\nADD http://${server.host}/file /file\n`;
    await succeed(text('one'));
    const again = await succeed(text('two'));
    assert.equal(readFileSync(join(again.root(), 'file'), 'utf8'), 'kept');
    assert.equal(server.requests.length, 3);
  });

  test('with --checksum asks nobody while it hits, and refuses other content', async () => {
    await using server = await serve((_request, response) => void response.end('pinned'));
    const dockerfile = (digest: string): string =>
      `FROM scratch\nADD --checksum=${digest} http://${server.host}/file /\n`;
    await succeed(dockerfile(sha256('pinned')));
    assert.equal(stepsThat('cached', await succeed(dockerfile(sha256('pinned')))).length, 1);
    assert.equal(server.requests.length, 1);
    const wrong = await builds.build(dockerfile(sha256('other')));
    assert.equal(wrong.code, 1);
    assert.match(wrong.messages, new RegExp(`Dockerfile:2: .*${sha256('pinned')}.*E_ADD_CHECKSUM`));
    for (const bad of ['md5:abc', 'abc', 'sha256:abc'])
      assert.match((await builds.build(dockerfile(bad))).messages, /E_ADD_ADDRESS/);
  });

  test('counts by its content and name, not by its address or time', async () => {
    await using one = await serve(versioned({ content: 'same', modified: 'Tue, 14 Nov 2023 22:13:20 GMT' }));
    await using two = await serve((_request, response) => void response.end('same'));
    await succeed(`FROM scratch\nADD http://${one.host}/a/same-name /content/\n`);
    const other = await succeed(`FROM scratch\nADD http://${two.host}/b/same-name /content/\n`);
    assert.equal(stepsThat('cached', other).length, 1);
    const renamed = await succeed(`FROM scratch\nADD http://${two.host}/b/other-name /content/\n`);
    assert.equal(stepsThat('ran', renamed).length, 1);
  });

  test('stays packed, unless --unpack says otherwise', async () => {
    const source = await builds.context({ 'a/b': 'inside' });
    const archive = execFileSync('tar', ['-C', source, '-cz', '.']);
    await using server = await serve((_request, response) => void response.end(archive));
    const built = await succeed(
      `FROM scratch\nADD http://${server.host}/x.tgz /packed/\nADD --unpack http://${server.host}/x.tgz /unpacked\n`,
    );
    const paths = built.tree('%P').filter((path) => path.includes('/'));
    assert.deepEqual(paths, ['packed/x.tgz', 'unpacked/a', 'unpacked/a/b']);
  });

  test('keeps the order of its sources', async () => {
    await using server = await serve((_request, response) => void response.end('remote'));
    const context = await builds.context({ same: 'local', other: '' });
    const url = `http://${server.host}/same`;
    const last = async (sources: string): Promise<string> => {
      const built = await succeed(`FROM scratch\nADD ${sources} /to/\n`, { context });
      return readFileSync(join(built.root(), 'to/same'), 'utf8');
    };
    assert.equal(await last(`same ${url} other`), 'remote');
    assert.equal(await last(`${url} same other`), 'local');
  });

  test('is tried again when it breaks off, and never half there', async () => {
    await using server = await serve((_request, response, count) => {
      response.writeHead(200, { 'content-length': '6' });
      if (count === 1) response.write('abc', () => response.destroy());
      else response.end('abcdef');
    });
    const built = await succeed(`FROM scratch\nADD http://${server.host}/file /\n`);
    assert.equal(readFileSync(join(built.root(), 'file'), 'utf8'), 'abcdef');
  });

  test('says what the server said, at its line', async () => {
    await using server = await serve((_request, response) => void response.writeHead(404).end());
    const built = await builds.build(`FROM scratch\n\nADD http://${server.host}/nothing /\n`);
    assert.equal(built.code, 1);
    assert.match(
      built.messages,
      /Dockerfile:3: http:\/\/.*\/nothing: the server answered 404 \[E_ADD_REFUSED\]/,
    );
  });

  test('follows redirects, but not without end, and never from HTTPS', async () => {
    await using target = await serve((_request, response) => void response.end('there'));
    await using server = await serve((request, response) => {
      const location = request.url === '/loop' ? '/loop' : `http://${target.host}/elsewhere`;
      response.writeHead(302, { location }).end();
    });
    const built = await succeed(`FROM scratch\nADD http://u:p@${server.host}/name /\n`);
    assert.equal(readFileSync(join(built.root(), 'name'), 'utf8'), 'there');
    assert.equal(server.requests[0]?.headers.authorization, `Basic ${Buffer.from('u:p').toString('base64')}`);
    assert.equal(target.requests[0]?.headers.authorization, undefined, 'no credentials go along');
    const loop = await builds.build(`FROM scratch\nADD http://${server.host}/loop /\n`);
    assert.match(loop.messages, /redirects without end.*E_ADD_UNAVAILABLE/);

    const authority = await TestAuthority.create(builds.directory);
    const { certificate, key } = await authority.issue('server');
    const options = { cert: readFileSync(certificate), key: readFileSync(key) };
    await using secure = await listen(
      createSecureServer(options, (request, response) => {
        if (request.url === '/down') response.writeHead(302, { location: `http://${target.host}/x` }).end();
        else response.end('secure');
      }),
    );
    const trust = ['--registry-certificate', `${secure.host}=${authority.certificate}`];
    const trusted = await succeed(`FROM scratch\nADD https://${secure.host}/ok /\n`, { args: trust });
    assert.equal(readFileSync(join(trusted.root(), 'ok'), 'utf8'), 'secure');
    const unknown = await builds.build(`FROM scratch\nADD https://${secure.host}/ok /\n`);
    assert.match(
      unknown.messages,
      /certificate of .* is not trusted.*E_ADD_UNAVAILABLE[\s\S]*--registry-certificate/,
    );
    const down = await builds.build(`FROM scratch\nADD https://${secure.host}/down /\n`, { args: trust });
    assert.match(down.messages, /redirects from https:.* to http:/);
  });

  test('goes through the proxy', async () => {
    await using proxy = await startProxy();
    const env = { http_proxy: `http://${proxy.host}` };
    // A name that only the proxy resolves to anything: it answers that it cannot.
    const args = ['--image-download-retry', '0'];
    const built = await builds.build('FROM scratch\nADD http://files.invalid/x /\n', { env, args });
    assert.equal(built.code, 1);
    assert.deepEqual(await proxy.requests(), ['GET http://files.invalid/x']);
  });

  test('never shows or keeps the credentials of its address', async () => {
    await using server = await serve(versioned({ content: 'x', etag: '"1"' }));
    const volume = join(builds.directory, 'volume-of-secrets');
    const built = await succeed(
      `FROM scratch\nADD http://me:geheim@${server.host}/file?token=verborgen /\n`,
      {
        volume,
        env: { KILN_DEBUG: '1' },
      },
    );
    for (const secret of ['geheim', 'verborgen']) {
      assert.ok(!built.stderr.includes(secret), built.stderr);
      const found = execFileSync('sh', ['-c', `grep -rlF ${secret} "$1" || true`, 'sh', builds.directory], {
        encoding: 'utf8',
      });
      const places = found.split('\n').filter((path) => path !== '' && !path.endsWith('/Dockerfile'));
      assert.deepEqual(places, []);
    }
    assert.equal(readdirSync(join(volume, 'web-files')).length, 1);
  });

  test('is refused to COPY, and a size that cannot be is refused at once', async () => {
    const copied = await builds.build('FROM scratch\nCOPY https://host.example/file /\n');
    assert.match(
      copied.messages,
      /Dockerfile:2: COPY takes .*\[E_ADD_ADDRESS\]\n.*\n.*\n {2}remedy: Write ADD/,
    );
    await using server = await serve((_request, response) => {
      response.writeHead(200, { 'content-length': String(2 ** 50) });
      response.write('x');
    });
    const huge = await builds.build(`FROM scratch\nADD http://${server.host}/huge /\n`);
    assert.equal(huge.code, 3);
    assert.match(huge.messages, /E_NO_SPACE/);
  });
});
