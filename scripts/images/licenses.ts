import { existsSync } from 'node:fs';
import { chmod, copyFile, cp, mkdir, readdir, readFile, realpath, writeFile } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import type { UnpackedPackages } from './packages.ts';

const project = join(import.meta.dirname, '../..');

/** Names of files in npm packages that say what one may do with them. */
const licenseFile = /^(?:licen[cs]e|notice|copying|copyright|thirdpartynotice)/i;

/**
 * Puts the terms of Debian's packages into a directory: the copyright file of each, the licences they refer to, and which
 * versions they are of, by which their sources can be had.
 */
export async function writeDebianLicenses(
  { debian, shipped }: UnpackedPackages,
  directory: string,
): Promise<void> {
  await mkdir(directory, { recursive: true });
  for (const { name } of shipped) {
    // Packages of one source share a directory.
    const source = await realpath(join(debian, 'usr/share/doc', name, 'copyright'));
    await copyFile(source, join(directory, `${name}.copyright`));
  }
  await cp(join(debian, 'usr/share/common-licenses'), join(directory, 'common-licenses'), {
    recursive: true,
    // Links in it stay relative.
    verbatimSymlinks: true,
  });
  const lines = shipped.map(({ name, version }) => `${name} ${version}\n`);
  const head = 'Packages of Debian bookworm. Their sources: https://snapshot.debian.org/\n\n';
  await writeFile(join(directory, 'packages.txt'), head + lines.join(''));
}

/** Puts the terms of npm packages into a directory, and what packages they are. @param files of which they are taken. */
export async function writeNpmLicenses(files: readonly string[], directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  const packages = new Set(files.map(packageOf).filter((path) => path !== undefined));
  const lines: string[] = [];
  for (const path of [...packages].sort()) {
    const { name, version, license } = JSON.parse(
      await readFile(join(project, path, 'package.json'), 'utf8'),
    ) as { name: string; version: string; license?: string };
    lines.push(`${name} ${version} ${license ?? 'see its files'}\n`);
    for (const file of await readdir(join(project, path))) {
      if (!licenseFile.test(file)) continue;
      const place = join(directory, `${name.replace('/', '+')}@${version}`);
      await mkdir(place, { recursive: true });
      const target = join(place, basename(file));
      await copyFile(join(project, path, file), target);
      await chmod(target, 0o644);
    }
  }
  await writeFile(join(directory, 'packages.txt'), lines.join(''));
}

/** The directory of the npm package that a file is of: the innermost one with a name. */
function packageOf(file: string): string | undefined {
  const path = relative(project, join(project, file));
  const found = /^(.*\bnode_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1];
  return found !== undefined && existsSync(join(project, found, 'package.json')) ? found : undefined;
}
