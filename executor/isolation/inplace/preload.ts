import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/**
 * Loads every module of the compiled program that may be wanted later. Steps run in the same file system, and nothing that
 * one of them could have replaced is to be loaded. From TypeScript, in tests, nothing is done.
 */
export async function preloadModules(): Promise<void> {
  if (!import.meta.url.endsWith('.js')) return;
  const directory = import.meta.dirname;
  // Modules that start something when they are loaded are none of these: they are the programs and the workers.
  const chunks = (await readdir(directory)).filter((name) => /^chunk-.*\.js$/.test(name));
  for (const name of chunks) await import(pathToFileURL(join(directory, name)).href);
  await import('better-sqlite3');
}
