import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { chmod, copyFile, cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { zstdCompressSync } from 'node:zlib';
import { busyboxLayer, pushTestImage } from './images.ts';
import { writeFiles } from './programs.ts';
import { listTree } from './tree-lines.ts';

/*
 * The Dockerfiles in test/parity give the same image wherever steps run. Each is built in one way and another, and the
 * results are compared path by path and layer by layer. A new one is a new directory there.
 */

const source = join(import.meta.dirname, '../parity');

/** The names of the Dockerfiles. */
export const parityNames: readonly string[] = readdirSync(source).sort();

/** Copies the contexts of all Dockerfiles to a directory, and adds what cannot be kept in a repository. */
export async function parityContexts(directory: string): Promise<string> {
  await cp(source, directory, { recursive: true, verbatimSymlinks: true });
  await copyFile('/bin/busybox', join(directory, 'scratch/busybox'));
  await makeArchives(join(directory, 'archives'));
  await makeTools(join(directory, 'capabilities/tools'));
  await makeRepository(join(directory, 'apt/repository'));
  return directory;
}

async function makeArchives(directory: string): Promise<void> {
  const root = join(directory, 'root');
  await writeFiles(root, {
    'etc/hosts': '10.0.0.1 of-the-archive\n',
    'etc/passwd': 'root:x:0:0::/:/bin/sh\n',
    'dev/file': 'in the archive\n',
    'run/pid': '1\n',
    removed: '',
  });
  await mkdir(join(root, 'bin'));
  await mkdir(join(root, 'var'));
  await copyFile('/bin/busybox', join(root, 'bin/busybox'));
  for (const name of ['sh', 'rm', 'echo']) await symlink('busybox', join(root, 'bin', name));
  await symlink('/run', join(root, 'var/run'));
  execFileSync('mknod', [join(root, 'dev/console'), 'c', '5', '1']);
  await chmod(join(root, 'run'), 0o711);
  execFileSync('tar', ['-C', root, '-czf', join(directory, 'root.tar.gz'), '.']);
  const tar = execFileSync('tar', ['-C', root, '-cf', '-', 'etc', 'run']);
  await writeFile(join(directory, 'more.tar.zst'), zstdCompressSync(tar));
  rmSync(root, { recursive: true });
}

/** setcap with its library, for images that lack it, and a file with a capability. */
async function makeTools(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  const setcap = execFileSync('sh', ['-c', 'command -v setcap || echo /sbin/setcap'], { encoding: 'utf8' });
  await copyFile(setcap.trim(), join(directory, 'setcap'));
  const libraries = execFileSync('ldd', [setcap.trim()], { encoding: 'utf8' });
  const library = /libcap\.so\.2 => (\S+)/.exec(libraries)?.[1];
  if (library === undefined) throw new Error('setcap is linked in an unexpected way');
  await copyFile(library, join(directory, 'libcap.so.2'));
  await copyFile('/bin/true', join(directory, 'capable'));
  execFileSync(setcap.trim(), ['cap_net_bind_service+ep', join(directory, 'capable')]);
}

/** A Debian repository with one package, which makes a user, and has a setgid directory and a conffile. */
async function makeRepository(directory: string): Promise<void> {
  const root = join(directory, 'package');
  const control = [
    ...[
      'Package: kiln-hello',
      'Version: 1.0',
      'Architecture: all',
      'Maintainer: Kiln <kiln@example.invalid>',
    ],
    'Description: says hello',
  ];
  await writeFiles(root, {
    'DEBIAN/control': `${control.join('\n')}\n`,
    'DEBIAN/conffiles': '/etc/kiln-hello.conf\n',
    'DEBIAN/postinst':
      '#!/bin/sh\nset -e\nuseradd --system --no-create-home kiln\nchown kiln /var/lib/kiln-hello\n',
    'etc/kiln-hello.conf': 'greeting=hello\n',
    'usr/bin/kiln-hello': '#!/bin/sh\n. /etc/kiln-hello.conf; echo $greeting\n',
    'var/lib/kiln-hello/state': '',
  });
  await chmod(join(root, 'DEBIAN/postinst'), 0o755);
  await chmod(join(root, 'usr/bin/kiln-hello'), 0o755);
  await chmod(join(root, 'var/lib/kiln-hello'), 0o2775);
  const file = join(directory, 'kiln-hello.deb');
  execFileSync('dpkg-deb', ['--root-owner-group', '--build', root, file], { stdio: 'pipe' });
  const deb = await readFile(file);
  const sum = createHash('sha256').update(deb).digest('hex');
  const index = [...control, 'Filename: ./kiln-hello.deb', `Size: ${deb.length}`, `SHA256: ${sum}`];
  await writeFile(join(directory, 'Packages'), `${index.join('\n')}\n`);
  rmSync(root, { recursive: true });
}

/** The images that the Dockerfiles are FROM, pushed to a registry. */
export interface ParityBases {
  readonly busybox: string;
  readonly debian: string;
  /** Busybox, layers with deleted names and an opaque directory, and one that does not describe directories it uses. */
  readonly layered: string;
}

/** Makes and pushes the image with whiteouts. @returns its reference. */
export async function pushLayered(scratch: string, reference: string): Promise<string> {
  const layers = [await busyboxLayer(scratch)];
  const add = async (files: Readonly<Record<string, string>>): Promise<void> => {
    const root = await writeFiles(join(scratch, `layered-${layers.length}`), files);
    layers.push(`${root}.tar.gz`);
    execFileSync('tar', ['-C', root, '--numeric-owner', '--sort=name', '-czf', `${root}.tar.gz`, '.']);
  };
  await add({ 'kept/a': 'a', 'hidden/old/x': 'x', 'hidden/gone': '', 'merged/low': 'low', deleted: '' });
  await add({
    'hidden/.wh..wh..opq': '',
    'hidden/new': 'new',
    'merged/high': 'high',
    '.wh.deleted': '',
    'kept/.wh.nothing': '',
  });
  layers.push(...(await undescribedDirectories(scratch)));
  await pushTestImage(scratch, reference, { layers });
  return reference;
}

/** A layer with directories that are not as most are, and one that has things in them without describing them. */
async function undescribedDirectories(scratch: string): Promise<string[]> {
  const [described, undescribed] = ['described', 'undescribed'].map((name) => join(scratch, name)) as [
    ...[string, string],
  ];
  const script =
    'mkdir -p shared/sticky owned/deep; chmod 1777 shared/sticky; chown -R 12:34 owned; chmod 2750 owned/deep; find . -exec touch -d 2020-01-01 {} +';
  await mkdir(described);
  execFileSync('sh', ['-ec', script], { cwd: described });
  await writeFiles(undescribed, { 'shared/sticky/more/x': 'x', 'owned/deep/x': 'x', '.wh.deleted': '' });
  const names = ['shared/sticky/more/x', 'owned/deep/x', '.wh.deleted'];
  for (const [root, paths] of [
    [described, ['.']],
    [undescribed, names],
  ] as const)
    execFileSync('tar', ['-C', root, '--numeric-owner', '-czf', `${root}.tar.gz`, ...paths]);
  return [`${described}.tar.gz`, `${undescribed}.tar.gz`];
}

/** The arguments of a build of one of the Dockerfiles; others need none. */
export function parityArguments(bases: ParityBases, name: string): string[] {
  if (!parityNames.includes(name)) return [];
  const text = readFileSync(join(source, name, 'Dockerfile'), 'utf8');
  const wanted = Object.entries(bases).filter(([base]) => text.includes(`ARG ${base.toUpperCase()}`));
  return wanted.flatMap(([base, reference]) => ['--build-arg', `${base.toUpperCase()}=${reference}`]);
}

/** The arguments that give a build the secret beside its Dockerfile, if it has one. @param contexts where the build sees them. */
export function secretArguments(contexts: string, name: string): string[] {
  const has = parityNames.includes(name) && readdirSync(join(source, name)).includes('secret');
  return has ? ['--secret', `id=token,src=${contexts}/${name}/secret`] : [];
}

/** Dockerfiles that a user namespace cannot build as root of the machine does, and why. */
export const needsDeviceNodes: Readonly<Record<string, string>> = {
  archives: 'its archive has a device node',
  'special-files': 'a step makes device nodes',
};

/** What an image is: what each layer has, path by path, and the order of its entries. */
export interface ImageContents {
  readonly layers: readonly LayerContents[];
}

interface LayerContents {
  /** Of a layer that all images took from their base. */
  readonly digest?: string;
  readonly paths?: readonly string[];
  readonly entries?: readonly string[];
}

/** Reads images from OCI layouts with GNU tar. Layers that all of them have are not looked into. */
export async function readImages(scratch: string, layouts: readonly string[]): Promise<ImageContents[]> {
  const images = await Promise.all(layouts.map(layerFiles));
  const digests = images.map((files) => new Set(files.map((file) => basename(file))));
  const isCommon = (file: string): boolean => digests.every((each) => each.has(basename(file)));
  return Promise.all(
    images.map(async (files) => ({
      layers: await Promise.all(
        files.map(async (file): Promise<LayerContents> =>
          isCommon(file) ? { digest: basename(file) } : layerContents(scratch, file),
        ),
      ),
    })),
  );
}

/** The digest of the image in an OCI layout. */
export async function imageDigest(layout: string): Promise<string> {
  const text = await readFile(join(layout, 'index.json'), 'utf8');
  const [manifest] = (JSON.parse(text) as { manifests: { digest: string }[] }).manifests;
  return manifest?.digest ?? '';
}

async function layerFiles(layout: string): Promise<string[]> {
  const blob = (digest: string): string => join(layout, 'blobs/sha256', digest.slice('sha256:'.length));
  const manifest = JSON.parse(await readFile(blob(await imageDigest(layout)), 'utf8')) as {
    layers: { digest: string }[];
  };
  return manifest.layers.map(({ digest }) => blob(digest));
}

const execute = promisify(execFile);

async function layerContents(scratch: string, file: string): Promise<LayerContents> {
  const root = mkdtempSync(join(scratch, 'layer-'));
  const attributes = ['--xattrs', '--xattrs-include=*', '--numeric-owner', '-p'];
  await execute('tar', [...attributes, '-C', root, '-xzf', file]);
  const paths = listTree(root);
  rmSync(root, { recursive: true });
  const listing = ['-tvzf', file, '--numeric-owner', '--quoting-style=escape', '--utc', '--full-time'];
  const { stdout } = await execute('tar', listing, { encoding: 'latin1', maxBuffer: 1 << 28 });
  return { paths, entries: stdout.trim().split('\n') };
}
