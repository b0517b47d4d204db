import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, readdir, readFile, realpath, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';

const execute = promisify(execFile);

/** Where the kernel finds the loader by the name in a program, for each architecture. */
const loaders: Readonly<Record<string, string>> = {
  x64: 'ld-linux-x86-64.so.2',
  arm64: 'ld-linux-aarch64.so.1',
};

/**
 * What the C library reads in /etc that makes a program load other libraries, and what it reads instead. In a build in
 * place /etc is that of the base image, which must not choose what runs in the executor. Each is no longer than what it
 * stands for, so that it fits into its place.
 */
const redirections: readonly (readonly [from: string, to: string])[] = [
  ['/etc/nsswitch.conf', '/kiln/nss.conf'],
  ['/etc/ld.so.cache', '/kiln/no-cache'],
  ['/etc/ld.so.preload', '/kiln/no-preload'],
];

/** The name service configuration that takes the place of the system's: what Docker's and kaniko's images say too. */
export const nameServiceFile = { name: 'nss.conf', text: 'hosts: files dns\n' };

/**
 * Copies programs so that they, and the libraries of Debian that they load, are all in one directory of their own and care
 * for nothing outside it. A library is put beside the first program that needs it, and into no later layer.
 */
export class PrivatePrograms {
  readonly #debian: string;
  readonly #home: string;
  readonly #found = new Set<string>();

  /**
   * @param debian the root of the unpacked packages.
   * @param home the directory in the image.
   */
  constructor(debian: string, home: string) {
    this.#debian = debian;
    this.#home = home;
  }

  /** Adds a program at a path below the home of a layer, with its libraries. Modes are kept. */
  async add(layer: string, source: string, path: string): Promise<void> {
    const target = join(layer, this.#home, path);
    await this.#copyStripped(source, target);
    await this.addLibrariesOf(layer, source);
    const library = join(this.#home, 'lib');
    // The old form of the search path, which counts for libraries that the libraries load, too.
    await this.#tool('patchelf', [
      ...['--set-interpreter', join(library, loaderName()), '--force-rpath', '--set-rpath', library],
      target,
    ]);
    await chmod(target, (await stat(source)).mode & 0o7777);
  }

  /** Adds what a program or library loads, and what that loads in turn. */
  async addLibrariesOf(layer: string, source: string): Promise<void> {
    const needed = await this.#tool('patchelf', ['--print-needed', source]);
    for (const name of [loaderName(), ...needed.split('\n').filter((line) => line !== '')]) {
      if (this.#found.has(name)) continue;
      this.#found.add(name);
      const library = await this.#find(name);
      const target = join(layer, this.#home, 'lib', name);
      await this.#copyStripped(library, target);
      await redirect(target);
      await chmod(target, name === loaderName() ? 0o755 : 0o644);
      await this.addLibrariesOf(layer, library);
    }
  }

  async #find(name: string): Promise<string> {
    for (const directory of await this.#libraryDirectories()) {
      const path = join(directory, name);
      if (existsSync(path)) return await realpath(path);
    }
    throw new Error(`no package has the library ${name}; add it to scripts/images/packages.ts`);
  }

  async #libraryDirectories(): Promise<string[]> {
    const roots = ['lib', 'usr/lib'].map((path) => join(this.#debian, path));
    const found: string[] = [];
    for (const root of roots)
      for (const name of await readdir(root)) if (name.endsWith('-linux-gnu')) found.push(join(root, name));
    return found;
  }

  async #copyStripped(source: string, target: string): Promise<void> {
    await mkdir(dirname(target), { recursive: true });
    await copyFile(source, target);
    await this.#tool('strip', ['--strip-unneeded', '--enable-deterministic-archives', target]);
  }

  /** Runs one of the unpacked tools with its own libraries, whatever this machine has. */
  async #tool(name: 'patchelf' | 'strip', args: readonly string[]): Promise<string> {
    const directories = await this.#libraryDirectories();
    const loader = await this.#find(loaderName());
    const prefix = name === 'strip' ? directories[0]?.replace(/^.*\/lib\//, '').concat('-') : '';
    const program = join(this.#debian, 'usr/bin', `${prefix ?? ''}${name}`);
    const { stdout } = await execute(loader, ['--library-path', directories.join(':'), program, ...args]);
    return stdout;
  }
}

function loaderName(): string {
  const name = loaders[process.arch];
  if (name === undefined) throw new Error(`Kiln's images are not made for ${process.arch}`);
  return name;
}

async function redirect(library: string): Promise<void> {
  if (!['libc.so.6', loaderName()].includes(basename(library))) return;
  const bytes = await readFile(library);
  let count = 0;
  for (const [from, to] of redirections) {
    const text = Buffer.from(`\0${from}\0`);
    for (let at = bytes.indexOf(text); at >= 0; at = bytes.indexOf(text, at + 1), count++)
      bytes.fill(0, at + 1, at + text.length).write(to, at + 1, 'latin1');
  }
  if (count === 0) throw new Error(`${library} names none of the files of /etc that it is known to read`);
  await writeFile(library, bytes);
}
