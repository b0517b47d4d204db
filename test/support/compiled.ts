import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { bundlePrograms } from '../../scripts/bundle.ts';

/** Compiles both programs below a directory, for tests that start very many processes. @returns where they are. */
export async function compilePrograms(directory: string): Promise<string> {
  await mkdir(directory, { recursive: true });
  const programs = join(directory, 'dist');
  await bundlePrograms(programs);
  // Native modules are looked for above the programs.
  await symlink(join(import.meta.dirname, '../../node_modules'), join(directory, 'node_modules'));
  return programs;
}
