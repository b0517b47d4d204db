import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type CacheKey, openLayerCache, openTrust } from '../../src/layercache/index.ts';
import { signedBytes } from '../../src/layercache/signature.ts';
import type { ChainID, DiffID, Digest } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { storeChain } from '../support/cache-chains.ts';
import { kiln, temporaryDirectory } from '../support/programs.ts';

const digest = `sha256:${'a'.repeat(64)}` as Digest;
const entry = {
  key: 'b'.repeat(64) as CacheKey,
  parentChainID: digest as ChainID,
  layer: {
    diffID: digest as DiffID,
    descriptor: { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest, size: 3 },
  },
  created: new Date(0),
  creator: 'kiln/1',
};

describe('signatures of cache entries', () => {
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  const path = (name: string): string => join(scratch.path, name);
  const openssl = (...args: readonly string[]): string =>
    execFileSync('openssl', args, { encoding: 'utf8', stdio: 'pipe' });
  before(async () => {
    scratch = await temporaryDirectory();
    for (const name of ['old', 'new']) {
      openssl('genpkey', '-algorithm', 'ed25519', '-out', path(`${name}.key`));
      openssl('pkey', '-in', path(`${name}.key`), '-pubout', '-out', path(`${name}.pub`));
    }
  });
  after(() => scratch[Symbol.asyncDispose]());

  test('cover these bytes, in this form, which may never change', () => {
    assert.equal(
      signedBytes(entry).toString(),
      'dev.kiln.cache.entry-signature/v1\n' +
        `{"created":"1970-01-01T00:00:00.000Z","creator":"kiln/1","key":"${'b'.repeat(64)}",` +
        `"layer":{"diffID":"${digest}","digest":"${digest}",` +
        '"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":3},' +
        `"parentChainID":"${digest}"}`,
    );
  });

  test('are those that openssl makes and verifies, and name the key as openssl and sha256sum do', async () => {
    const { signer } = await openTrust({ signKey: path('new.key'), verifyKeys: [] });
    const { value, keyID } = (await signer?.sign(entry)) ?? assert.fail('there is no signer');
    await writeFile(path('bytes'), signedBytes(entry));
    await writeFile(path('signature'), value);
    const key = ['-pubin', '-inkey', path('new.pub')];
    const files = ['-in', path('bytes'), '-sigfile', path('signature')];
    assert.match(openssl('pkeyutl', '-verify', '-rawin', ...key, ...files), /Verified Successfully/);
    const named = `openssl pkey -pubin -in '${path('new.pub')}' -outform DER | sha256sum | cut -c 1-32`;
    assert.equal(execFileSync('sh', ['-c', named], { encoding: 'utf8' }).trim(), keyID);
  });

  test('are made with a key from the environment, or by a command in several forms', async () => {
    process.env.KILN_TEST_SIGN_KEY = readFileSync(path('new.key'), 'utf8');
    const sign = `f=$(mktemp -p '${scratch.path}'); cat > $f; openssl pkeyutl -sign -rawin -inkey '${path('new.key')}' -in $f`;
    const { trusted } = await openTrust({ signKey: undefined, verifyKeys: [path('new.pub')] });
    try {
      for (const signKey of [
        'env:KILN_TEST_SIGN_KEY',
        `cmd:${sign}`,
        `cmd:${sign} | base64 -w0`,
        `cmd:printf vault:v1:; ${sign} | base64`,
      ]) {
        const { signer } = await openTrust({ signKey, verifyKeys: [] });
        const signature = await signer?.sign(entry);
        assert.ok(trusted?.signerOf(entry, signature) !== undefined, signKey);
        assert.equal(signature?.keyID === undefined, signKey.startsWith('cmd:'));
      }
    } finally {
      delete process.env.KILN_TEST_SIGN_KEY;
    }
    const { signer } = await openTrust({ signKey: `cmd:${sign}`, verifyKeys: [path('new.pub')] });
    assert.ok(
      trusted?.has((await signer?.sign(entry))?.keyID ?? ''),
      'the id is known where the key is given',
    );
  });

  test('of a command that fails, answers something else or has another key are none', async () => {
    const cases = [
      ['cmd:cat > /dev/null; echo no such key >&2; exit 7', /exit code 7: no such key/],
      ['cmd:cat', /neither the 64 bytes/],
      ['cmd:true', /neither the 64 bytes/],
      ['cmd:head -c 64 /dev/zero', /of no key that is given/],
    ] as const;
    for (const [signKey, message] of cases) {
      const { signer } = await openTrust({ signKey, verifyKeys: [path('new.pub')] });
      await assert.rejects(signer?.sign(entry) ?? Promise.resolve(), { code: 'E_CACHE_SIGNING', message });
    }
  });

  test('want ed25519 keys of the right kind, and say how to make them', async () => {
    openssl('genpkey', '-algorithm', 'rsa', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', path('rsa.key'));
    openssl('pkey', '-in', path('rsa.key'), '-pubout', '-out', path('rsa.pub'));
    const cases = [
      [{ signKey: path('rsa.key'), verifyKeys: [] }, /of the kind rsa, not ed25519/],
      [{ signKey: path('new.pub'), verifyKeys: [] }, /no private key/],
      [{ signKey: path('nothing'), verifyKeys: [] }, /cannot be read/],
      [{ signKey: 'env:KILN_TEST_NOTHING', verifyKeys: [] }, /no such variable/],
      [{ signKey: undefined, verifyKeys: [path('new.key')] }, /is a private key/],
      [{ signKey: undefined, verifyKeys: [path('rsa.pub')] }, /of the kind rsa/],
    ] as const;
    for (const [flags, message] of cases)
      await assert.rejects(openTrust(flags), { message, category: 'usage' });
  });

  test('are shown by warmer remote, and verified with several keys while one takes the place of another', async () => {
    await using client = new RegistryClient();
    const location = `oci:${path('cache')}`;
    const signed = async (run: string, key: string | undefined): Promise<void> => {
      const trust = await openTrust({ signKey: key, verifyKeys: [] });
      await storeChain(openLayerCache(location, client, 'test', trust), { steps: [{ run }] });
    };
    await signed('a', path('old.key'));
    await signed('b', path('new.key'));
    await signed('c', undefined);
    const list = async (...args: readonly string[]): Promise<Record<string, unknown>> => {
      const { code, stdout, stderr } = await kiln('warmer', [
        ...['remote', 'ls', '--cache-repo', location, '-o', 'json', ...args],
      ]);
      assert.equal(code, 0, stderr);
      const { entries } = JSON.parse(stdout) as {
        entries: readonly { instruction: string; signedBy: string | null; signatureValid: boolean | null }[];
      };
      return Object.fromEntries(
        entries.map(({ instruction, signedBy, signatureValid }) => [
          instruction,
          [signedBy !== null, signatureValid],
        ]),
      );
    };
    assert.deepEqual(await list(), {
      'RUN a': [true, null],
      'RUN b': [true, null],
      'RUN c': [false, null],
    });
    const verify = ['--cache-verify-key', path('new.pub')];
    assert.deepEqual(await list(...verify), {
      'RUN a': [true, false],
      'RUN b': [true, true],
      'RUN c': [false, null],
    });
    await writeFile(
      path('both.pub'),
      readFileSync(path('new.pub'), 'utf8') + readFileSync(path('old.pub'), 'utf8'),
    );
    assert.deepEqual((await list('--cache-verify-key', path('both.pub')))['RUN a'], [true, true]);
    const { stdout } = await kiln('warmer', ['remote', 'ls', '--cache-repo', location, ...verify]);
    assert.match(stdout, /SIGNED BY/);
    assert.match(stdout, /[0-9a-f]{12} \(verified\) .*RUN b/);
    assert.match(stdout, /[0-9a-f]{12} \(by no key given\) .*RUN a/);
  });
});
