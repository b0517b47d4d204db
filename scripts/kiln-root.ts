import { execFile } from 'node:child_process';
import { chmod, copyFile, mkdir, readdir, realpath, writeFile } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { promisify } from 'node:util';
import { bundlePrograms } from './bundle.ts';

/**
 * node scripts/kiln-root.ts DIRECTORY: assembles everything that Kiln needs in a container below DIRECTORY/kiln: Node with
 * its own loader and libraries, so that a build may replace those of the container under it, the compiled programs, and
 * their native modules. Libraries come from this machine's Debian packages. Needs patchelf.
 */

const execute = promisify(execFile);
const project = join(import.meta.dirname, '..');
const home = '/kiln';

/** What lies in the image beside `/kiln`: what a build in place may remove without asking. */
export interface KilnRootOptions {
  /** Absolute paths; directories count with all that is in them. */
  readonly files?: readonly string[];
}

/** Assembles `<target>/kiln`. The target is made; what is there already stays. */
export async function assembleKilnRoot(target: string, options: KilnRootOptions = {}): Promise<void> {
  await assembleRuntime(target);
  await assemblePrograms(target, options);
}

/** The part that changes with Node and the machine's libraries only. */
export async function assembleRuntime(target: string): Promise<void> {
  const root = join(target, home);
  for (const directory of ['bin', 'lib']) await mkdir(join(root, directory), { recursive: true });
  await copyNode(root, await copyNativeModules(root));
}

/** The part that changes with Kiln. */
export async function assemblePrograms(target: string, options: KilnRootOptions = {}): Promise<void> {
  const root = join(target, home);
  await mkdir(join(root, 'bin'), { recursive: true });
  await bundlePrograms(join(root, 'dist'));
  for (const program of ['executor', 'warmer']) await writeLauncher(root, program);
  await writeFile(join(root, 'package.json'), '{ "type": "module" }\n');
  const { version } = (await import('../package.json', { with: { type: 'json' } })).default;
  const marker = { kiln: version, files: options.files ?? [] };
  await writeFile(join(root, 'kiln.json'), `${JSON.stringify(marker, undefined, 2)}\n`);
}

/** Node, made to look for its loader and its libraries in Kiln's own directory. */
async function copyNode(root: string, modules: readonly string[]): Promise<void> {
  const source = join(project, 'node_modules/node/bin/node');
  const libraries = new Map<string, string>();
  let loader = '';
  for (const file of [source, ...modules]) {
    const { stdout } = await execute('ldd', [file]);
    for (const [, name = '', path = ''] of stdout.matchAll(/^\s*(\S+) => (\/\S+) \(/gm))
      libraries.set(name, path);
    loader = /^\s*(\/\S*\/ld-linux\S*) \(/m.exec(stdout)?.[1] ?? loader;
  }
  if (loader === '') throw new Error(`ldd does not tell the loader of ${source}`);
  libraries.set(basename(loader), loader);
  for (const [name, path] of libraries) await copyFile(await realpath(path), join(root, 'lib', name));
  const node = join(root, 'bin/node');
  await copyFile(source, node);
  const own = join(home, 'lib');
  await execute('patchelf', ['--set-interpreter', join(own, basename(loader)), '--set-rpath', own, node]);
  await chmod(join(root, 'lib', basename(loader)), 0o755);
}

/** The packages that are not bundled, with this platform's binary alone. @returns the paths of the binaries. */
async function copyNativeModules(root: string): Promise<string[]> {
  const platform = `linux-${process.arch}`;
  const modules = join(project, 'node_modules');
  const binaries = [
    `@koromix/koffi-${platform}/${platform.replace('-', '_')}/koffi.node`,
    `better-sqlite3/prebuilds/${platform}.node`,
  ].map((path) => join(modules, path));
  for (const name of ['koffi', `@koromix/koffi-${platform}`, 'better-sqlite3']) {
    const files = await readdir(join(modules, name), { recursive: true, withFileTypes: true });
    for (const file of files) {
      const from = join(file.parentPath, file.name);
      if (!file.isFile() || !(/\.(?:c?js|json)$/.test(from) || binaries.includes(from))) continue;
      const to = join(root, 'node_modules', relative(modules, from));
      await mkdir(dirname(to), { recursive: true });
      await copyFile(from, to);
    }
  }
  return binaries;
}

/** A script that the kernel can start by itself: the image has no shell. */
async function writeLauncher(root: string, program: string): Promise<void> {
  // The flag is the launchers' in bin/; see docs/decisions/003-memory.md.
  const text = `#!${home}/bin/node --max-semi-space-size=1\nawait import('${home}/dist/${program}.js');\n`;
  await writeFile(join(root, 'bin', program), text);
  await chmod(join(root, 'bin', program), 0o755);
}

if (import.meta.main) {
  const [target] = process.argv.slice(2);
  if (target === undefined) throw new Error('usage: node scripts/kiln-root.ts DIRECTORY');
  await assembleKilnRoot(target);
}
