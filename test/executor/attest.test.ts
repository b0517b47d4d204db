import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { after, before, describe, test } from 'node:test';
import { parseAttestations } from '../../executor/attest-flags.ts';
import { findPackages } from '../../executor/attest/inventory.ts';
import { hideInText, hideSecrets } from '../../executor/attest/redaction.ts';
import { spdxDocument } from '../../executor/attest/spdx.ts';
import type { Layer } from '../../src/layer/index.ts';
import { debianTar } from '../support/debian.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { plant } from '../support/trees.ts';

type ReadLayer = Pick<Layer, 'uncompressed'>;

/** Layers of which only the content is asked for. */
const asLayers = (layers: readonly ReadLayer[]): readonly Layer[] => layers as readonly Layer[];

describe('packages of an image', () => {
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  before(async () => {
    scratch = await temporaryDirectory();
  });
  after(() => scratch[Symbol.asyncDispose]());

  /** A layer with these files, made by GNU tar. */
  async function layer(files: Readonly<Record<string, string>>): Promise<ReadLayer> {
    const root = join(scratch.path, 'layer');
    await rm(root, { recursive: true, force: true });
    await mkdir(root);
    plant(root, files);
    const tar = execFileSync('tar', ['-C', root, '-cf', '-', '.'], { maxBuffer: 1e8 });
    return { uncompressed: () => Promise.resolve(Readable.from([tar])) };
  }
  const named = async (...layers: readonly ReadLayer[]): Promise<string[]> =>
    (await findPackages(asLayers(layers))).packages.map(({ manager, name, version }) =>
      [manager, name, version].join(' '),
    );
  const npm = (name: string, version: string): string => JSON.stringify({ name, version, license: 'MIT' });

  test('of a Debian base are those that dpkg has', async () => {
    const tar = await debianTar();
    const debian = { uncompressed: () => Promise.resolve(createReadStream(tar).pipe(createGunzip())) };
    const { packages, distribution, omissions } = await findPackages(asLayers([debian]));
    const status = execFileSync('tar', ['-xzOf', tar, './var/lib/dpkg/status'], { encoding: 'utf8' });
    const expected = [...status.matchAll(/^Package: (.*)$/gm)].map(([, name]) => name);
    assert.deepEqual(
      packages.map(({ name }) => name),
      expected,
    );
    assert.deepEqual(distribution, { id: 'debian', versionID: '12' });
    assert.deepEqual(omissions, []);
    const libc = packages.find(({ name }) => name === 'libc6');
    assert.match(status, new RegExp(`^Version: ${libc?.version.replace('+', '\\+') ?? 'none'}$`, 'm'));
    assert.equal(libc?.source, 'glibc');
  });

  test('are read from apk, npm and pip, wherever these put them, and packages that are removed are none', async () => {
    assert.deepEqual(
      await named(
        await layer({
          'lib/apk/db/installed':
            'C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\n\nP:busybox\nV:1.36-r1\nL:GPL-2.0-only\n\n',
          'var/lib/dpkg/status':
            'Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: here\nStatus: install ok installed\nVersion: 2\n',
          'var/lib/dpkg/status.d/tzdata': 'Package: tzdata\nVersion: 2024a\n',
          'app/node_modules/@scope/a/package.json': npm('@scope/a', '1.0.0'),
          'app/node_modules/b/package.json': npm('b', '2.0.0'),
          'app/node_modules/b/lib/package.json': npm('not-a-package', '1.0.0'),
          'app/package.json': npm('app', '1.0.0'),
          'usr/lib/python3/dist-packages/six-1.16.0.dist-info/METADATA':
            'Name: six\nVersion: 1.16.0\n\nVersion: 9\n',
          'usr/lib/python3/dist-packages/old.egg-info': 'Name: old\nVersion: 0.1\n',
        }),
      ),
      [
        ...['npm @scope/a 1.0.0', 'npm b 2.0.0', 'apk musl 1.2.5-r0', 'apk busybox 1.36-r1'],
        ...['pypi old 0.1', 'pypi six 1.16.0', 'deb here 2', 'deb tzdata 2024a'],
      ],
    );
  });

  test('are those of the final root file system: what a layer deletes, hides or replaces is not there', async () => {
    const below = await layer({
      'a/node_modules/x/package.json': npm('x', '1.0.0'),
      'b/node_modules/y/package.json': npm('y', '1.0.0'),
      'c/node_modules/z/package.json': npm('z', '1.0.0'),
      'd/node_modules/w/package.json': npm('w', '1.0.0'),
      'var/lib/dpkg/status': 'Package: old\nVersion: 1\n',
    });
    const above = await layer({
      '.wh.a': '',
      'b/.wh..wh..opq': '',
      'b/node_modules/new/package.json': npm('new', '1.0.0'),
      'c/node_modules': 'a file in place of the directory',
      'd/node_modules/w/package.json': npm('w', '2.0.0'),
      'var/lib/dpkg/status': 'Package: old\nVersion: 2\n',
    });
    assert.deepEqual(await named(below, above), ['npm new 1.0.0', 'npm w 2.0.0', 'deb old 2']);
  });

  test('that cannot be read are said to be missing', async () => {
    const { packages, omissions } = await findPackages(
      asLayers([
        await layer({
          'var/lib/rpm/rpmdb.sqlite': 'x',
          'app/node_modules/broken/package.json': 'not JSON',
          'app/node_modules/huge/package.json': ' '.repeat(1_100_000),
        }),
      ]),
    );
    assert.deepEqual(packages, []);
    assert.deepEqual(omissions, [
      '/app/node_modules/huge/package.json is too large to be read',
      'packages of rpm are not listed: /var/lib/rpm/rpmdb.sqlite is not read',
    ]);
    const document = JSON.stringify(
      spdxDocument(
        { name: 'x', digest: `sha256:${'0'.repeat(64)}`, created: new Date(0) },
        { packages, omissions, distribution: undefined },
      ),
    );
    assert.match(document, /"comment":"Not complete: .*rpm/);
  });
});

test('build arguments that look like secrets are told by name or by value', () => {
  const secrets = {
    NPM_TOKEN: 'x',
    DB_PASSWORD: 'x',
    apiKey: 'x',
    PRIVATE_KEY: 'x',
    GIT_URL: 'https://user:hunter2@example.com/a.git',
    A: 'ghp_0123456789abcdefghijABCDEFGHIJ',
    B: 'AKIAIOSFODNN7EXAMPLE',
    C: '-----BEGIN PRIVATE KEY-----',
    D: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
  };
  const plain = {
    VERSION: '1.2.3',
    COMMIT: '0123456789abcdef0123456789abcdef01234567',
    BASE: 'debian:bookworm@sha256:aabb',
    NODE_ENV: 'production',
    KEYBOARD: 'us',
  };
  const { shown, hidden } = hideSecrets(new Map(Object.entries({ ...secrets, ...plain })));
  assert.deepEqual(hidden, Object.keys(secrets).sort());
  assert.deepEqual(Object.keys(shown), Object.keys(plain).sort());
  assert.equal(
    hideInText('RUN curl -H "Authorization: Bearer abcdefghijklmnop" https://u:p@example.com/x'),
    'RUN curl -H "Authorization: ***" ***example.com/x',
  );
});

test('--attest takes the forms of BuildKit, and refuses what it does not know', () => {
  const min = { mode: 'min', builderID: 'urn:kiln:executor' };
  assert.deepEqual(parseAttestations(['provenance']), { provenance: min, sbom: false });
  assert.deepEqual(parseAttestations(['type=provenance,mode=max', 'type=sbom']), {
    provenance: { ...min, mode: 'max' },
    sbom: true,
  });
  assert.deepEqual(parseAttestations(['type=provenance,builder-id=https://ci.example/1']), {
    provenance: { mode: 'min', builderID: 'https://ci.example/1' },
    sbom: false,
  });
  assert.deepEqual(parseAttestations(['sbom', 'type=sbom,disabled=true']), {
    provenance: undefined,
    sbom: false,
  });
  for (const value of ['type=vex', 'mode=max', 'type=provenance,mode=all', 'type=sbom,generator=x', 'a,b'])
    assert.throws(() => parseAttestations([value]), { category: 'usage' }, value);
});
