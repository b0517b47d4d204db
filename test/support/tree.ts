import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * What a tree holds, path by path: type, mode, owner, link count, link target or content, and extended attributes; not
 * times, and not what the directory itself is. Told by find(1) and getfattr(1).
 */
export function describeTree(root: string): Map<string, string> {
  const found = execFileSync('find', [root, '-mindepth', '1', '-printf', '%P\\t%y %m %U:%G %n\\t%l\\0'], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  const attributes = attributesBelow(root);
  const tree = new Map<string, string>();
  for (const line of found.split('\0')) {
    const [path = '', facts = '', target = ''] = line.split('\t');
    if (path === '') continue;
    // Link counts of directories tell what is below them, which is told anyway.
    const kept = facts.startsWith('d') ? facts.replace(/ [0-9]+$/, '') : facts;
    const content = facts.startsWith('f') ? sha256(join(root, path)) : target;
    tree.set(path, `${kept} ${content} ${attributes.get(path) ?? ''}`.trim());
  }
  return tree;
}

function sha256(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

function attributesBelow(root: string): Map<string, string> {
  const text = execFileSync('getfattr', ['-R', '-P', '-h', '-d', '-m', '-', '-e', 'hex', '.'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  const blocks = text.split('\n\n').map((block) => block.trim().split('\n'));
  return new Map(
    blocks.map(([name = '', ...values]) => [name.replace(/^# file: /, ''), values.sort().join(' ')] as const),
  );
}

/** The paths at which two trees differ, with what each has there. */
export function treeDifferences(
  one: ReadonlyMap<string, string>,
  other: ReadonlyMap<string, string>,
): string[] {
  const paths = [...new Set([...one.keys(), ...other.keys()])].sort();
  return paths
    .filter((path) => one.get(path) !== other.get(path))
    .map((path) => `${path}: ${one.get(path) ?? 'nothing'} | ${other.get(path) ?? 'nothing'}`);
}
