import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatReference, hostPlatform, mediaTypes, parseReference } from '../src/oci/index.ts';
import { Volume } from '../src/volume/index.ts';
import { digestOf } from '../src/oci/index.ts';
import { kiln, median } from './support.ts';

/**
 * 10,000 images in the index, five layers each, two of them shared by the twenty tags of a repository: `warmer ls` and
 * `warmer prune --dry-run` as whole processes, and what a build asks of the volume, in this process. Layers are empty files
 * and sealed empty directories, since nothing here reads them.
 */
const repositories = 500;
const tags = 20;
const platform = hostPlatform();
const directory = await mkdtemp(join(tmpdir(), 'kiln-bench-scale-'));
try {
  await fill(directory);
  const started = performance.now();
  {
    await using volume = await Volume.open(directory, { access: 'read-write' });
    await volume.reindex();
  }
  console.log(`reindex of ${repositories * tags} images: ${(performance.now() - started).toFixed(0)} ms`);
  const half = ['--max-size', '50%', '--unused-for', '1d'];
  for (const [what, args] of [
    ['warmer --version', ['--version']],
    ['warmer ls', ['ls', '--cache-dir', directory]],
    ['warmer prune --dry-run', ['prune', '--cache-dir', directory, '--dry-run', ...half]],
    ['warmer prune --all --dry-run', ['prune', '--cache-dir', directory, '--dry-run', '--all']],
  ] as const) {
    const times: number[] = [];
    for (let round = 0; round < 9; round++) times.push((await kiln('warmer', args)).seconds * 1000);
    console.log(`${what}: median ${median(times).toFixed(0)} ms of ${times.length} (goal 200)`);
  }
  const lookups: number[] = [];
  for (let round = 0; round < 9; round++) {
    const begun = performance.now();
    await using volume = await Volume.open(directory, { access: 'read-only' });
    const image = await volume.find(parseReference(nameOf(137, 11)), platform);
    if (image === undefined) throw new Error('the image was not found');
    lookups.push(performance.now() - begun);
  }
  console.log(`opening and finding an image: median ${median(lookups).toFixed(0)} ms (goal 200)`);
} finally {
  await rm(directory, { recursive: true, force: true });
}

function nameOf(repository: number, tag: number): string {
  return formatReference(parseReference(`registry.example/team/app${repository}:v${tag}`));
}

async function fill(root: string): Promise<void> {
  await using _made = await Volume.open(root, { access: 'read-write' });
  const hour = 3600_000;
  const manifests: object[] = [];
  for (let repository = 0; repository < repositories; repository++) {
    const shared = [await layer(root), await layer(root)];
    for (let tag = 0; tag < tags; tag++) {
      const layers = [...shared, await layer(root), await layer(root), await layer(root)];
      const config = await blob(
        root,
        JSON.stringify({
          ...platform,
          config: { Env: ['PATH=/usr/bin:/bin'], Cmd: ['/bin/sh'] },
          rootfs: { type: 'layers', diff_ids: layers.map(({ diffID }) => diffID) },
          history: layers.map(() => ({ created_by: 'RUN something' })),
        }),
      );
      const manifest = await blob(
        root,
        JSON.stringify({
          schemaVersion: 2,
          mediaType: mediaTypes.ociManifest,
          config: { mediaType: mediaTypes.ociConfig, ...config },
          layers: layers.map(({ digest }) => ({ mediaType: mediaTypes.ociLayerGzip, digest, size: 0 })),
        }),
      );
      const at = new Date(Date.now() - (manifests.length + 48) * hour).toISOString();
      manifests.push({
        mediaType: mediaTypes.ociManifest,
        ...manifest,
        platform,
        annotations: {
          'dev.kiln.pulled-at': at,
          'dev.kiln.checked-at': at,
          'dev.kiln.target-digest': manifest.digest,
          'org.opencontainers.image.ref.name': nameOf(repository, tag),
        },
      });
    }
  }
  await writeFile(join(root, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
}

async function blob(root: string, text: string): Promise<{ digest: string; size: number }> {
  const digest = digestOf(text);
  await writeFile(join(root, 'blobs/sha256', digest.slice(7)), text);
  return { digest, size: Buffer.byteLength(text) };
}

async function layer(root: string): Promise<{ digest: string; diffID: string }> {
  const names = [randomBytes(32).toString('hex'), randomBytes(32).toString('hex')];
  const [hex = '', diffHex = ''] = names;
  await writeFile(join(root, 'blobs/sha256', hex), '');
  const path = join(root, 'layers', diffHex);
  await mkdir(path);
  const seal = { diffID: `sha256:${diffHex}`, entries: 100, bytes: 1_000_000, unpackedAt: Date.now() };
  await writeFile(join(path, 'sealed'), JSON.stringify(seal));
  return { digest: `sha256:${hex}`, diffID: `sha256:${diffHex}` };
}
