import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';

/** An OCI image to be made for a test, independent of the code under test. */
export interface TestImage {
  /** gzip-compressed tar files, lowest first. */
  readonly layers: readonly string[];
  readonly config?: Readonly<Record<string, unknown>>;
  readonly architecture?: string;
  readonly variant?: string;
}

/** Writes an OCI layout with one image tagged `name` and returns the directory. */
export async function writeTestLayout(directory: string, name: string, image: TestImage): Promise<string> {
  const blobs = join(directory, 'blobs/sha256');
  await mkdir(blobs, { recursive: true });
  const put = async (bytes: Buffer | string): Promise<{ digest: string; size: number }> => {
    const hex = createHash('sha256').update(bytes).digest('hex');
    await writeFile(join(blobs, hex), bytes);
    return { digest: `sha256:${hex}`, size: Buffer.byteLength(bytes) };
  };
  const layers = [];
  const diffIDs = [];
  for (const file of image.layers) {
    const compressed = createHash('sha256');
    let size = 0;
    await pipeline(createReadStream(file), async (source: AsyncIterable<Buffer>) => {
      for await (const chunk of source) {
        compressed.update(chunk);
        size += chunk.length;
      }
    });
    const plain = createHash('sha256');
    await pipeline(createReadStream(file), createGunzip(), plain);
    const hex = compressed.digest('hex');
    await copyFile(file, join(blobs, hex));
    layers.push({ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: `sha256:${hex}`, size });
    diffIDs.push(`sha256:${plain.digest('hex')}`);
  }
  const config = await put(
    JSON.stringify({
      architecture: image.architecture ?? (process.arch === 'x64' ? 'amd64' : process.arch),
      ...(image.variant === undefined ? {} : { variant: image.variant }),
      os: 'linux',
      config: image.config ?? {
        Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
        Cmd: ['/bin/sh'],
      },
      rootfs: { type: 'layers', diff_ids: diffIDs },
      history: diffIDs.map(() => ({ created_by: 'test base' })),
    }),
  );
  const manifest = await put(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
      layers,
    }),
  );
  await writeFile(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  await writeFile(
    join(directory, 'index.json'),
    JSON.stringify({
      schemaVersion: 2,
      manifests: [
        {
          mediaType: 'application/vnd.oci.image.manifest.v1+json',
          ...manifest,
          annotations: { 'org.opencontainers.image.ref.name': name },
        },
      ],
    }),
  );
  return directory;
}

/** Writes an OCI layout with an index of images, one for each platform, tagged `name`, and returns the directory. */
export async function writeTestIndex(
  directory: string,
  name: string,
  images: readonly TestImage[],
): Promise<string> {
  const manifests: unknown[] = [];
  for (const image of images) {
    await writeTestLayout(directory, name, image);
    const written = JSON.parse(await readFile(join(directory, 'index.json'), 'utf8')) as {
      manifests: { digest: string }[];
    };
    const { architecture = 'amd64', variant } = image;
    const platform = { os: 'linux', architecture, ...(variant === undefined ? {} : { variant }) };
    manifests.push({ ...written.manifests[0], annotations: undefined, platform });
  }
  const mediaType = 'application/vnd.oci.image.index.v1+json';
  const bytes = JSON.stringify({ schemaVersion: 2, mediaType, manifests });
  const hex = createHash('sha256').update(bytes).digest('hex');
  await writeFile(join(directory, 'blobs/sha256', hex), bytes);
  const annotations = { 'org.opencontainers.image.ref.name': name };
  const entry = { mediaType, digest: `sha256:${hex}`, size: bytes.length, annotations };
  await writeFile(join(directory, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
  return directory;
}

/** Pushes a test image to a registry with skopeo. */
export async function pushTestImage(
  scratch: string,
  reference: string,
  image: TestImage,
  login?: { readonly user: string; readonly password: string },
): Promise<void> {
  const layout = await writeTestLayout(
    join(scratch, `layout-${createHash('sha1').update(reference).digest('hex')}`),
    'image',
    image,
  );
  execFileSync(
    'skopeo',
    [
      ...['copy', '--quiet', '--dest-tls-verify=false'],
      ...(login === undefined ? [] : ['--dest-creds', `${login.user}:${login.password}`]),
      ...[`oci:${layout}:image`, `docker://${reference}`],
    ],
    { stdio: 'pipe' },
  );
}

/** A layer of one file with so many random bytes, which do not compress. Returns the layer's file. */
export async function randomLayer(scratch: string, name: string, bytes = 300_000): Promise<string> {
  const directory = join(scratch, `layer-${randomBytes(6).toString('hex')}`);
  await mkdir(join(directory, 'root'), { recursive: true });
  await writeFile(join(directory, 'root', name), randomBytes(bytes));
  const file = join(directory, 'layer.tar.gz');
  execFileSync('tar', ['-C', join(directory, 'root'), '-czf', file, '.']);
  return file;
}

/** A small base image: static busybox with links for its applets. Returns the layer's file. */
export async function busyboxLayer(scratch: string): Promise<string> {
  const root = join(scratch, 'busybox-root');
  await mkdir(join(root, 'bin'), { recursive: true });
  for (const directory of ['tmp', 'etc', 'root', 'usr'])
    await mkdir(join(root, directory), { recursive: true });
  await copyFile('/bin/busybox', join(root, 'bin/busybox'));
  const applets = execFileSync('/bin/busybox', ['--list'], { encoding: 'utf8' })
    .split('\n')
    .filter((name) => name !== '' && name !== 'busybox');
  for (const applet of applets) execFileSync('ln', ['-sf', 'busybox', join(root, 'bin', applet)]);
  await writeFile(
    join(root, 'etc/passwd'),
    'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n',
  );
  await writeFile(join(root, 'etc/group'), 'root:x:0:\nnogroup:x:65534:\n');
  execFileSync('chmod', ['1777', join(root, 'tmp')]);
  const file = join(scratch, 'busybox.tar.gz');
  execFileSync('tar', [
    '-C',
    root,
    '--numeric-owner',
    '--owner=0',
    '--group=0',
    '--sort=name',
    '--mtime=@1700000000',
    '-czf',
    file,
    '.',
  ]);
  return file;
}
