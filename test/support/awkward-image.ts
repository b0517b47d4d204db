import { execFileSync } from 'node:child_process';
import { chmodSync, lchownSync, linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeNode, setXattr } from '../../src/os/index.ts';
import { rawSocketCapability } from './trees.ts';

/** A layer whose files take every right that unpacking may need, and the tree that it was packed from. */
export interface AwkwardLayer {
  /** A gzip-compressed tar. */
  readonly file: string;
  readonly tree: string;
}

/** What unpacking takes which capability for, by a layer that has that and nothing else of the kind. */
export const capabilityNeeds: Readonly<Record<string, (tree: Tree) => void>> = {
  CHOWN: (tree) => {
    tree.directory('home/user', 0o755, 1000);
    tree.file('home/user/file', 0o644, 1000);
    tree.link('home/user/link', 'file', 1000);
  },
  DAC_OVERRIDE: (tree) => {
    tree.directory('closed', 0o555);
    tree.file('closed/file', 0o444);
    tree.directory('var/private', 0o700, 1000);
    tree.file('var/private/file', 0o600, 1000);
  },
  FOWNER: (tree) => {
    tree.directory('home/user', 0o711, 1000);
    tree.file('home/user/program', 0o4755, 1000);
  },
  FSETID: (tree) => {
    tree.file('usr/bin/wall', 0o2755, 0, 5);
    tree.directory('var/local', 0o2775, 0, 50);
    tree.file('var/local/file', 0o644);
  },
  MKNOD: (tree) => {
    tree.device('dev/null', 1, 3);
  },
  SETFCAP: (tree) => {
    tree.file('usr/bin/ping', 0o755);
    setXattr(tree.path('usr/bin/ping'), 'security.capability', rawSocketCapability);
  },
};

/** Makes the tree of a layer. Directories on the way are root's. */
export class Tree {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
    mkdirSync(root, { recursive: true });
  }

  path(path: string): string {
    return join(this.#root, path);
  }

  directory(path: string, mode = 0o755, uid = 0, gid = uid): void {
    mkdirSync(this.path(path), { recursive: true });
    this.#own(path, mode, uid, gid);
  }

  file(path: string, mode = 0o644, uid = 0, gid = uid): void {
    mkdirSync(join(this.path(path), '..'), { recursive: true });
    writeFileSync(this.path(path), path);
    this.#own(path, mode, uid, gid);
  }

  link(path: string, target: string, uid = 0): void {
    symlinkSync(target, this.path(path));
    lchownSync(this.path(path), uid, uid);
  }

  hardLink(path: string, target: string): void {
    linkSync(this.path(target), this.path(path));
  }

  device(path: string, major: number, minor: number): void {
    mkdirSync(join(this.path(path), '..'), { recursive: true });
    makeNode(this.path(path), 0o20666, major, minor);
    chmodSync(this.path(path), 0o666);
  }

  /** Packs the tree with GNU tar. */
  pack(file: string): AwkwardLayer {
    execFileSync('tar', [
      ...['-C', this.#root, '--numeric-owner', '--xattrs', '--xattrs-include=security.capability'],
      ...['--sort=name', '-czf', file, '.'],
    ]);
    return { file, tree: this.#root };
  }

  #own(path: string, mode: number, uid: number, gid: number): void {
    lchownSync(this.path(path), uid, gid);
    chmodSync(this.path(path), mode);
  }
}

/** Two layers of one image: everything that takes a right, and on top of it deletions of both kinds. */
export function awkwardLayers(scratch: string): AwkwardLayer[] {
  const lower = new Tree(join(scratch, 'lower'));
  for (const make of Object.values(capabilityNeeds)) make(lower);
  lower.directory('tmp', 0o1777);
  lower.file('etc/shadow', 0o000);
  lower.hardLink('etc/shadow-', 'etc/shadow');
  lower.file('etc/gone');
  lower.file('opt/old/file');
  const upper = new Tree(join(scratch, 'upper'));
  upper.file('etc/.wh.gone');
  upper.file('opt/old/.wh..wh..opq');
  upper.file('opt/old/new');
  return [lower.pack(join(scratch, 'lower.tar.gz')), upper.pack(join(scratch, 'upper.tar.gz'))];
}
