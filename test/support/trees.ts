import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/**
 * Every path below a directory by GNU find: relative path, type, mode in octal, owner and group; sorted. Names that are
 * no UTF-8 show their bytes in octal.
 */
export function listTree(root: string, format = '%P %y %m %U:%G'): string[] {
  const output = execFileSync('find', [root, '-mindepth', '1', '-printf', `${format}\\0`], {
    encoding: 'latin1',
  });
  return output
    .split('\0')
    .filter((line) => line !== '')
    .map((line) => line.replace(/[\x80-\xff]/g, (byte) => `\\${byte.charCodeAt(0).toString(8)}`))
    .sort();
}

/** Writes small files, making their directories. A path that ends in a slash is an empty directory. */
export function plant(root: string, files: Readonly<Record<string, string>>): void {
  for (const [name, content] of Object.entries(files)) {
    const path = join(root, name);
    mkdirSync(name.endsWith('/') ? path : dirname(path), { recursive: true });
    if (!name.endsWith('/')) writeFileSync(path, content);
  }
}

/** A value of `security.capability` that allows a program to open raw sockets: `cap_net_raw=ep`. */
export const rawSocketCapability = Buffer.from('0100000200200000000000000000000000000000', 'hex');
