import { BuildError, hideCredentials } from '../../src/support/index.ts';

/** What `ADD` takes from elsewhere. */
export type RemoteSource = HttpSource | GitSource;

/** A file of a web server. */
export interface HttpSource {
  readonly kind: 'http';
  /** With the user and password that it was given with. */
  readonly url: string;
  /** The name that the file gets in a directory. */
  readonly name: string;
  /** SHA-256 that it must have, `sha256:…`. */
  readonly checksum: string | undefined;
}

/** A git repository, or a directory of one. */
export interface GitSource {
  readonly kind: 'git';
  /** As git takes it, with the user and password that it was given with. */
  readonly remote: string;
  /** Branch, tag or commit; undefined: the default branch. */
  readonly ref: string | undefined;
  /** Empty for the whole repository. */
  readonly directory: string;
  /** A commit, or the beginning of one, that the ref must be. */
  readonly checksum: string | undefined;
  readonly keepGitDir: boolean;
  readonly submodules: boolean;
  /** Files have the time of the commit, not that of their checkout. */
  readonly commitTimes: boolean;
  /** How many commits of the history are fetched; 0: all, with its tags. Default 1. */
  readonly depth?: number;
  /** A ref whose history has the commit that `ref` is, for servers that do not give commits by their names. */
  readonly within?: string | undefined;
}

/** What the flags of an ADD say about its remote sources. */
export interface RemoteFlags {
  readonly checksum: string | undefined;
  readonly keepGitDir: boolean | undefined;
}

/** Names the file of an address without any, as BuildKit does. */
const unnamed = '__unnamed__';
const commit = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/;

/**
 * What a source of ADD names elsewhere; undefined for a path of the context. Addresses of repositories are those of BuildKit:
 * `git@host:path`, `ssh://`, `git://`, and `http(s)://` with a path that ends in `.git`; with `#ref:directory`, or as a query
 * `?ref= tag= branch= subdir= checksum= commit= keep-git-dir= submodules= mtime= fetch-by-commit=`.
 *
 * @param where the Dockerfile and line.
 * @throws BuildError `E_ADD_ADDRESS`.
 */
export function parseRemote(text: string, flags: RemoteFlags, where: string): RemoteSource | undefined {
  const git = splitGitAddress(text);
  if (git !== undefined) return gitSource(text, git, flags, where);
  if (!/^https?:\/\//.test(text)) return undefined;
  const url = parseUrl(text, where);
  const { checksum } = flags;
  if (checksum !== undefined && !/^sha256:[0-9a-f]{64}$/.test(checksum))
    throw wrong(
      where,
      `--checksum ${checksum} is no digest of a file`,
      checksum,
      'Write --checksum=sha256:….',
    );
  if (flags.keepGitDir !== undefined)
    throw wrong(where, `${hideCredentials(text)} is no git repository`, '--keep-git-dir');
  return { kind: 'http', url: text, name: nameOf(url), checksum };
}

export function isCommit(text: string): boolean {
  return commit.test(text);
}

interface GitAddress {
  readonly remote: string;
  readonly query: URLSearchParams;
  readonly fragment: string;
}

function splitGitAddress(text: string): GitAddress | undefined {
  const url = /^(https?|ssh|git):\/\//i.exec(text);
  if (url === null) {
    const match = /^([a-zA-Z0-9_][a-zA-Z0-9_-]*@[a-zA-Z0-9.-]+:[^?#]*)(?:\?([^#]*))?(?:#(.*))?$/s.exec(text);
    if (match === null) return undefined;
    const [, remote = '', query = '', fragment = ''] = match;
    return { remote, query: new URLSearchParams(query), fragment };
  }
  if (!URL.canParse(text)) return undefined;
  const parsed = new URL(text);
  const isHttp = (url[1] ?? '').toLowerCase().startsWith('http');
  if (isHttp && !parsed.pathname.endsWith('.git')) return undefined;
  const fragment = decodeURIComponent(parsed.hash.slice(1));
  const query = parsed.searchParams;
  const bare = new URL(parsed);
  bare.search = '';
  bare.hash = '';
  return { remote: bare.href, query, fragment };
}

const queryKeys = [
  ...['ref', 'tag', 'branch', 'subdir', 'checksum', 'commit'],
  ...['keep-git-dir', 'submodules', 'mtime', 'fetch-by-commit'],
];
const switches = new Set(['keep-git-dir', 'submodules', 'fetch-by-commit']);

function gitSource(text: string, address: GitAddress, flags: RemoteFlags, where: string): GitSource {
  const refuse = (why: string): BuildError => wrong(where, `${hideCredentials(text)}: ${why}`, text);
  const value = queryReader(address.query, refuse);
  const [fragmentRef = '', ...rest] = address.fragment.split(':');
  const fragmentDirectory = rest.join(':');
  const tag = prefixed('refs/tags/', value('tag'));
  const branch = prefixed('refs/heads/', value('branch'));
  const ref = onlyOne('ref', [fragmentRef, value('ref'), tag, branch], refuse);
  if (ref !== undefined && !isRefName(ref)) throw refuse(`"${ref}" is no name of a branch, tag or commit`);
  const directory = onlyOne('subdir', [fragmentDirectory, value('subdir')], refuse) ?? '';
  const checksum = onlyOne('checksum', [flags.checksum, value('checksum'), value('commit')], refuse);
  if (checksum !== undefined && !/^[0-9a-f]{1,64}$/i.test(checksum))
    throw refuse(`the checksum ${checksum} is no commit`);
  const keepGitDir = onlyOne(
    'keep-git-dir',
    [flags.keepGitDir, switchOf(value('keep-git-dir'), refuse)],
    refuse,
  );
  const byCommit = switchOf(value('fetch-by-commit'), refuse) === true;
  if (byCommit && !isCommit(checksum ?? ''))
    throw refuse('fetch-by-commit needs a whole commit as its checksum');
  const mtime = value('mtime');
  if (mtime !== undefined && mtime !== 'checkout' && mtime !== 'commit')
    throw refuse(`mtime is checkout or commit, not ${mtime}`);
  return {
    kind: 'git',
    remote: address.remote,
    ref: byCommit ? checksum : ref,
    directory: directory
      .split('/')
      .filter((part) => part !== '' && part !== '.')
      .join('/'),
    checksum: checksum?.toLowerCase(),
    keepGitDir: keepGitDir ?? false,
    submodules: switchOf(value('submodules'), refuse) ?? true,
    commitTimes: mtime === 'commit',
  };
}

/** Reads single values of a query; a switch may stand without one. */
function queryReader(
  query: URLSearchParams,
  refuse: (why: string) => BuildError,
): (key: string) => string | undefined {
  for (const key of query.keys()) {
    if (!queryKeys.includes(key)) throw refuse(`there is no "${key}" in the query of a repository`);
    if (query.getAll(key).length > 1) throw refuse(`"${key}" is given several times`);
    if (query.get(key) === '' && !switches.has(key)) throw refuse(`"${key}" has no value`);
  }
  return (key) => query.get(key) ?? undefined;
}

function prefixed(prefix: string, name: string | undefined): string | undefined {
  return name === undefined || name.startsWith(prefix) ? name : prefix + name;
}

function switchOf(text: string | undefined, refuse: (why: string) => BuildError): boolean | undefined {
  if (text === undefined) return undefined;
  if (/^(?:|1|t|true)$/i.test(text)) return true;
  if (/^(?:0|f|false)$/i.test(text)) return false;
  throw refuse(`"${text}" is neither true nor false`);
}

/** What is said in several places must be the same in all. */
function onlyOne<Value>(
  what: string,
  said: readonly (Value | undefined)[],
  refuse: (why: string) => BuildError,
): Value | undefined {
  const values = [...new Set(said.filter((value) => value !== undefined && value !== ''))];
  if (values.length > 1)
    throw refuse(`it says two things about ${what}: ${values.map(String).join(' and ')}`);
  return values[0];
}

/** Names as git-check-ref-format(1) allows them, and nothing that git could take for an option or an expression. */
function isRefName(name: string): boolean {
  // eslint-disable-next-line no-control-regex
  return !/^[-/]|\.\.|@\{|\/\/|[\x00-\x20\x7f~^:?*[\\]|[/.]$|\.lock$/.test(name);
}

function parseUrl(text: string, where: string): URL {
  if (URL.canParse(text)) return new URL(text);
  throw wrong(where, `${hideCredentials(text)} is not the address of a file`, text);
}

/** The last part of the address's path, when that can be the name of a file. */
function nameOf(url: URL): string {
  let path = url.pathname;
  try {
    path = decodeURIComponent(path);
  } catch (error) {
    if (!(error instanceof URIError)) throw error;
  }
  const name = path.split('/').findLast((part) => part !== '') ?? '';
  // eslint-disable-next-line no-control-regex
  return name === '' || name === '.' || name === '..' || /[\x00-\x1f\x7f]/.test(name) || name.length > 255
    ? unnamed
    : name;
}

function wrong(where: string, message: string, subject?: string, remedy?: string): BuildError {
  return new BuildError(message, { code: 'E_ADD_ADDRESS', where, subject, remedy });
}
