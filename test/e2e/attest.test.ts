import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { unpackWithOtherTools } from '../support/check-image.ts';
import { existsSync } from 'node:fs';
import { type Ended } from '../support/programs.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

interface Manifest {
  readonly manifests: readonly {
    readonly digest: string;
    readonly platform: { readonly os: string };
    readonly annotations?: Readonly<Record<string, string>>;
  }[];
  readonly layers: readonly {
    readonly digest: string;
    readonly annotations?: Readonly<Record<string, string>>;
  }[];
}

interface Statement {
  readonly _type: string;
  readonly predicateType: string;
  readonly subject: readonly { readonly name: string; readonly digest: { readonly sha256: string } }[];
  readonly predicate: Record<string, never>;
}

interface LayerOrigin {
  readonly digest: string;
  readonly from: string;
  readonly base?: { readonly reference: string; readonly digest: string };
  readonly step?: string;
  readonly key?: string;
  readonly cacheHit?: boolean;
  readonly cache?: string;
  readonly created?: string;
  readonly creator?: string;
  readonly signedBy?: string;
}

describe('--attest', () => {
  let shop: Workshop;
  let context: string;
  before(async () => {
    shop = await openWorkshop();
    context = await shop.context({
      Dockerfile: [
        'FROM %BASE%',
        'ARG VERSION',
        'ARG NPM_TOKEN',
        'RUN echo $VERSION > /version',
        'COPY package.json /app/node_modules/left-pad/package.json',
      ].join('\n'),
      'package.json': '{"name":"left-pad","version":"1.3.0","license":"WTFPL"}',
    });
  });
  after(() => shop[Symbol.asyncDispose]());

  /** What a registry has under a name or digest, as it is. */
  const raw = async (repository: string, target: string, kind = 'manifests'): Promise<string> => {
    const accept = ['index', 'manifest']
      .map((type) => `application/vnd.oci.image.${type}.v1+json`)
      .join(', ');
    const answer = await fetch(`http://${shop.registry.host}/v2/${repository}/${kind}/${target}`, {
      headers: { accept },
    });
    assert.equal(answer.status, 200);
    return answer.text();
  };

  async function build(
    name: string,
    args: readonly string[],
    env: Record<string, string> = {},
  ): Promise<Ended> {
    const destination = `${shop.registry.host}/${name}:1`;
    const secrets = ['--build-arg', 'VERSION=7', '--build-arg', 'NPM_TOKEN=hunter2'];
    const ended = await shop.build(context, ['--destination', destination, ...secrets, ...args], { env });
    assert.equal(ended.code, 0, ended.stderr);
    return ended;
  }

  interface Attested {
    readonly image: string;
    readonly statements: ReadonlyMap<string, Statement>;
    readonly text: string;
  }

  async function read(name: string): Promise<Attested> {
    const index = JSON.parse(await raw(name, '1')) as Manifest;
    const [image, attestation, ...others] = index.manifests;
    assert.deepEqual(others, []);
    assert.ok(image !== undefined && attestation !== undefined);
    assert.deepEqual(attestation.annotations, {
      'vnd.docker.reference.digest': image.digest,
      'vnd.docker.reference.type': 'attestation-manifest',
    });
    assert.equal(attestation.platform.os, 'unknown');
    const { layers } = JSON.parse(await raw(name, attestation.digest)) as Manifest;
    const texts = await Promise.all(layers.map(({ digest }) => raw(name, digest, 'blobs')));
    const statements = texts.map((text) => JSON.parse(text) as Statement);
    assert.deepEqual(
      layers.map(({ annotations }) => annotations?.['in-toto.io/predicate-type']),
      statements.map(({ predicateType }) => predicateType),
    );
    for (const { _type, subject } of statements) {
      assert.equal(_type, 'https://in-toto.io/Statement/v1');
      assert.equal(`sha256:${subject[0]?.digest.sha256 ?? ''}`, image.digest);
      assert.match(
        subject[0]?.name ?? '',
        new RegExp(`^pkg:docker/127\\.0\\.0\\.1%3A[0-9]+/${name}@1\\?platform=`),
      );
    }
    return {
      image: image.digest,
      statements: new Map(statements.map((statement) => [statement.predicateType, statement])),
      text: texts.join('\n'),
    };
  }

  const layersOf = ({ statements }: Attested): LayerOrigin[] => {
    const predicate = statements.get('https://slsa.dev/provenance/v1')?.predicate as unknown as {
      runDetails: { metadata: { kiln_layers: LayerOrigin[] } };
    };
    return predicate.runDetails.metadata.kiln_layers;
  };

  test('names for every layer the base, or the step, its key, whether it was a hit, when and by whom it was made', async () => {
    const cache = `${shop.registry.host}/lineage/cache`;
    const key = join(shop.directory, 'cache.key');
    execFileSync('openssl', ['genpkey', '-algorithm', 'ed25519', '-out', key], { stdio: 'pipe' });
    execFileSync('openssl', ['pkey', '-in', key, '-pubout', '-out', `${key}.pub`], { stdio: 'pipe' });
    const args = [
      ...['--cache', '--cache-repo', cache, '--attest', 'type=provenance,mode=max', '--attest', 'type=sbom'],
      ...['--cache-sign-key', key, '--cache-verify-key', `${key}.pub`],
    ];
    await build('lineage', args);
    const first = await read('lineage');
    const [base, run, copy] = layersOf(first);
    const baseDigest = execFileSync(
      'skopeo',
      ['inspect', '--tls-verify=false', '--format', '{{.Digest}}', `docker://${shop.base}`],
      { encoding: 'utf8' },
    ).trim();
    assert.deepEqual([base?.from, base?.base], ['base', { reference: shop.base, digest: baseDigest }]);
    assert.deepEqual([run?.step, run?.cacheHit], ['[stage-0 3/4]', false]);
    assert.match(copy?.key ?? '', /^[0-9a-f]{64}$/);

    await build('lineage', args);
    const second = await read('lineage');
    assert.equal(second.image, first.image);
    const [, again] = layersOf(second);
    assert.deepEqual(
      [again?.cacheHit, again?.cache, again?.key, again?.digest],
      [true, cache, run?.key, run?.digest],
    );
    assert.match(again?.creator ?? '', /^kiln\//);
    assert.match(again?.signedBy ?? '', /^[0-9a-f]{32}$/);
    assert.ok(new Date(again?.created ?? '').getTime() <= Date.now());

    const { predicate } = second.statements.get('https://slsa.dev/provenance/v1') ?? assert.fail();
    const { externalParameters, resolvedDependencies } = predicate.buildDefinition as unknown as {
      externalParameters: { request: Record<string, unknown> };
      resolvedDependencies: readonly { uri: string; digest: { sha256: string } }[];
    };
    assert.deepEqual(externalParameters.request.buildArguments, { VERSION: '7' });
    assert.deepEqual(externalParameters.request.hiddenBuildArguments, ['NPM_TOKEN']);
    assert.deepEqual(
      resolvedDependencies.map(({ digest }) => `sha256:${digest.sha256}`),
      [baseDigest],
    );
    assert.doesNotMatch(second.text, /hunter2/);

    const sbom = JSON.stringify(second.statements.get('https://spdx.dev/Document')?.predicate);
    assert.match(sbom, /"spdxVersion":"SPDX-2.3"/);
    assert.match(sbom, /"referenceLocator":"pkg:npm\/left-pad@1.3.0"/);
    assert.match(sbom, /"licenseDeclared":"WTFPL"/);
    const bundle = unpackWithOtherTools(shop.directory, `${shop.registry.host}/lineage:1`);
    assert.ok(existsSync(join(bundle, 'rootfs/version')), 'the image is found by the tag all the same');
  });

  test('with a source date is the same another time, and in its short form tells no build argument', async () => {
    const date = { SOURCE_DATE_EPOCH: '1700000000' };
    const args = ['--attest', 'provenance', '--attest', 'sbom'];
    const digests = [];
    for (const name of ['first', 'second']) {
      const file = join(shop.directory, `${name}.digest`);
      await build('dated', [...args, '--digest-file', file], date);
      digests.push(execFileSync('cat', [file], { encoding: 'utf8' }));
    }
    assert.equal(digests[0], digests[1]);
    const { statements, text } = await read('dated');
    assert.equal(statements.size, 2);
    assert.doesNotMatch(text, /buildArguments|hunter2|"7"/);
  });

  test('is written to an OCI layout, left out of a file for docker load, and refused where it has no place', async () => {
    const layout = join(shop.directory, 'layout');
    const tar = join(shop.directory, 'image.tar');
    await writeFile(join(context, '.dockerignore'), 'nothing');
    await build('local', ['--no-push', '--attest', 'sbom', '--oci-layout-path', layout, '--tar-path', tar]);
    const index = execFileSync('skopeo', ['inspect', '--raw', `oci:${layout}:1`], { encoding: 'utf8' });
    assert.match(index, /attestation-manifest/);
    execFileSync('skopeo', [
      'copy',
      '--quiet',
      `docker-archive:${tar}`,
      `dir:${join(shop.directory, 'loaded')}`,
    ]);
    const refused = await shop.build(context, ['--no-push', '--tar-path', tar, '--attest', 'sbom']);
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /--attest needs a registry or an OCI layout/);
  });
});
