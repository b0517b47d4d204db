import { randomUUID } from 'node:crypto';
import { lstatSync, rmSync } from 'node:fs';
import { lstat, mkdir, readdir, rm, utimes, lutimes } from 'node:fs/promises';
import { join } from 'node:path';
import { authorizationOf, type RegistryClient } from '../../src/registry/index.ts';
import { BuildError, hideCredentials } from '../../src/support/index.ts';
import { type GitSource, isCommit } from './addresses.ts';
import { GitProgram, type SshFiles } from './git-program.ts';
import { checkOutSubmodules } from './git-submodules.ts';

/** What a source of ADD names in a repository now. */
export interface GitRevision {
  /** The object that the ref names: a commit, or an annotated tag. */
  readonly object: string;
  /** The whole name of the ref; undefined when a commit was given. */
  readonly ref: string | undefined;
  /** The commit that an annotated tag stands for. */
  readonly tagged: string | undefined;
}

/** What {@link GitTrees} need of a registry client. */
export type GitClient = Pick<RegistryClient, 'readWebFile' | 'trustOf'>;

export interface GitTreesOptions {
  /** Whom to trust; default as the client does. */
  readonly trustOf?: RegistryClient['trustOf'];
  readonly ssh?: SshFiles | undefined;
  /** Large files are fetched where there is a git-lfs; default false. */
  readonly largeFiles?: boolean;
}

/** Trees of git repositories, fetched by the git of the machine. */
export class GitTrees {
  readonly #client: GitClient;
  readonly #options: GitTreesOptions;
  readonly #trustOf: RegistryClient['trustOf'];
  readonly #scratch: string;
  readonly #remotes = new Map<string, Promise<string>>();

  /** @param scratch where trees are put. */
  constructor(client: GitClient, scratch: string, options: GitTreesOptions = {}) {
    this.#client = client;
    this.#options = options;
    this.#trustOf = options.trustOf ?? ((host) => client.trustOf(host));
    this.#scratch = scratch;
  }

  /**
   * Finds the commit that a source names, by asking the repository for its refs; one that is named by its commit is not asked for.
   *
   * @throws BuildError `E_GIT_…`.
   */
  async identify(source: GitSource, where: string, signal?: AbortSignal): Promise<GitRevision> {
    const { ref, checksum } = source;
    const revision =
      ref !== undefined && isCommit(ref)
        ? { object: ref, ref: undefined, tagged: undefined }
        : await this.#lookUp(source, where, signal);
    const names = [revision.object, ...(revision.tagged === undefined ? [] : [revision.tagged])];
    if (checksum === undefined || names.some((name) => name.startsWith(checksum))) return revision;
    throw new BuildError(`${source.ref ?? 'the default branch'} is ${names.join(' or ')}, not ${checksum}`, {
      code: 'E_ADD_CHECKSUM',
      where,
      subject: checksum,
      remedy: 'Check that the commit is the right one, then write it into --checksum.',
    });
  }

  /**
   * Fetches a revision and its submodules.
   *
   * @returns the directory with the tree, or with the directory of it that the source names.
   * @throws BuildError `E_GIT_…`.
   */
  async checkOut(
    source: GitSource,
    revision: GitRevision,
    where: string,
    signal?: AbortSignal,
  ): Promise<string> {
    const git = await this.#program(source, where, signal);
    const tree = join(this.#scratch, `git-${randomUUID()}`);
    await mkdir(tree, { mode: 0o755 });
    await makeRepository(git, tree, revision.object);
    await fetch(git, tree, revision, source);
    const filters = this.#options.largeFiles === true ? await largeFileFilters(git, tree) : [];
    await git.run([...filters, 'checkout', '--quiet', ...placeOf(revision)], tree);
    await requireCommit(git, tree, source, where);
    // The repository of a directory of it would be one of other files.
    const isKept = source.keepGitDir && source.directory === '';
    if (source.submodules)
      await checkOutSubmodules(git, tree, {
        gitFor: (address) =>
          this.#program({ ...source, remote: withLoginOf(source.remote, address) }, where, signal),
        fetch: async (program, directory, object) => {
          await makeRepository(program, directory, object);
          await fetch(program, directory, { object, ref: undefined, tagged: undefined }, { depth: 1 });
        },
        isKept,
      });
    if (source.commitTimes) await setTimes(tree, await commitTime(git, tree));
    if (!isKept) await removeGitDirectories(tree);
    else await tidy(git, tree);
    return source.directory === '' ? tree : directoryIn(tree, source, where);
  }

  async #program({ remote }: GitSource, where: string, signal?: AbortSignal): Promise<GitProgram> {
    const web = /^https?:\/\//i.test(remote) ? new URL(remote) : undefined;
    const host = web?.host ?? (URL.canParse(remote) ? new URL(remote).host : '');
    const options = { trust: this.#trustOf(host), ssh: this.#options.ssh, where, signal };
    if (web === undefined || authorizationOf(web) === undefined)
      return new GitProgram({ remote, follow: true, ...options });
    const found = this.#remotes.get(remote) ?? this.#follow(web, where, signal);
    this.#remotes.set(remote, found);
    return new GitProgram({ remote: await found, follow: false, ...options });
  }

  /**
   * Where redirects lead to a repository whose address has credentials (gitprotocol-http(5), "Smart Clients"); these are only kept
   * for its own server.
   */
  async #follow(remote: URL, where: string, signal: AbortSignal | undefined): Promise<string> {
    const path = '/info/refs?service=git-upload-pack';
    const request = { url: new URL(remote.href.replace(/\/$/, '') + path), signal };
    const { status, url, body } = await this.#client.readWebFile(request, this.#trustOf);
    await body.dump();
    const name = hideCredentials(remote.href);
    if (status === 401 || status === 403 || status === 404)
      throw new BuildError(`git cannot read ${name}: the server answered ${status}`, {
        code: 'E_GIT_FAILED',
        where,
        remedy: 'Check the address, and that its user, password or token may read this repository.',
      });
    // Whatever else is wrong git says itself.
    if (!url.href.endsWith(path)) return remote.href;
    const found = new URL(url.href.slice(0, -path.length));
    if (found.origin === remote.origin) {
      found.username = remote.username;
      found.password = remote.password;
    }
    return found.href;
  }

  async #lookUp(source: GitSource, where: string, signal?: AbortSignal): Promise<GitRevision> {
    const git = await this.#program(source, where, signal);
    const ref = source.ref ?? (await defaultBranch(git, this.#scratch));
    const output = await git.run(['ls-remote', '--', git.address, ref, `${ref}^{}`], this.#scratch);
    const refs = new Map(
      output.split('\n').flatMap((line): [string, string][] => {
        const [object = '', name] = line.split('\t');
        return name !== undefined && isCommit(object) ? [[name, object]] : [];
      }),
    );
    // As git-checkout does, a branch goes before a tag of its name.
    const short = ref.replace(/^refs\//, '');
    const names = [`refs/${short}`, `refs/heads/${ref}`, `refs/tags/${ref}`];
    const name = names.find((candidate) => refs.has(candidate));
    const object = name === undefined ? undefined : refs.get(name);
    if (name === undefined || object === undefined)
      throw new BuildError(`${git.name} has no branch or tag ${ref}`, {
        code: 'E_GIT_REF_NOT_FOUND',
        where,
        subject: source.ref,
        remedy: 'Check its name; a commit is written whole, with 40 digits.',
      });
    return { object, ref: name, tagged: refs.get(`${name}^{}`) };
  }
}

async function makeRepository(git: GitProgram, tree: string, object: string): Promise<void> {
  await git.run(['init', '--quiet', '--template=', ...formatOf(object)], tree);
  await git.run(['remote', 'add', '--', 'origin', git.address], tree);
}

/** The address of a submodule, with the user and password that its repository's has when both are on one server. */
function withLoginOf(remote: string, address: string): string {
  if (!URL.canParse(remote) || !URL.canParse(address)) return address;
  const [from, to] = [new URL(remote), new URL(address)];
  if (!/^https?:$/.test(to.protocol) || from.origin !== to.origin || to.username !== '') return address;
  [to.username, to.password] = [from.username, from.password];
  return to.href;
}

function formatOf(object: string): string[] {
  return object.length === 64 ? ['--object-format=sha256'] : [];
}

async function defaultBranch(git: GitProgram, directory: string): Promise<string> {
  const output = await git.run(['ls-remote', '--symref', '--', git.address, 'HEAD'], directory);
  const name = /^ref: (\S+)\tHEAD$/m.exec(output)?.[1];
  if (name !== undefined) return name;
  throw git.failure('', 'It has no default branch; name one.');
}

/** Fetches what a revision needs and no more, unless the server only gives what a ref names, or the history is wanted. */
async function fetch(
  git: GitProgram,
  tree: string,
  { object, ref }: GitRevision,
  { depth = 1, within }: Pick<GitSource, 'depth' | 'within'>,
): Promise<void> {
  const target =
    ref?.startsWith('refs/tags/') === true ? ref : ref?.replace(/^refs\/heads\//, 'refs/remotes/origin/');
  const wanted = ref === undefined ? object : `+${ref}:${target ?? ref}`;
  const fetchFrom = ['fetch', '--quiet', '--no-recurse-submodules'];
  const shallow =
    depth === 0
      ? undefined
      : await git.attempt([...fetchFrom, `--depth=${depth}`, '--no-tags', '--', 'origin', wanted], tree);
  const has = async (): Promise<boolean> => (await git.attempt(['cat-file', '-e', object], tree)).code === 0;
  if (shallow?.code === 0 && (await has())) return;
  // The ref has moved since, or the server does not give commits by their names: everything may hold it.
  const unshallow = shallow?.code === 0 ? ['--unshallow'] : [];
  const others = within === undefined ? [] : [`+${fullRef(within)}`];
  const refs = ['+refs/heads/*:refs/remotes/origin/*', ...(ref === undefined ? others : [wanted])];
  const whole = await git.attempt(
    [...fetchFrom, '--tags', '--force', ...unshallow, '--', 'origin', ...new Set(refs)],
    tree,
  );
  if (whole.code !== 0) throw git.failure(whole.stderr === '' ? (shallow?.stderr ?? '') : whole.stderr);
  if (!(await has())) throw git.failure('', `It does not have ${object}; check the commit.`);
}

/** A ref of a server that need not be a branch. */
function fullRef(name: string): string {
  return name.startsWith('refs/') ? name : `refs/heads/${name}`;
}

/** What has git-lfs put large files in the place of their pointers, as `git lfs install` writes it; nothing without git-lfs. */
async function largeFileFilters(git: GitProgram, tree: string): Promise<string[]> {
  if ((await git.attempt(['lfs', 'version'], tree)).code !== 0) return [];
  return ['-c', 'filter.lfs.process=git-lfs filter-process', '-c', 'filter.lfs.required=true'];
}

/** A branch is checked out as one, so that a repository that is kept is on it. */
function placeOf({ object, ref }: GitRevision): string[] {
  const branch = ref?.startsWith('refs/heads/') === true ? ref.slice('refs/heads/'.length) : undefined;
  return branch === undefined ? ['--detach', object] : ['-B', branch, object];
}

/** A checksum may be that of a commit, where the ref was one, whose object is only known now. */
async function requireCommit(
  git: GitProgram,
  tree: string,
  { checksum }: GitSource,
  where: string,
): Promise<void> {
  if (checksum === undefined) return;
  const head = (await git.run(['rev-parse', 'HEAD'], tree)).trim();
  const tagged = await git.attempt(['for-each-ref', '--format=%(objectname)', 'refs/tags'], tree);
  if ([head, ...tagged.stdout.split('\n')].some((name) => name.startsWith(checksum))) return;
  throw new BuildError(`the commit is ${head}, not ${checksum}`, { code: 'E_ADD_CHECKSUM', where });
}

async function commitTime(git: GitProgram, tree: string): Promise<Date> {
  return new Date(Number(await git.run(['log', '-1', '--format=%ct', 'HEAD'], tree)) * 1000);
}

async function setTimes(directory: string, time: Date): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) await setTimes(path, time);
    else if (entry.isSymbolicLink()) await lutimes(path, time, time);
    else await utimes(path, time, time);
  }
  await utimes(directory, time, time);
}

/** Removes `.git` of the repository and of its submodules, which is a file there. */
async function removeGitDirectories(directory: string): Promise<void> {
  await rm(join(directory, '.git'), { recursive: true, force: true });
  for (const entry of await readdir(directory, { withFileTypes: true }))
    if (entry.isDirectory()) await removeGitDirectories(join(directory, entry.name));
}

/** Removes from a repository that is kept what tells of its fetching. */
async function tidy(git: GitProgram, tree: string): Promise<void> {
  await git.run(['reflog', 'expire', '--all', '--expire=now'], tree);
  for (const name of ['FETCH_HEAD', 'ORIG_HEAD']) rmSync(join(tree, '.git', name), { force: true });
}

/** A directory of a tree, which no link of it leads to. */
async function directoryIn(tree: string, { directory }: GitSource, where: string): Promise<string> {
  let path = tree;
  for (const part of directory.split('/')) {
    path = join(path, part);
    const found = part !== '..' && lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
    if (found) continue;
    throw new BuildError(`the repository has no directory ${directory}`, {
      code: 'E_GIT_DIRECTORY',
      where,
      subject: directory,
      remedy: 'Check the path behind the ref.',
    });
  }
  await lstat(path);
  return path;
}
