import { chmod, copyFile, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import packageJson from '../package.json' with { type: 'json' };
import { bundlePrograms } from './bundle.ts';
import { writeNpmLicenses } from './images/licenses.ts';
import { assembleRuntimeLayers, nativeModules } from './images/runtime.ts';

/**
 * node scripts/kiln-root.ts DIRECTORY: assembles everything that Kiln needs in a container below DIRECTORY/kiln: Node with
 * its own loader and libraries, so that a build may replace those of the container under it, the programs it calls, the
 * compiled programs, and their native modules; and kaniko's paths as links to them. Programs and libraries come from the
 * packages that scripts/images/packages.json names.
 */

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

/** The part that changes with Node and other packages only. */
export async function assembleRuntime(target: string): Promise<void> {
  await assembleRuntimeLayers({ runtime: target, tools: target });
}

/** The part that changes with Kiln. */
export async function assemblePrograms(target: string, options: KilnRootOptions = {}): Promise<void> {
  const root = join(target, home);
  for (const directory of [join(root, 'bin'), join(target, 'kaniko')])
    await mkdir(directory, { recursive: true });
  const inputs = await bundlePrograms(join(root, 'dist'), { sourceMaps: false });
  for (const program of ['executor', 'warmer']) {
    await writeLauncher(root, program);
    const link = join(target, 'kaniko', program);
    await rm(link, { force: true });
    await symlink(`..${home}/bin/${program}`, link);
  }
  await writeFile(join(root, 'package.json'), '{ "type": "module" }\n');
  await writeMarker(target, options);
  const native = Object.keys(nativeModules).map((name) => `node_modules/${name}/package.json`);
  await writeNpmLicenses([...inputs, ...native], join(root, 'share/licenses/npm'));
  await copyFile(join(project, 'LICENSE'), join(root, 'share/licenses/LICENSE'));
}

/** Says that this is Kiln's image, and what it has beside `/kiln`. */
export async function writeMarker(target: string, { files = [] }: KilnRootOptions): Promise<void> {
  await mkdir(join(target, home), { recursive: true });
  const marker = { kiln: packageJson.version, files };
  await writeFile(join(target, home, 'kiln.json'), `${JSON.stringify(marker, undefined, 2)}\n`);
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
