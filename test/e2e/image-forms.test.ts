import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { decodeManifest, layerCompression, type Manifest, mediaTypes } from '../../src/oci/index.ts';
import { TestAuthority } from '../support/certificates.ts';
import { unpackWithOtherTools } from '../support/check-image.ts';
import { bodyOf, listen } from '../support/http.ts';
import { type Ended, stepsThat } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

let workshop: Workshop;
let context: string;
before(async () => {
  workshop = await openWorkshop();
  context = await workshop.context({
    Dockerfile: 'FROM %BASE%\nRUN for i in $(seq 20000); do echo "line $i"; done > /lines\n',
  });
});
after(() => workshop[Symbol.asyncDispose]());

/** Builds with a layer cache that the builds of this file share. */
async function build(...args: string[]): Promise<Ended> {
  return workshop.build(context, ['--cache', '--cache-repo', `${workshop.registry.host}/cache`, ...args]);
}

async function pushed(prefix: string, ...args: string[]): Promise<{ image: string; ended: Ended }> {
  const image = `${workshop.registry.host}/${workshop.unique(prefix)}:1`;
  const ended = await build('--destination', image, ...args);
  assert.equal(ended.code, 0, ended.messages);
  return { image, ended };
}

function inspect(image: string, ...args: string[]): Buffer {
  return execFileSync('skopeo', ['inspect', '--tls-verify=false', ...args, `docker://${image}`]);
}

const manifestOf = (image: string): Manifest => decodeManifest(inspect(image, '--raw'));
const diffIDsOf = (image: string): unknown =>
  (JSON.parse(inspect(image, '--config', '--raw').toString()) as { rootfs: { diff_ids: unknown } }).rootfs
    .diff_ids;

describe("an image of Docker's format", () => {
  test('has Docker’s media types throughout', async () => {
    const { image } = await pushed('docker', '--image-format', 'docker');
    const { mediaType, config, layers } = manifestOf(image);
    assert.equal(mediaType, mediaTypes.dockerManifest);
    assert.equal(config.mediaType, mediaTypes.dockerConfig);
    assert.deepEqual(new Set(layers.map((layer) => layer.mediaType)), new Set([mediaTypes.dockerLayerGzip]));
    const root = join(unpackWithOtherTools(workshop.directory, image), 'rootfs');
    assert.match(readFileSync(join(root, 'lines'), 'utf8'), /^line 20000$/m);
  });

  for (const [what, args, named] of [
    ['zstd', ['--compression', 'zstd'], 'zstd'],
    ['annotations', ['--annotation', 'a=b'], 'annotations'],
  ] as const)
    test(`cannot have ${what}`, async () => {
      const ended = await build('--no-push', '--image-format', 'docker', ...args);
      assert.equal(ended.code, 2);
      assert.match(
        ended.messages,
        new RegExp(`Docker's format cannot have .*${named}.*\\[E_IMAGE_FORMAT\\]`),
      );
    });

  test('from a base with zstd needs --force-compression, which keeps its content', async () => {
    const plain = await workshop.context({ Dockerfile: 'FROM %BASE%\n' });
    const base = `${workshop.registry.host}/zstd-base:1`;
    const made = await workshop.build(plain, [
      ...['--destination', base, '--compression', 'zstd', '--force-compression'],
    ]);
    assert.equal(made.code, 0, made.messages);
    assert.deepEqual(
      manifestOf(base).layers.map(({ mediaType }) => mediaType),
      [mediaTypes.ociLayerZstd],
    );
    const onZstd = await workshop.context({ Dockerfile: `FROM ${base}\nRUN echo > /x\n` });
    const image = `${workshop.registry.host}/${workshop.unique('forced')}:1`;
    const args = ['--destination', image, '--image-format', 'docker'];

    const refused = await workshop.build(onZstd, args);
    assert.equal(refused.code, 2);
    assert.match(refused.messages, /compressed with zstd.*\[E_IMAGE_FORMAT\][^]*--force-compression/);
    assert.deepEqual(stepsThat('ran', refused), [], 'before anything is run');

    const forced = await workshop.build(onZstd, [...args, '--force-compression']);
    assert.equal(forced.code, 0, forced.messages);
    assert.deepEqual(
      manifestOf(image).layers.map(({ mediaType }) => mediaType),
      [mediaTypes.dockerLayerGzip, mediaTypes.dockerLayerGzip],
    );
    assert.equal((diffIDsOf(image) as string[])[0], (diffIDsOf(base) as string[])[0]);
    unpackWithOtherTools(workshop.directory, image);
  });
});

describe('compression', () => {
  test('of a level makes other layers, and takes none from the cache for it', async () => {
    const { image: ordinary } = await pushed('level-5', '--no-cache');
    const { image: stored } = await pushed('level-0', '--no-cache', '--compression-level', '0');
    const size = (image: string): number => manifestOf(image).layers.at(-1)?.size ?? 0;
    assert.ok(size(stored) > 2 * size(ordinary), `${size(stored)} ${size(ordinary)}`);
    const { ended } = await pushed('level-9', '--compression-level', '9');
    assert.deepEqual(stepsThat('ran', ended), [], 'a level is in no key');
  });

  test('that is forced reaches the base and what comes from the cache', async () => {
    const { image: plain } = await pushed('gzip');
    const { image, ended } = await pushed('zstd', '--compression', 'zstd', '--force-compression');
    assert.deepEqual(stepsThat('ran', ended), []);
    const compressions = manifestOf(image).layers.map(({ mediaType }) => layerCompression(mediaType));
    assert.deepEqual(compressions, ['zstd', 'zstd']);
    assert.deepEqual(diffIDsOf(image), diffIDsOf(plain));
  });

  test('has no more levels than it has', async () => {
    for (const level of ['10', '23', 'x']) {
      const ended = await build('--no-push', '--compression-level', level);
      assert.equal(ended.code, 2, level);
      assert.match(ended.messages, /compression-level/);
    }
  });
});

test('annotations are in the manifest, and change nothing else', async () => {
  const { image: plain } = await pushed('plain');
  const { image } = await pushed('annotated', '--annotation', 'a.b=c d', '--annotation', 'manifest:e=f');
  const { annotations, ...rest } = manifestOf(image);
  assert.deepEqual(annotations, { 'a.b': 'c d', e: 'f' });
  assert.deepEqual(rest, manifestOf(plain));
});

test('the index of an image that has none cannot be annotated', async () => {
  const ended = await build('--no-push', '--annotation', 'index:a=b');
  assert.equal(ended.code, 2);
  assert.match(ended.messages, /an image of one platform has none/);
});

test('digests are told in files of three kinds, to a web server, and to Cloud Build', async () => {
  const one = `${workshop.registry.host}/${workshop.unique('one')}`;
  const two = `${workshop.registry.host}/${workshop.unique('two')}`;
  const file = (name: string): string => join(workshop.directory, 'digests', name);
  await mkdir(file('output'), { recursive: true });
  const authority = await TestAuthority.create(workshop.directory);
  const { certificate, key } = await authority.issue('server');
  const requests: string[] = [];
  const server = createServer(
    { cert: readFileSync(certificate), key: readFileSync(key) },
    (request, response) => {
      void bodyOf(request).then((body) => {
        requests.push(`${request.method ?? ''} ${request.url ?? ''} ${body.toString()}`);
        response.writeHead(request.url?.startsWith('/refused') === true ? 403 : 200).end();
      });
    },
  );
  await using address = await listen(server);
  const args = (path: string): string[] => [
    ...['--context', context, '--cache-dir', workshop.volume, '--destination', `${one}:a`],
    ...['--destination', `${two}:b`, '--registry-certificate', `${address.host}=${authority.certificate}`],
    ...['--digest-file', `https://${address.host}${path}`, '--image-name-with-digest-file', file('named')],
    ...['--image-name-tag-with-digest-file', file('new/tagged')],
  ];
  const env = { BUILDER_OUTPUT: file('output') };
  const ended = await workshop.build(context, args('/put?signature=secret'), { env });
  assert.equal(ended.code, 0, ended.messages);
  const { Digest: digest } = JSON.parse(inspect(`${one}:a`).toString()) as { Digest: string };
  assert.deepEqual(requests, [`PUT /put?signature=secret ${digest}`]);
  assert.equal(readFileSync(file('named'), 'utf8'), `${one}@${digest}\n${two}@${digest}\n`);
  assert.equal(readFileSync(file('new/tagged'), 'utf8'), `${one}:a@${digest}\n${two}:b@${digest}\n`);
  assert.equal(
    readFileSync(file('output/images'), 'utf8'),
    `{"name":"${one}:a","digest":"${digest}"}\n{"name":"${two}:b","digest":"${digest}"}\n`,
  );

  const refused = await workshop.build(context, args('/refused?signature=secret'));
  assert.equal(refused.code, 3, refused.messages);
  assert.match(refused.messages, /PUT https:\/\/\S+\/refused: the server answered 403 \[E_WEB_REFUSED\]/);
  assert.doesNotMatch(refused.stderr, /secret/);
});
