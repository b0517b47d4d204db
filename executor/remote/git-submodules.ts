import { lstatSync } from 'node:fs';
import { mkdir, readdir, rename, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { isCommit } from './addresses.ts';
import type { GitProgram } from './git-program.ts';

export interface SubmoduleTools {
  /** The git for another repository. @param address without credentials. */
  readonly gitFor: (address: string) => Promise<GitProgram>;
  /** Makes a directory a repository with one commit fetched, and nothing checked out. */
  readonly fetch: (git: GitProgram, directory: string, commit: string) => Promise<void>;
  /** Whether the repositories are kept beside the files, as git does it; otherwise they are removed by the caller. */
  readonly isKept: boolean;
}

/** A repository that is checked out. */
interface CheckedOut {
  readonly git: GitProgram;
  readonly tree: string;
  readonly gitDirectory: string;
}

/** What a tree says of one of its submodules. */
interface Submodule {
  readonly path: string;
  readonly commit: string;
  readonly name: string;
  readonly url: string;
}

/** Deeper and more than any project has. Without bounds a small repository could name others by the million. */
const deepest = 16;
const most = 1000;

/**
 * Checks out the submodules of a repository, and theirs, at the commits that the tree names, as `git submodule update --init
 * --recursive --depth=1` does. That one is a script for the shell: Kiln's image has none, and in a build in place it
 * would be the shell of the image that is built.
 *
 * @param git for the repository; addresses in its `.gitmodules` may be relative to its own.
 * @param tree where it is checked out.
 * @throws BuildError `E_GIT_FAILED`.
 */
export async function checkOutSubmodules(
  git: GitProgram,
  tree: string,
  tools: SubmoduleTools,
): Promise<void> {
  let left = most;
  const visit = async (parent: CheckedOut, depth: number): Promise<void> => {
    for (const submodule of await submodulesOf(parent)) {
      if (depth > deepest || --left < 0)
        throw parent.git.failure(
          '',
          `It has more than ${most} submodules, or more than ${deepest} inside each other.`,
        );
      await visit(await checkOut(parent, submodule, tools), depth + 1);
    }
  };
  await visit({ git, tree, gitDirectory: join(tree, '.git') }, 1);
}

async function checkOut(
  parent: CheckedOut,
  submodule: Submodule,
  tools: SubmoduleTools,
): Promise<CheckedOut> {
  const { path, commit } = submodule;
  const tree = await emptyDirectory(parent, path);
  const git = await tools.gitFor(submodule.url);
  await tools.fetch(git, tree, commit);
  await git.run(['checkout', '--quiet', '--detach', commit], tree);
  const gitDirectory = tools.isKept ? await absorb(parent, submodule, tree) : join(tree, '.git');
  return { git, tree, gitDirectory };
}

async function submodulesOf({ git, tree }: CheckedOut): Promise<Submodule[]> {
  const links = await linkedCommits(git, tree);
  if (links.size === 0) return [];
  // From the commit: in the tree it could be a link to another file.
  const listed = await git.attempt(['config', '--blob', 'HEAD:.gitmodules', '--null', '--list'], tree);
  const settings = listed.code === 0 ? parseSettings(listed.stdout) : [];
  const byPath = new Map(settings.map((each) => [each.path, each]));
  return [...links].flatMap(([path, commit]) => {
    const { name, url, update } = byPath.get(path) ?? {};
    if (update === 'none') return [];
    if (name === undefined || url === undefined)
      throw git.failure(listed.stderr, `Its .gitmodules does not say where the submodule ${path} is from.`);
    // It becomes a part of a path (CVE-2018-11235).
    if (name.split(/[/\\]/).some((part) => part === '..' || part === ''))
      throw git.failure('', `A submodule cannot have the name ${JSON.stringify(name)}.`);
    return [{ path, commit, name, url: absoluteUrl(git, url) }];
  });
}

/** The submodules that the tree has, by their paths. */
async function linkedCommits(git: GitProgram, tree: string): Promise<Map<string, string>> {
  const output = await git.run(['ls-tree', '-r', '-d', '-z', 'HEAD'], tree);
  const links = new Map<string, string>();
  for (const entry of output.split('\0')) {
    const [, commit = '', path = ''] = /^160000 commit ([0-9a-f]+)\t(.+)$/s.exec(entry) ?? [];
    if (isCommit(commit)) links.set(path, commit);
  }
  return links;
}

interface Settings {
  readonly name: string;
  path?: string;
  url?: string;
  update?: string;
}

/** What `.gitmodules` says (gitmodules(5)), as git-config lists it. */
function parseSettings(output: string): Settings[] {
  const found = new Map<string, Settings>();
  for (const entry of output.split('\0')) {
    const [, name, key, value] = /^submodule\.(.*)\.(path|url|update)\n(.*)$/s.exec(entry) ?? [];
    if (name === undefined || value === undefined) continue;
    const settings = found.get(name) ?? { name };
    found.set(name, settings);
    settings[key as 'path' | 'url' | 'update'] = value;
  }
  return [...found.values()];
}

/**
 * An address in `.gitmodules` that begins with `./` or `../` is relative to that of the repository which has it
 * (git-submodule(1), "add").
 */
function absoluteUrl(git: GitProgram, url: string): string {
  if (!/^\.\.?\//.test(url)) return url;
  let base = git.address.replace(/\/$/, '');
  let rest = url;
  let separator = '/';
  for (let match = /^\.\.?\/+/.exec(rest); match !== null; match = /^\.\.?\/+/.exec(rest)) {
    rest = rest.slice(match[0].length);
    if (!match[0].startsWith('..')) continue;
    const end = Math.max(base.lastIndexOf('/'), base.includes('/') ? -1 : base.lastIndexOf(':'));
    if (end < 0) throw git.failure('', `The address ${url} of a submodule leads nowhere from there.`);
    separator = base[end] ?? '/';
    base = base.slice(0, end);
  }
  return `${base}${separator}${rest}`.replace(/\/$/, '');
}

/** The directory that git made for a submodule: nothing is in it, and no link leads to it. */
async function emptyDirectory({ git, tree }: CheckedOut, path: string): Promise<string> {
  let directory = tree;
  for (const part of path.split('/')) {
    directory = join(directory, part);
    const isPlain = part !== '' && part !== '.' && part !== '..' && part.toLowerCase() !== '.git';
    if (!isPlain || lstatSync(directory, { throwIfNoEntry: false })?.isDirectory() !== true)
      throw git.failure('', `It has no place for the submodule ${path}.`);
  }
  if ((await readdir(directory)).length > 0)
    throw git.failure('', `The place of the submodule ${path} is taken.`);
  return directory;
}

/** Puts a submodule's repository where git keeps it: in that of its parent, with a file that says so (gitsubmodules(7)). */
async function absorb(parent: CheckedOut, { name, url }: Submodule, tree: string): Promise<string> {
  const gitDirectory = join(parent.gitDirectory, 'modules', name);
  await mkdir(dirname(gitDirectory), { recursive: true });
  await rename(join(tree, '.git'), gitDirectory);
  await writeFile(join(tree, '.git'), `gitdir: ${relative(tree, gitDirectory)}\n`);
  await parent.git.run(['config', 'core.worktree', relative(gitDirectory, tree)], tree);
  await parent.git.run(['config', `submodule.${name}.active`, 'true'], parent.tree);
  await parent.git.run(['config', `submodule.${name}.url`, url], parent.tree);
  return gitDirectory;
}
