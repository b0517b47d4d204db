import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { describe, test } from 'node:test';
import { digestOf, mediaTypes } from '../../src/oci/index.ts';
import { RegistryClient, RegistryError, type Repository } from '../../src/registry/index.ts';
import { testBlob } from '../support/blobs.ts';
import { bodyOf, serve } from '../support/http.ts';
import { temporaryDirectory, writeFiles } from '../support/programs.ts';

const { bytes: content, descriptor, open } = testBlob(randomBytes(300_000));
const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest }));

type Answer = (request: IncomingMessage, response: ServerResponse, count: number) => void;

/** Uses a repository of a server that answers so. */
async function withServer<Result>(
  answer: Answer,
  use: (repository: Repository, requests: readonly IncomingMessage[]) => Promise<Result>,
  options: { readonly auths?: (host: string) => object; readonly name?: string } = {},
): Promise<Result> {
  await using server = await serve(answer);
  await using directory = await temporaryDirectory();
  const auths = options.auths?.(server.host) ?? {};
  await writeFiles(directory.path, { 'config.json': JSON.stringify({ auths }) });
  await using client = new RegistryClient({
    dockerConfigDirectory: directory.path,
    pullRetries: 2,
    pushRetries: 2,
  });
  const { name = 'x' } = options;
  return await use(client.repository({ registry: server.host, repository: name }), server.requests);
}

const read = async (repository: Repository): Promise<Buffer> => bodyOf(await repository.openBlob(descriptor));

const json = (response: ServerResponse, status: number, body: unknown, headers: object = {}): void => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
};

describe('a challenge', () => {
  const login = (host: string): object => ({ [host]: { username: 'u', password: 'p' } });
  const basic = `Basic ${Buffer.from('u:p').toString('base64')}`;

  /** Wants this authorization, after a challenge. */
  const wanting =
    (authorization: string, challenge: (host: string) => string | string[]): Answer =>
    (request, response) => {
      const { host = '' } = request.headers;
      if (request.url?.startsWith('/token') === true) json(response, 200, { access_token: 'tok' });
      else if (request.headers.authorization === authorization) response.end(content);
      else response.writeHead(401, { 'www-authenticate': challenge(host) }).end();
    };

  for (const [what, authorization, challenge] of [
    ['Basic', basic, () => 'Basic realm="x"'],
    ['Basic without realm, in small letters', basic, () => 'basic'],
    ['Bearer', 'Bearer tok', (host: string) => `Bearer realm="http://${host}/token",service="s"`],
    ['Bearer without service', 'Bearer tok', (host: string) => `Bearer realm="http://${host}/token"`],
    [
      'one of several in one header',
      'Bearer tok',
      (host: string) => `Negotiate, Basic realm="x", Bearer realm="http://${host}/token"`,
    ],
    ['one of several headers', basic, () => ['Negotiate', 'Basic realm="x"']],
  ] as const)
    test(`by ${what} is answered`, async () => {
      await withServer(
        wanting(authorization, challenge as (host: string) => string | string[]),
        async (repository) => assert.deepEqual(await read(repository), content),
        { auths: login },
      );
    });

  for (const [what, challenge] of [
    ['by a scheme that nobody knows', { 'www-authenticate': 'Negotiate' }],
    ['that names no token server', { 'www-authenticate': 'Bearer service="s"' }],
    ['without a challenge', {}],
  ] as const)
    test(`${what} is an error`, async () => {
      await withServer(
        (_request, response) => void response.writeHead(401, challenge).end(),
        (repository) => assert.rejects(read(repository), { code: 'E_REGISTRY_UNAUTHORIZED' }),
        { auths: login },
      );
    });

  for (const [what, body] of [
    ['is not JSON', '<html>'],
    ['has no token', '{}'],
    ['is null', 'null'],
    ['would add a header', '{"token":"a\\r\\nx: y"}'],
  ] as const)
    test(`whose token server's answer ${what} is an error`, async () => {
      await withServer(
        (request, response) => {
          const { host = '' } = request.headers;
          if (request.url?.startsWith('/token') === true) response.end(body);
          else response.writeHead(401, { 'www-authenticate': `Bearer realm="http://${host}/token"` }).end();
        },
        (repository) => assert.rejects(read(repository), { code: 'E_REGISTRY_UNAUTHORIZED' }),
      );
    });

  test('is answered once for many requests, and again when the token was refused', async () => {
    let issued = 0;
    await withServer(
      (request, response) => {
        const { host = '', authorization } = request.headers;
        if (request.url?.startsWith('/token') === true)
          json(response, 200, { token: `t${++issued}`, expires_in: 300 });
        else if (authorization !== `Bearer t${issued}` || issued === 0)
          response.writeHead(401, { 'www-authenticate': `Bearer realm="http://${host}/token"` }).end();
        else response.end(content);
      },
      async (repository) => {
        await Promise.all([1, 2, 3].map(() => read(repository)));
        assert.equal(issued, 1);
        issued = 7;
        await read(repository);
        assert.equal(issued, 8);
      },
    );
  });
});

describe('an answer that refuses', () => {
  test('with 403 has the registry’s words, on one line and without control characters', async () => {
    await withServer(
      (_request, response) =>
        json(response, 403, { errors: [{ code: 'DENIED', message: 'not\n\u001b[31mhere' }] }),
      (repository) =>
        assert.rejects(read(repository), {
          code: 'E_REGISTRY_UNAUTHORIZED',
          message: /answered 403 \(DENIED: not \[31mhere\)/,
        }),
    );
  });

  test('with 404 means no manifest, and an error for a blob', async () => {
    await withServer(
      (_request, response) => void response.writeHead(404).end(),
      async (repository) => {
        assert.equal(await repository.getManifest('latest'), undefined);
        assert.equal(await repository.headManifest('latest'), undefined);
        assert.equal(await repository.statBlob(descriptor.digest), undefined);
        assert.deepEqual(await Array.fromAsync(repository.listTags()), []);
        assert.equal(await repository.deleteManifest('latest'), false);
        await assert.rejects(read(repository), { code: 'E_BLOB_NOT_FOUND' });
      },
    );
  });

  test('with 429 or 5xx is waited out', async () => {
    const date = (): string => new Date(Date.now() + 500).toUTCString();
    await withServer(
      (_request, response, count) => {
        if (count === 1) response.writeHead(429, { 'retry-after': '0' }).end();
        else if (count === 2) response.writeHead(503, { 'retry-after': date() }).end();
        else response.end(content);
      },
      async (repository) => assert.deepEqual(await read(repository), content),
    );
  });

  for (const [what, header, least, most] of [
    ['seconds', () => '3600', 3_600_000, 3_600_000],
    ['a date', () => new Date(Date.now() + 3_600_000).toUTCString(), 3_590_000, 3_600_000],
  ] as const)
    test(`with 429 for longer than it is waited for says how long, given ${what}`, async () => {
      await withServer(
        (_request, response) => void response.writeHead(429, { 'retry-after': header() }).end(),
        async (repository, requests) => {
          const error: unknown = await read(repository).catch((reason: unknown) => reason);
          assert.ok(error instanceof RegistryError);
          assert.equal(error.code, 'E_REGISTRY_RATE_LIMITED');
          assert.ok(error.retryAfter !== undefined && error.retryAfter >= least && error.retryAfter <= most);
          assert.match(error.remedy ?? '', /wait 3[56][0-9]+ seconds/);
          assert.equal(requests.length, 1);
        },
      );
    });

  test('with 429 each time is rate limiting, and with 5xx a fault', async () => {
    for (const [status, code] of [
      [429, 'E_REGISTRY_RATE_LIMITED'],
      [502, 'E_REGISTRY_UNAVAILABLE'],
    ] as const)
      await withServer(
        (_request, response) => void response.writeHead(status, { 'content-type': 'text/html' }).end('<p>'),
        async (repository, requests) => {
          await assert.rejects(repository.getManifest('latest'), {
            code,
            message: new RegExp(`answered ${status}`),
          });
          assert.equal(requests.length, 3);
        },
      );
  });

  test('a changed tag is told apart where tags are immutable', async () => {
    const message = "The image tag '1' already exists and cannot be overwritten because it is immutable.";
    await withServer(
      (_request, response) => json(response, 400, { errors: [{ code: 'TAG_INVALID', message }] }),
      (repository) =>
        assert.rejects(repository.putManifest('1', mediaTypes.ociManifest, manifest), {
          code: 'E_TAG_IMMUTABLE',
          message: /x:1 is there already/,
        }),
    );
  });

  test('a repository below another says that some registries have none', async () => {
    await withServer(
      (_request, response) => json(response, 403, { errors: [{ code: 'DENIED', message: 'no such' }] }),
      (repository) =>
        assert.rejects(repository.uploadBlob(descriptor, open), {
          code: 'E_REGISTRY_UNAUTHORIZED',
          remedy: /no repositories below others/,
        }),
      { name: 'team/app/cache' },
    );
  });

  test('a mount is followed by an upload', async () => {
    for (const status of [202, 400, 401, 404, 405, 500])
      await withServer(
        (request, response) => {
          request.resume().once('end', () => {
            if (request.method === 'HEAD') response.writeHead(404).end();
            else if (request.url?.includes('mount=') === true)
              response.writeHead(status, status === 202 ? { location: '/session' } : {}).end();
            else if (request.method === 'POST') response.writeHead(202, { location: '/session' }).end();
            else response.writeHead(201).end();
          });
        },
        async (repository) =>
          assert.equal(await repository.uploadBlob(descriptor, open, { mountFrom: ['y'] }), 'uploaded'),
      );
  });
});

describe('an answer that is wrong', () => {
  /** Serves `bytes` with Range, cutting the connection after 100,000 bytes. */
  const cutting: Answer = (request, response) => {
    const offset = Number(/bytes=([0-9]+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const rest = content.subarray(offset);
    const range = { 'content-range': `bytes ${offset}-${content.length - 1}/${content.length}` };
    response.writeHead(offset === 0 ? 200 : 206, {
      'content-length': rest.length,
      ...(offset === 0 ? {} : range),
    });
    response.write(rest.subarray(0, 100_000), () => {
      if (rest.length > 100_000) response.destroy();
      else response.end();
    });
  };

  test('a cut download goes on by Range', async () => {
    await withServer(cutting, async (repository, requests) => {
      assert.deepEqual(await read(repository), content);
      assert.ok(requests.length >= 3);
    });
  });

  test('a cut download begins anew where Range is ignored', async () => {
    await withServer(
      (_request, response, count) => {
        response.writeHead(200);
        if (count < 3) response.write(content.subarray(0, 100_000), () => response.destroy());
        else response.end(content);
      },
      async (repository) => assert.deepEqual(await read(repository), content),
    );
  });

  test('another range than was asked for is not taken', async () => {
    await withServer(
      (_request, response, count) => {
        response.writeHead(count === 1 ? 200 : 206, {
          'content-range': `bytes 0-${content.length - 1}/${content.length}`,
        });
        if (count === 1) response.write(content.subarray(0, 100_000), () => response.destroy());
        else response.end(content);
      },
      (repository) => assert.rejects(read(repository), { code: 'E_REGISTRY_REFUSED', message: /range/ }),
    );
  });

  for (const [what, bytes] of [
    ['other content', Buffer.alloc(content.length)],
    ['too much content', Buffer.concat([content, content])],
  ] as const)
    test(`${what} is never taken for the blob`, async () => {
      await withServer(
        (_request, response) => void response.end(bytes),
        async (repository) => {
          await assert.rejects(read(repository), { code: 'E_BLOB_CORRUPT' });
          await assert.rejects(repository.readBlob(descriptor, 1_000_000), {
            code: /^E_BLOB_CORRUPT|E_REGISTRY_REFUSED$/,
          });
        },
      );
    });

  test('too little content is asked for a few times, then given up', async () => {
    await withServer(
      (_request, response) => void response.end(content.subarray(0, 1000)),
      async (repository, requests) => {
        await assert.rejects(read(repository), {
          code: 'E_REGISTRY_UNAVAILABLE',
          message: /broke off 6 times: the connection was closed early/,
        });
        assert.equal(requests.length, 6);
      },
    );
  });

  test('a manifest that breaks off is asked for again', async () => {
    await withServer(
      (_request, response, count) => {
        response.writeHead(200, {
          'content-type': mediaTypes.ociManifest,
          'content-length': manifest.length,
        });
        if (count === 1) response.write(manifest.subarray(0, 10), () => response.destroy());
        else response.end(manifest);
      },
      async (repository) => assert.deepEqual((await repository.getManifest('latest'))?.bytes, manifest),
    );
  });

  test('a manifest that is not what its digest says is never taken', async () => {
    await withServer(
      (_request, response) => void response.end('{}'),
      (repository) => assert.rejects(repository.getManifest(digestOf(manifest)), { code: 'E_BLOB_CORRUPT' }),
    );
  });

  test('a manifest of a tag that is not what the header says is never taken', async () => {
    const headers = { 'docker-content-digest': digestOf('another') };
    await withServer(
      (request, response) => {
        if (request.method === 'HEAD') response.writeHead(404).end();
        else response.writeHead(200, headers).end(manifest);
      },
      (repository) => assert.rejects(repository.getManifest('latest'), { code: 'E_BLOB_CORRUPT' }),
    );
    // Unless it is the header that is wrong: some registries count it over something else.
    await withServer(
      (request, response) => {
        if (request.method !== 'HEAD') response.writeHead(200, headers).end(manifest);
        else response.writeHead(request.url?.endsWith(digestOf(manifest)) === true ? 200 : 404).end();
      },
      async (repository) =>
        assert.deepEqual(Buffer.from((await repository.getManifest('latest'))?.bytes ?? []), manifest),
    );
  });

  test('a manifest without end is not read', async () => {
    await withServer(
      (_request, response) => void response.end(Buffer.alloc(5 * 1024 * 1024)),
      (repository) => assert.rejects(repository.getManifest('latest'), { code: 'E_REGISTRY_REFUSED' }),
    );
  });

  test('HEAD is made up for where it does not work, says too little or lies', async () => {
    const lie = { 'docker-content-digest': digestOf('lie'), 'content-length': 3 };
    for (const head of [[405], [501], [500], [200], [200, lie]] as const)
      await withServer(
        (request, response) => {
          const [status, headers = {}] = head;
          if (request.method === 'HEAD')
            response.writeHead(status, { 'content-type': 'a/b', ...headers }).end();
          else
            response
              .writeHead(200, { 'content-type': `${mediaTypes.ociManifest}; charset=utf-8` })
              .end(manifest);
        },
        async (repository) =>
          assert.deepEqual(await repository.headManifest(digestOf(manifest)), {
            mediaType: mediaTypes.ociManifest,
            digest: digestOf(manifest),
            size: manifest.length,
          }),
      );
  });

  test('a registry that stores another manifest than it was sent is found out', async () => {
    await withServer(
      (_request, response) =>
        void response.writeHead(201, { 'docker-content-digest': digestOf('other') }).end(),
      (repository) =>
        assert.rejects(repository.putManifest('1', mediaTypes.ociManifest, manifest), {
          code: 'E_REGISTRY_REFUSED',
          message: /stored another manifest/,
        }),
    );
  });
});

describe('a list of tags', () => {
  test('is read page by page', async () => {
    const pages: Record<string, [string[], string | undefined]> = {
      '/v2/x/tags/list?n=1000': [['a', 'b'], '</v2/x/tags/list?n=1000&last=b>; rel="next"'],
      '/v2/x/tags/list?n=1000&last=b': [['c'], '<list?n=1000&last=c>; rel=next'],
      '/v2/x/tags/list?n=1000&last=c': [['d'], undefined],
    };
    await withServer(
      (request, response) => {
        const [tags, link] = pages[request.url ?? ''] ?? [[], undefined];
        json(response, 200, { name: 'x', tags }, link === undefined ? {} : { link });
      },
      async (repository) =>
        assert.deepEqual(await Array.fromAsync(repository.listTags()), ['a', 'b', 'c', 'd']),
    );
  });

  test('that goes in circles ends, one without tags is empty, and one that is no list is an error', async () => {
    await withServer(
      (_request, response) =>
        json(response, 200, { tags: ['a', 7, 'b'] }, { link: '</v2/x/tags/list?again>; rel="next"' }),
      async (repository) =>
        assert.deepEqual(await Array.fromAsync(repository.listTags()), ['a', 'b', 'a', 'b']),
    );
    await withServer(
      (_request, response) => json(response, 200, { tags: null }),
      async (repository) => assert.deepEqual(await Array.fromAsync(repository.listTags()), []),
    );
    await withServer(
      (_request, response) => void response.end('<html>'),
      (repository) => assert.rejects(Array.fromAsync(repository.listTags()), { code: 'E_OCI_MALFORMED' }),
    );
  });
});

describe('a redirect', () => {
  const login = (host: string): object => ({ [host]: { username: 'u', password: 'p' } });

  test('to another host is followed without our credentials, for blobs and for manifests', async () => {
    await using elsewhere = await serve((request, response) => {
      response.end(request.url?.includes('manifest') === true ? manifest : content);
    });
    await withServer(
      (request, response) => {
        if (request.headers.authorization === undefined)
          response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
        else response.writeHead(307, { location: `http://${elsewhere.host}${request.url ?? ''}` }).end();
      },
      async (repository) => {
        assert.deepEqual(await read(repository), content);
        assert.deepEqual((await repository.getManifest('latest'))?.bytes, manifest);
        for (const { headers } of elsewhere.requests) assert.equal(headers.authorization, undefined);
      },
      { auths: login },
    );
  });

  test('to another registry that wants a token gets one for anybody', async () => {
    await using elsewhere = await serve((request, response) => {
      const { host = '', authorization } = request.headers;
      if (request.url?.startsWith('/token') === true)
        json(response, 200, { token: authorization === undefined ? 'anybody' : 'somebody' });
      else if (authorization === 'Bearer anybody') response.end(content);
      else response.writeHead(401, { 'www-authenticate': `Bearer realm="http://${host}/token"` }).end();
    });
    await withServer(
      (request, response) =>
        void response.writeHead(302, { location: `http://${elsewhere.host}${request.url ?? ''}` }).end(),
      async (repository) => {
        assert.deepEqual(await read(repository), content);
        const token = elsewhere.requests.find(({ url }) => url?.startsWith('/token'));
        assert.match(token?.url ?? '', /scope=repository%3Ax%3Apull$/);
      },
      { auths: (host) => ({ ...login(host), ...login(elsewhere.host) }) },
    );
  });

  test('on the same host keeps the credentials', async () => {
    await withServer(
      (request, response) => {
        if (request.headers.authorization === undefined)
          response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
        else if (request.url === '/moved') response.end(content);
        else response.writeHead(302, { location: '/moved' }).end();
      },
      async (repository) => assert.deepEqual(await read(repository), content),
      { auths: login },
    );
  });

  test('without end, or to something that is not HTTP, is an error', async () => {
    for (const location of ['/again', 'ftp://x/y'])
      await withServer(
        (_request, response) => void response.writeHead(307, { location }).end(),
        (repository) =>
          assert.rejects(read(repository), { code: 'E_REGISTRY_REFUSED', message: /redirects/ }),
      );
  });
});

test('a registry that is not there is one clear error', async () => {
  await using client = new RegistryClient();
  await assert.rejects(
    client.repository({ registry: '127.0.0.1:1', repository: 'x' }).getManifest('latest'),
    {
      code: 'E_REGISTRY_UNAVAILABLE',
      message: /127\.0\.0\.1:1 cannot be reached/,
    },
  );
});
