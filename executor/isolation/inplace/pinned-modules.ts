import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { registerHooks } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { EnvironmentError } from '../../../src/support/index.ts';

/**
 * Makes sure that this thread loads no module of the compiled program that a step has replaced: steps run in the same file
 * system, and modules are loaded when they are first needed, those for the clouds' registries perhaps never. From
 * TypeScript, in tests, nothing is done.
 */
export async function pinOwnModules(): Promise<void> {
  if (!import.meta.url.endsWith('.js')) return;
  await pinModules(import.meta.dirname);
  // What it loads in turn lies elsewhere.
  await import('better-sqlite3');
}

/**
 * Remembers the modules in a directory by their content. One that is another when it is loaded is refused with
 * EnvironmentError `E_INPLACE_ALTERED`.
 *
 * @returns what forgets them.
 */
export async function pinModules(directory: string): Promise<Disposable> {
  const known = new Map<string, string>();
  const names = (await readdir(directory)).filter((name) => name.endsWith('.js'));
  // One buffer for all of them, which are some megabytes.
  const buffer = Buffer.allocUnsafe(1 << 16);
  for (const name of names) {
    const path = join(directory, name);
    known.set(pathToFileURL(path).href, fileDigest(path, buffer));
  }
  const hooks = registerHooks({
    load: (url, context, nextLoad) => {
      const digest = known.get(url);
      if (digest === undefined) return nextLoad(url, context);
      const source = readFileSync(fileURLToPath(url));
      if (contentDigest(source) !== digest) throw altered(fileURLToPath(url));
      return { format: 'module', source, shortCircuit: true };
    },
  });
  return { [Symbol.dispose]: () => hooks.deregister() };
}

function fileDigest(path: string, buffer: Buffer): string {
  const hash = createHash('sha256');
  const fd = openSync(path, 'r');
  try {
    for (let length = readSync(fd, buffer); length > 0; length = readSync(fd, buffer))
      hash.update(buffer.subarray(0, length));
  } finally {
    closeSync(fd);
  }
  return hash.digest('hex');
}

function contentDigest(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

function altered(path: string): EnvironmentError {
  return new EnvironmentError(`Kiln's own ${path} is not what it was when the build began`, {
    code: 'E_INPLACE_ALTERED',
    where: path,
    remedy: 'Do not trust this container any more; start another one.',
  });
}
