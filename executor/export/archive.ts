import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { pack, type Pack } from 'tar-stream';
import { type Digest, digestHex } from '../../src/oci/index.ts';
import { randomName } from '../../src/support/index.ts';
import type { BuiltImage } from '../image.ts';

/**
 * Writes an image as one tar file that `docker load`, `podman load` and every tool for OCI archives read: an OCI image
 * layout with Docker's `manifest.json` beside it. The file appears under its name when it is complete.
 */
export async function writeArchive(
  image: BuiltImage,
  path: string,
  names: readonly string[],
  signal?: AbortSignal,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = join(dirname(path), randomName('.kiln-'));
  const archive = pack();
  try {
    await Promise.all([
      pipeline(archive, createWriteStream(temporary, { flags: 'wx' }), {
        ...(signal === undefined ? {} : { signal }),
      }),
      fill(archive, image, names, signal).catch((error: unknown) => {
        archive.destroy(error instanceof Error ? error : new Error(String(error)));
        throw error;
      }),
    ]);
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}

async function fill(
  archive: Pack,
  image: BuiltImage,
  names: readonly string[],
  signal?: AbortSignal,
): Promise<void> {
  const blob = (digest: Digest): string => `blobs/sha256/${digestHex(digest)}`;
  const text = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
  await addBytes(archive, 'oci-layout', text({ imageLayoutVersion: '1.0.0' }));
  await addBytes(archive, blob(image.manifest.config.digest), image.configBytes);
  await addBytes(archive, blob(image.descriptor.digest), image.manifestBytes);
  const written = new Set<Digest>();
  for (const { layer } of image.layers) {
    if (written.has(layer.digest)) continue;
    written.add(layer.digest);
    const entry = archive.entry({
      name: blob(layer.digest),
      size: layer.size,
      mtime: new Date(0),
      mode: 0o644,
    });
    await pipeline(await layer.compressed(signal), entry, { ...(signal === undefined ? {} : { signal }) });
  }
  const entries = (names.length === 0 ? [undefined] : names).map((name) => ({
    ...image.descriptor,
    ...(name === undefined
      ? {}
      : { annotations: { 'io.containerd.image.name': name, 'org.opencontainers.image.ref.name': name } }),
  }));
  await addBytes(archive, 'index.json', text({ schemaVersion: 2, manifests: entries }));
  const docker = {
    Config: blob(image.manifest.config.digest),
    RepoTags: names,
    Layers: image.layers.map(({ layer }) => blob(layer.digest)),
  };
  await addBytes(archive, 'manifest.json', text([docker]));
  archive.finalize();
}

async function addBytes(archive: Pack, name: string, bytes: Uint8Array): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    archive.entry({ name, mtime: new Date(0), mode: 0o644 }, Buffer.from(bytes), (error) => {
      if (error == null) resolve();
      else reject(error);
    });
  });
}
