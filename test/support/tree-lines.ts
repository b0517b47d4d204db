import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { getXattr, listXattrs } from '../../src/os/index.ts';

export interface ListOptions {
  /** Whether modification times count. Default true. */
  readonly times?: boolean;
  /** Paths (relative, latin1) that are left out with all that is in them. */
  readonly without?: readonly string[];
}

/**
 * A tree as a sorted list, a line for each path: type, mode, owner, size, digest of the content, link, device, attributes,
 * the first of its names, and when it was modified. Equal trees give equal lists.
 */
export function listTree(root: string, options: ListOptions = {}): string[] {
  const { times = true, without = [] } = options;
  const names = new Map<bigint, string>();
  const lines: string[] = [];
  const visit = (path: string): void => {
    if (without.includes(path)) return;
    const place = Buffer.from(`${Buffer.from(root).toString('latin1')}/${path}`, 'latin1');
    const stat = lstatSync(place, { bigint: true });
    const directory = stat.isDirectory();
    const first = names.get(stat.ino) ?? path;
    if (!directory) names.set(stat.ino, first);
    const attributes = listXattrs(place)
      .filter((name) => /^(?:security\.capability|user\.(?!overlay\.)|system\.posix_acl)/.test(name))
      .map((name) => `${name}=${getXattr(place, name)?.toString('hex') ?? ''}`);
    const fields = [
      `/${path}`,
      stat.mode.toString(8),
      `${stat.uid}:${stat.gid}`,
      ...(stat.isFile() ? [stat.size, createHash('sha256').update(readFileSync(place)).digest('hex')] : []),
      ...(stat.isSymbolicLink() ? [`-> ${readlinkSync(place, 'latin1')}`] : []),
      ...(stat.isCharacterDevice() || stat.isBlockDevice() ? [`device ${stat.rdev}`] : []),
      ...(first === path ? [] : [`same as /${first}`]),
      ...attributes,
      ...(times ? [stat.mtimeNs] : []),
    ];
    if (path !== '') lines.push(fields.join(' '));
    if (!directory) return;
    for (const name of readdirSync(place, { encoding: 'latin1' }).sort())
      visit(path === '' ? name : `${path}/${name}`);
  };
  visit('');
  return lines;
}
