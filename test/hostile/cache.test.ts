import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, globSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import {
  type CacheKey,
  type CacheTrust,
  decodeEntry,
  type LookupResult,
  openLayerCache,
  openTrust,
} from '../../src/layercache/index.ts';
import { type Digest, digestHex, type Manifest, mediaTypes } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { messageOf } from '../../src/support/index.ts';
import { serve } from '../support/http.ts';
import { annotated, CacheAttacker } from '../support/hostile-cache.ts';
import { buildInProcess } from '../support/in-process.ts';
import { warningsOf } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

/** What an attack on the first of two steps came to. */
interface Attacked {
  /** What the lookup of that step gave. */
  readonly outcome: string;
  /** Undefined when the build failed. */
  readonly digest: Digest | undefined;
  readonly error: string | undefined;
}

/** Alters an honest entry; `other` is that of the second step. */
type Attack = (attacker: CacheAttacker, entry: Manifest, other: Manifest) => Manifest | Promise<Manifest>;

const lines = ['FROM %BASE%', 'RUN echo one > /one', 'RUN echo two > /two'];
const sourceDate = 1_700_000_000;

describe('a hostile layer cache', () => {
  let shop: Workshop;
  let client: RegistryClient;
  let honest: string;
  let keys: readonly [CacheKey, CacheKey];
  /** Of the image that honest builds make, with a cache and without. */
  let image: Digest;
  let trust: CacheTrust;
  const path = (name: string): string => join(shop.directory, name);
  const openssl = (...args: readonly string[]): void => void execFileSync('openssl', args, { stdio: 'pipe' });

  before(async () => {
    shop = await openWorkshop();
    client = new RegistryClient();
    for (const name of ['main', 'stranger']) {
      openssl('genpkey', '-algorithm', 'ed25519', '-out', path(`${name}.key`));
      openssl('pkey', '-in', path(`${name}.key`), '-pubout', '-out', path(`${name}.pub`));
    }
    trust = await openTrust({ signKey: path('main.key'), verifyKeys: [path('main.pub')] });
    honest = `${shop.registry.host}/honest`;
    const built = await build({ target: honest, signKey: path('main.key') });
    const found = built.events.flatMap((event) => (event.type === 'cache' ? [event.key as CacheKey] : []));
    assert.equal(found.length, 2);
    keys = found as unknown as readonly [CacheKey, CacheKey];
    image = built.digest;
    assert.equal((await build({})).digest, image, 'with a source date the image is the same without a cache');
  });
  after(async () => {
    await client[Symbol.asyncDispose]();
    await shop[Symbol.asyncDispose]();
  });

  interface Caches {
    readonly sources?: readonly string[];
    readonly target?: string;
    readonly signKey?: string;
    readonly verifyKeys?: readonly string[];
    readonly maxAgeSeconds?: number;
    /** Steps after the two. */
    readonly more?: readonly string[];
  }

  function build(caches: Caches): ReturnType<typeof buildInProcess> {
    const { target, sources = target === undefined ? [] : [target], ...others } = caches;
    const { more = [], signKey, verifyKeys = [], ...rest } = others;
    const name = shop.unique('build');
    return buildInProcess({
      dockerfile: [...lines, ...more].join('\n').replace('%BASE%', shop.base),
      context: shop.directory,
      place: path(name),
      // Of its own, so that no layer is there already.
      volume: path(`volume-${name}`),
      sourceDate,
      cacheOptions: { sources, target, signKey, verifyKeys, ...rest },
    });
  }

  type Use = Omit<Caches, 'sources' | 'target'>;

  /** A cache with the two honest entries, of which the first is altered. */
  async function hostileCache(alter: Attack): Promise<string> {
    const attacker = new CacheAttacker(client, honest, `${shop.registry.host}/${shop.unique('hostile')}`);
    const [entry, other] = [await attacker.read(keys[0]), await attacker.read(keys[1])];
    await attacker.put(keys[0], await alter(attacker, entry, other));
    await attacker.put(keys[1], other);
    return attacker.location;
  }

  /** What asking a cache for the first step gives. */
  async function lookUp(cache: string, { verifyKeys, maxAgeSeconds = 3600 }: Use): Promise<LookupResult> {
    const trusted = verifyKeys === undefined ? {} : { trusted: trust.trusted };
    const results = await openLayerCache(cache, client, '', trusted).lookup([keys[0]], { maxAgeSeconds });
    return results.get(keys[0]) ?? assert.fail('there is no answer');
  }

  async function attack(alter: Attack, caches: Use = {}): Promise<Attacked> {
    return use(await hostileCache(alter), caches);
  }

  async function use(source: string, caches: Use): Promise<Attacked> {
    const { outcome } = await lookUp(source, caches);
    try {
      const { digest } = await build({ sources: [source], ...caches });
      return { outcome, digest, error: undefined };
    } catch (error) {
      return { outcome, digest: undefined, error: messageOf(error) };
    }
  }

  const evil = (): Buffer => tarOf(path(shop.unique('evil')), { one: 'evil\n' });

  test('that is untouched is used, with keys and without', async () => {
    for (const verifyKeys of [undefined, [path('main.pub')]]) {
      const { outcome, digest } = await attack((_, entry) => entry, {
        ...(verifyKeys === undefined ? {} : { verifyKeys }),
      });
      assert.deepEqual([outcome, digest], ['hit', image]);
    }
  });

  describe('without keys', () => {
    const harmless: readonly (readonly [what: string, outcome: string, alter: Attack])[] = [
      ['an entry of another key', 'corrupt', (_, _entry, other) => other],
      [
        'a key object that is not that of the key',
        'corrupt',
        (_, entry) => annotated(entry, { key: '{"kind":"run"}' }),
      ],
      [
        'a layer that was made on another chain',
        'hit',
        (_, entry) => annotated(entry, { 'parent-chain': `sha256:${'0'.repeat(64)}` }),
      ],
      [
        'more layers than one',
        'corrupt',
        (_, entry, other) => ({ ...entry, layers: [...entry.layers, ...other.layers] }),
      ],
    ];
    test('what is not what its key, chain and form say is found out, and the step runs', async () => {
      const sources = [];
      for (const [what, expected, alter] of harmless) {
        const cache = await hostileCache(alter);
        assert.equal((await lookUp(cache, {})).outcome, expected, what);
        sources.push(cache);
      }
      assert.equal((await build({ sources })).digest, image, 'all of them at once');
    });

    test('a manifest of five megabytes is not even taken by the registry, nor from one that takes it', async () => {
      const huge: Attack = (_, entry) => annotated(entry, { origin: 'x'.repeat(5_000_000) });
      await assert.rejects(hostileCache(huge), /400|413/);
      const entry = await new CacheAttacker(client, honest, honest).read(keys[0]);
      const bytes = JSON.stringify(annotated(entry, { origin: 'x'.repeat(5_000_000) }));
      await using lenient = await serve((request, response) => {
        response.setHeader('content-type', mediaTypes.ociManifest);
        response.end(request.url?.includes('/manifests/') === true ? bytes : '{}');
      });
      const { outcome, digest } = await use(`${lenient.host}/cache`, {});
      assert.notEqual(outcome, 'hit');
      assert.equal(digest, image);
    });

    test('a configuration of fifty megabytes is never read', async () => {
      const { outcome, digest } = await attack(async (attacker, entry) => ({
        ...entry,
        config: await attacker.upload(Buffer.alloc(50_000_000, ' '), entry.config.mediaType),
      }));
      assert.deepEqual([outcome, digest], ['hit', image]);
    });

    const fatal: readonly (readonly [what: string, error: RegExp, more: readonly string[], alter: Attack])[] =
      [
        [
          'a layer of another size',
          /longer than its descriptor says/,
          [],
          (_, entry) => ({ ...entry, layers: entry.layers.map((layer) => ({ ...layer, size: 7 })) }),
        ],
        [
          'a layer that is not what its DiffID says, once a step runs upon it',
          /DiffID|digest/i,
          ['RUN cat /one'],
          async (attacker, entry) =>
            attacker.withLayer(entry, evil(), entry.annotations?.['dev.kiln.cache.diff-id']),
        ],
        [
          'a layer that writes beside the root, once a step runs upon it',
          /outside|unsafe|\.\./i,
          ['RUN true'],
          async (attacker, entry) =>
            attacker.withLayer(entry, tarOf(path(shop.unique('escape')), { one: 'x' }, '../../../escaped')),
        ],
      ];
    for (const [what, message, more, alter] of fatal)
      test(`${what} ends the build, and nothing is written`, async () => {
        const { digest, error } = await attack(alter, { more });
        assert.equal(digest, undefined);
        assert.match(error ?? '', message);
        assert.deepEqual(globSync(join(shop.directory, '**/escaped')), []);
      });

    test('a blob that was altered where the registry keeps it ends the build', async () => {
      const attacker = new CacheAttacker(client, honest, `${shop.registry.host}/${shop.unique('altered')}`);
      const entry = await attacker.read(keys[0]);
      const made = await attacker.withLayer(entry, evil());
      await attacker.put(keys[0], made);
      const hex = digestHex(made.layers[0]?.digest ?? ('' as Digest));
      const file = join(
        shop.registry.storage,
        `docker/registry/v2/blobs/sha256/${hex.slice(0, 2)}/${hex}/data`,
      );
      assert.ok(existsSync(file));
      await writeFile(file, Buffer.alloc(made.layers[0]?.size ?? 0, 'x'));
      const { digest, error } = await use(attacker.location, {});
      assert.equal(digest, undefined);
      assert.match(error ?? '', /digest|damaged|corrupt/i);
    });

    test('a wrong size is also found out when the blob is mounted across', async () => {
      const attacker = new CacheAttacker(client, honest, `${shop.registry.host}/${shop.unique('size')}`);
      const entry = await attacker.read(keys[0]);
      await attacker.put(keys[0], { ...entry, layers: entry.layers.map((layer) => ({ ...layer, size: 7 })) });
      await attacker.put(keys[1], await attacker.read(keys[1]));
      const context = await shop.context({ Dockerfile: lines.join('\n') });
      const destination = `${shop.registry.host}/${shop.unique('mounted')}:1`;
      const built = await shop.build(
        context,
        ['--cache-from', attacker.location, '--destination', destination],
        { env: { SOURCE_DATE_EPOCH: String(sourceDate) } },
      );
      assert.equal(built.code, 4, built.stderr);
      assert.match(built.stderr, /the registry has [0-9]+ bytes under it, not 7/);
      assert.throws(() => skopeoInspect(destination));
    });

    test('a layer that its writer made himself is used: that is what keys are for', async () => {
      const { outcome, digest, error } = await attack((attacker, entry) => attacker.withLayer(entry, evil()));
      assert.equal(error, undefined);
      assert.equal(outcome, 'hit');
      assert.notEqual(digest, image);
    });
  });

  describe('with --cache-verify-key', () => {
    const signature = 'signature';
    const refused: readonly (readonly [what: string, outcome: string, alter: Attack])[] = [
      ['an entry that is not signed', 'untrusted', (_, entry) => annotated(entry, { [signature]: null })],
      [
        'a signature that is none',
        'untrusted',
        (_, entry) => annotated(entry, { [signature]: 'v1 ed25519 - xyz' }),
      ],
      [
        'the signature of another entry',
        'untrusted',
        (_, entry, other) =>
          annotated(entry, { [signature]: other.annotations?.['dev.kiln.cache.signature'] ?? '' }),
      ],
      ["a stranger's signature", 'untrusted', (_, entry) => signedBy('stranger.key', entry)],
      ['an entry of another key', 'corrupt', (_, _entry, other) => other],
      ['an altered layer', 'untrusted', (attacker, entry) => attacker.withLayer(entry, evil())],
      [
        'an altered layer under the same DiffID',
        'untrusted',
        (attacker, entry) => attacker.withLayer(entry, evil(), entry.annotations?.['dev.kiln.cache.diff-id']),
      ],
      [
        'another DiffID',
        'untrusted',
        (_, entry) => annotated(entry, { 'diff-id': `sha256:${'1'.repeat(64)}` }),
      ],
      [
        'no layer at all',
        'untrusted',
        (_, entry) => ({ ...annotated(entry, { 'diff-id': null }), layers: [] }),
      ],
      [
        'another size',
        'untrusted',
        (_, entry) => ({ ...entry, layers: entry.layers.map((layer) => ({ ...layer, size: 7 })) }),
      ],
      [
        'another compression',
        'untrusted',
        (_, entry) => ({
          ...entry,
          layers: entry.layers.map((layer) => ({
            ...layer,
            mediaType: 'application/vnd.oci.image.layer.v1.tar+zstd',
          })),
        }),
      ],
      [
        'another chain',
        'untrusted',
        (_, entry) => annotated(entry, { 'parent-chain': `sha256:${'0'.repeat(64)}` }),
      ],
      [
        'a later time',
        'untrusted',
        (_, entry) =>
          annotated(entry, {
            'org.opencontainers.image.created': new Date(Date.now() + 3600_000).toISOString(),
          }),
      ],
      ['another creator', 'untrusted', (_, entry) => annotated(entry, { creator: 'kiln/9' })],
    ];
    test('nothing is used that is not exactly what one of the keys signed', async () => {
      const sources = [];
      const verifyKeys = [path('main.pub')];
      for (const [what, expected, alter] of refused) {
        const cache = await hostileCache(alter);
        const result = await lookUp(cache, { verifyKeys });
        assert.equal(result.outcome, expected, what);
        if (result.outcome === 'untrusted')
          assert.equal(result.detail, 'the entry is not signed by a key given with --cache-verify-key');
        sources.push(cache);
      }
      const { digest, events } = await build({ sources, verifyKeys });
      assert.equal(digest, image, 'all of them at once');
      const lookups = events.flatMap((event) => (event.type === 'cache' ? [event.outcome] : []));
      assert.deepEqual(lookups, ['untrusted', 'hit']);
    });

    async function signedBy(name: string, entry: Manifest): Promise<Manifest> {
      const { signer } = await openTrust({ signKey: path(name), verifyKeys: [] });
      assert.ok(signer !== undefined);
      const decoded = decodeEntry(keys[0], Buffer.from(JSON.stringify(entry)));
      const { keyID, value } = await signer.sign(decoded);
      return annotated(entry, { [signature]: `v1 ed25519 ${keyID ?? '-'} ${value.toString('base64')}` });
    }

    test('an old entry that is put back expires by the time that is signed', async () => {
      const old = new Date(Date.now() - 20 * 86_400_000);
      const replay: Attack = async (_, entry) =>
        signedBy('main.key', annotated(entry, { 'org.opencontainers.image.created': old.toISOString() }));
      const fresh = { verifyKeys: [path('main.pub')], maxAgeSeconds: 14 * 86_400 };
      const { outcome, digest } = await attack(replay, fresh);
      assert.deepEqual([outcome, digest], ['expired', image]);
      const longer = await attack(replay, { ...fresh, maxAgeSeconds: 30 * 86_400 });
      assert.deepEqual([longer.outcome, longer.digest], ['hit', image]);
    });

    test('a build says why its step ran, and stores nothing that it would not use itself', async () => {
      const context = await shop.context({ Dockerfile: lines.join('\n') });
      const cache = `${shop.registry.host}/${shop.unique('unsigned')}`;
      await build({ target: cache });
      const verify = ['--cache-verify-key', path('stranger.pub'), '--cache-verify-key', path('main.pub')];
      const args = ['--cache', '--cache-repo', cache, '--no-push', ...verify];
      const options = { env: { SOURCE_DATE_EPOCH: String(sourceDate) } };
      const first = await shop.build(context, [...args, '--cache-sign-key', path('main.key')], options);
      assert.equal(first.code, 0, first.stderr);
      const reasons = first.events.flatMap((event) => (event.type === 'step-end' ? [event.detail] : []));
      assert.match(reasons[0] ?? '', /not signed by a key given/);
      const second = await shop.build(context, args, options);
      assert.equal(
        second.events.filter((event) => event.type === 'cache' && event.outcome === 'hit').length,
        2,
      );
      const other = ['--cache-verify-key', path('stranger.pub')];
      const third = await shop.build(
        context,
        ['--cache', '--cache-repo', cache, '--no-push', ...other, '--cache-sign-key', path('main.key')],
        options,
      );
      assert.ok(warningsOf(third).some((text) => text.includes('is none of --cache-verify-key')));
    });
  });
});

/** A tar file of such files, made by GNU tar. @param renamed what the first one is called in it instead. */
function tarOf(directory: string, files: Readonly<Record<string, string>>, renamed?: string): Buffer {
  const [first = ''] = Object.keys(files);
  execFileSync('mkdir', ['-p', directory]);
  for (const [name, content] of Object.entries(files))
    execFileSync('tee', [join(directory, name)], { input: content, stdio: ['pipe', 'ignore', 'pipe'] });
  return execFileSync('tar', [
    ...['-C', directory, '--numeric-owner', '--owner=0', '--group=0', '-P'],
    ...(renamed === undefined ? [] : [`--transform=s,^${first}$,${renamed},`]),
    ...['-cf', '-', ...Object.keys(files)],
  ]);
}

function skopeoInspect(reference: string): string {
  return execFileSync('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${reference}`], {
    encoding: 'utf8',
    stdio: 'pipe',
  });
}
