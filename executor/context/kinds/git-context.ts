import { UsageError, type ProcessEnvironment } from '../../../src/support/index.ts';
import { parseBoolean } from '../../../src/cli/index.ts';
import { type GitSource, isCommit } from '../../remote/index.ts';
import { type ContextAddress, parseContext, parseGit } from './address.ts';
import type { RepositoryAccess } from './fetch-context.ts';

/** What `--git` says of a context that is a repository; undefined: nothing. */
export interface GitFlags {
  /** A branch, or a tag. */
  readonly branch?: string | undefined;
  /** How many commits of the history are fetched; 0: all. */
  readonly depth?: number | undefined;
  readonly recurseSubmodules?: boolean | undefined;
  readonly insecureSkipTls?: boolean | undefined;
  readonly keepGitDir?: boolean | undefined;
  /** Files that ssh reads instead of those in `~/.ssh`. */
  readonly sshKey?: string | undefined;
  readonly sshKnownHosts?: string | undefined;
}

const keys = [
  'branch',
  'single-branch',
  'depth',
  'recurse-submodules',
  'insecure-skip-tls',
  'keep-git-dir',
  'ssh-key',
  'ssh-known-hosts',
];
const betweenPairs = new RegExp(`,(?=(?:${keys.join('|')})=)`);

/**
 * Reads values of `--git`: kaniko's `branch= single-branch= depth= recurse-submodules= insecure-skip-tls=` and `keep-git-dir= ssh-key= ssh-known-hosts=`, one in
 * each or several with commas. Only one branch is ever fetched, whatever `single-branch` says: the files are the same.
 *
 * @throws UsageError.
 */
export function parseGitFlags(values: readonly string[]): GitFlags {
  const given = new Map<string, string>();
  for (const pair of values.flatMap((value) => value.split(betweenPairs))) {
    const equals = pair.indexOf('=');
    const key = pair.slice(0, Math.max(0, equals));
    if (!keys.includes(key))
      throw new UsageError(`--git ${pair} cannot be understood`, {
        remedy: `Write --git KEY=VALUE, with one of the keys ${keys.join(', ')}.`,
      });
    given.set(key, pair.slice(equals + 1));
  }
  const switchOf = (key: string): boolean | undefined => {
    const text = given.get(key);
    return text === undefined ? undefined : parseBoolean(text);
  };
  switchOf('single-branch');
  const depth = given.get('depth');
  if (depth !== undefined && !/^[0-9]{1,9}$/.test(depth))
    throw new UsageError(`--git depth=${depth}: it is a number of commits, or 0 for all`, {});
  const branch = given.get('branch');
  return {
    branch: branch === '' ? undefined : branch,
    depth: depth === undefined ? undefined : Number(depth),
    recurseSubmodules: switchOf('recurse-submodules'),
    insecureSkipTls: switchOf('insecure-skip-tls'),
    keepGitDir: switchOf('keep-git-dir'),
    sshKey: given.get('ssh-key'),
    sshKnownHosts: given.get('ssh-known-hosts'),
  };
}

/** How the server is reached, by what `--git` says. */
export function accessOf({ insecureSkipTls, sshKey, sshKnownHosts }: GitFlags): RepositoryAccess {
  return { skipTls: insecureSkipTls === true, ssh: { key: sshKey, knownHosts: sshKnownHosts } };
}

/**
 * Reads the address of the build context itself. As {@link parseContext}, but `git://host/repository[#ref[#commit]]` is kaniko's form, which
 * is fetched by HTTPS, or as `GIT_PULL_METHOD` says (`http`; `git` for git's own protocol); and what `--git` says counts, and the
 * credentials in `GIT_TOKEN`, or `GIT_USERNAME` and `GIT_PASSWORD`.
 *
 * @throws UsageError as parseContext.
 */
export function parseBuildContext(
  text: string,
  git: GitFlags,
  environment: ProcessEnvironment,
): ContextAddress {
  const where = '--context';
  const address = /^git:\/\//i.test(text)
    ? parseKanikoForm(text, where, environment)
    : parseContext(text, where);
  if (address.kind !== 'git') {
    const said = Object.entries(git).find(([, value]) => value !== undefined);
    if (said === undefined) return address;
    throw new UsageError('--git says something of a repository, but --context is none', {
      remedy: 'Leave --git out, or give the address of a repository.',
    });
  }
  const source = withFlags(address.source, git);
  return { kind: 'git', source: { ...source, remote: withCredentials(source.remote, environment) } };
}

/** `git://` as kaniko reads it; submodules are left out unless `--git` asks for them. */
function parseKanikoForm(
  text: string,
  where: string,
  { GIT_PULL_METHOD }: ProcessEnvironment,
): { readonly kind: 'git'; readonly source: GitSource } {
  const method = GIT_PULL_METHOD === 'http' || GIT_PULL_METHOD === 'git' ? GIT_PULL_METHOD : 'https';
  const [, path = '', query = '', ref = '', commit] =
    /^git:\/\/([^?#]+)(\?[^#]*)?(?:#([^#]*))?(?:#([^#]*))?$/is.exec(text) ?? [];
  // What follows the scheme need not end in .git, as it must in addresses that could be those of files.
  const stand = parseGit(`ssh://${path}${query}#${ref}`, where);
  if (path === '' || stand === undefined || !URL.canParse(`${method}://${path}`))
    throw new UsageError(`${where} ${text.replace(/#.*$/s, '')} cannot be understood`, {
      code: 'E_CONTEXT_ADDRESS',
      remedy: 'Write it as git://HOST/REPOSITORY#refs/heads/BRANCH.',
    });
  const remote = new URL(`${method}://${path}`).href;
  const submodules = /[?&]submodules\b/.test(query) && stand.source.submodules;
  const source = { ...stand.source, remote, submodules };
  if (commit === undefined || commit === '') return { kind: 'git', source };
  if (!isCommit(commit))
    throw new UsageError(`${where}: "${commit}" is no commit`, {
      code: 'E_CONTEXT_ADDRESS',
      remedy: 'Behind the second # stands a whole commit, with 40 digits.',
    });
  return { kind: 'git', source: { ...source, ref: commit, within: source.ref } };
}

/** A branch takes the place of a branch in the address, not of a commit, tag or pull request, as in kaniko. */
function withFlags(source: GitSource, git: GitFlags): GitSource {
  const { ref, submodules, keepGitDir } = source;
  const isBranch =
    ref === undefined || (!isCommit(ref) && (!ref.startsWith('refs/') || ref.startsWith('refs/heads/')));
  return {
    ...source,
    ref: git.branch !== undefined && isBranch ? git.branch : ref,
    submodules: git.recurseSubmodules ?? submodules,
    keepGitDir: git.keepGitDir ?? keepGitDir,
    ...(git.depth === undefined ? {} : { depth: git.depth }),
  };
}

/** Credentials for the repository itself, unless its address has some. They are no other host's business. */
function withCredentials(remote: string, environment: ProcessEnvironment): string {
  const { GIT_TOKEN = '', GIT_USERNAME = '', GIT_PASSWORD = '' } = environment;
  const [username, password] = GIT_TOKEN === '' ? [GIT_USERNAME, GIT_PASSWORD] : [GIT_TOKEN, ''];
  if (!/^https?:\/\//i.test(remote) || (username === '' && password === '')) return remote;
  const url = new URL(remote);
  if (url.username !== '' || url.password !== '') return remote;
  url.username = encodeURIComponent(username);
  url.password = encodeURIComponent(password);
  return url.href;
}
