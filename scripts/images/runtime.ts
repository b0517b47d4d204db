import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import {
  chmod,
  copyFile,
  link,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { promisify } from 'node:util';
import { writeDebianLicenses } from './licenses.ts';
import { unpackPackages, type UnpackedPackages } from './packages.ts';
import { nameServiceFile, PrivatePrograms } from './private-programs.ts';

const execute = promisify(execFile);
const modules = join(import.meta.dirname, '../../node_modules');
const home = 'kiln';
const platform = `linux-${process.arch}`;

/** The packages that are not bundled, with this platform's binaries. */
export const nativeModules: Readonly<Record<string, string | undefined>> = {
  koffi: undefined,
  [`@koromix/koffi-${platform}`]: `${platform.replace('-', '_')}/koffi.node`,
  'better-sqlite3': `prebuilds/${platform}.node`,
};

/** Programs that Kiln calls, and where Debian has them. */
const tools = [
  ...['usr/bin/git', 'usr/bin/unshare', 'usr/bin/nsenter', 'usr/bin/newuidmap', 'usr/bin/newgidmap'],
  ...['usr/bin/xz', 'bin/bzip2'],
];

/** Where the layers of Kiln's images are assembled; one over the other they are a root file system. */
export interface RuntimeLayers {
  /** Node, certificates and native modules, for every program. */
  readonly runtime: string;
  /** What the executor starts: git, decoders, user namespaces. */
  readonly tools: string;
  /** busybox, for the debug images; undefined: it is left out. */
  readonly debug?: string;
}

/** Assembles what changes with packages only. All layers may be one directory; what is there already stays. */
export async function assembleRuntimeLayers(layers: RuntimeLayers): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-packages-'));
  try {
    const packages = await unpackPackages(work);
    const programs = new PrivatePrograms(packages.debian, `/${home}`);
    await assembleNode(packages, programs, layers.runtime);
    await assembleTools(packages, programs, layers.tools);
    if (layers.debug !== undefined) await assembleDebug(packages, layers.debug);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function assembleNode(
  packages: UnpackedPackages,
  programs: PrivatePrograms,
  layer: string,
): Promise<void> {
  const root = join(layer, home);
  await programs.add(layer, join(packages.node, 'bin/node'), 'bin/node');
  for (const [name, binary] of Object.entries(nativeModules)) {
    const files = await readdir(join(modules, name), { recursive: true, withFileTypes: true });
    for (const file of files) {
      const from = join(file.parentPath, file.name);
      const isBinary = binary !== undefined && from === join(modules, name, binary);
      if (!file.isFile() || !(isBinary || /\.(?:c?js|json)$/.test(from))) continue;
      if (isBinary) await programs.addLibrariesOf(layer, from);
      await copyInto(from, join(root, 'node_modules', relative(modules, from)));
    }
  }
  await writeFile(join(root, nameServiceFile.name), nameServiceFile.text);
  await writeCertificates(packages.debian, layer);
  const licenses = join(root, 'share/licenses');
  await writeDebianLicenses(packages, join(licenses, 'debian'));
  await copyInto(join(packages.node, 'LICENSE'), join(licenses, 'node/LICENSE'));
  await makeDirectories(layer);
}

/** Directories that programs and pipelines expect: kaniko's for credentials among them. */
async function makeDirectories(layer: string): Promise<void> {
  for (const [path, mode] of [
    ['tmp', 0o1777],
    ['root', 0o700],
    ['workspace', 0o755],
    ['kaniko/.docker', 0o755],
  ] as const) {
    await mkdir(join(layer, path), { recursive: true });
    await chmod(join(layer, path), mode);
  }
}

/** One file with all certificates of Debian, as its own package makes it, where kaniko's images have it and for git. */
async function writeCertificates(debian: string, layer: string): Promise<void> {
  const directory = join(debian, 'usr/share/ca-certificates/mozilla');
  const names = (await readdir(directory)).filter((name) => name.endsWith('.crt')).sort();
  const texts = await Promise.all(names.map((name) => readFile(join(directory, name), 'utf8')));
  const name = 'ca-certificates.crt';
  const [own, kaniko] = [join(layer, home, 'ssl/certs'), join(layer, 'kaniko/ssl/certs')];
  for (const place of [own, kaniko]) await mkdir(place, { recursive: true });
  await rm(join(kaniko, name), { force: true });
  await writeFile(join(own, name), texts.map((text) => (text.endsWith('\n') ? text : `${text}\n`)).join(''));
  await link(join(own, name), join(kaniko, name));
}

async function assembleTools(
  { debian }: UnpackedPackages,
  programs: PrivatePrograms,
  layer: string,
): Promise<void> {
  const core = 'libexec/git-core';
  for (const tool of tools)
    await programs.add(layer, join(debian, tool), join('bin', tool.replace(/^.*\//, '')));
  await programs.add(layer, join(debian, 'usr/lib/git-core/git-remote-http'), join(core, 'git-remote-http'));
  const root = join(layer, home);
  await linkTo('git-remote-http', join(root, core, 'git-remote-https'));
  // git starts itself from there for its parts.
  await linkTo('../../bin/git', join(root, core, 'git'));
  await mkdir(join(root, 'share/git-core/templates'), { recursive: true });
}

/** busybox at its place among Kiln's files, so that a shell survives a build in place, and kaniko's path as a link. */
async function assembleDebug({ debian }: UnpackedPackages, layer: string): Promise<void> {
  const directory = join(layer, home, 'busybox');
  await copyInto(join(debian, 'bin/busybox'), join(directory, 'busybox'));
  await chmod(join(directory, 'busybox'), 0o755);
  const { stdout } = await execute(join(directory, 'busybox'), ['--list']);
  for (const name of stdout.split('\n'))
    if (name !== '' && name !== 'busybox') await linkTo('busybox', join(directory, name));
  await linkTo(`${home}/busybox`, join(layer, 'busybox'));
  await mkdir(join(layer, 'bin'), { recursive: true });
  await linkTo(`../${home}/busybox/sh`, join(layer, 'bin/sh'));
}

async function copyInto(source: string, target: string): Promise<void> {
  await mkdir(dirname(target), { recursive: true });
  await copyFile(source, target);
  // Packages are installed with modes that depend on who installs them.
  await chmod(target, 0o644);
}

async function linkTo(target: string, path: string): Promise<void> {
  if (!existsSync(path)) await symlink(target, path);
}
