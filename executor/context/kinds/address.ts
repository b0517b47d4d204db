import { existsSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import { nearestWord } from '../../../src/dockerfile/index.ts';
import { hideCredentials, KilnError, UsageError } from '../../../src/support/index.ts';
import { type GitSource, parseRemote } from '../../remote/index.ts';

/** Where a context is, and of what kind. */
export type ContextAddress = { readonly kind: 'directory'; readonly path: string } | RemoteContext;

/** A context whose files have to be brought here first. */
export type RemoteContext = ArchiveContext | { readonly kind: 'git'; readonly source: GitSource };

/** A context that is a tar archive. */
export type ArchiveContext =
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'standard-input' }
  /** With the user and password that it was given with. */
  | { readonly kind: 'web'; readonly url: string }
  | { readonly kind: 's3' | 'google'; readonly bucket: string; readonly key: string }
  /** Azure Blob Storage: `https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME`. */
  | { readonly kind: 'azure'; readonly url: string };

/** The object of a bucket that kaniko reads when none is named. */
const defaultKey = 'context.tar.gz';
/** The hosts of Azure Blob Storage, in each of its clouds, as kaniko knows them. */
const azureHost =
  /^[a-z0-9-]+\.blob\.core\.(?:windows\.net|chinacloudapi\.cn|cloudapi\.de|usgovcloudapi\.net)$/;
const schemes = ['dir', 'tar', 'git', 'ssh', 'https', 'http', 's3', 'gs'];
/** What people write who know it from elsewhere, and what it is called here. */
const otherNames: Readonly<Record<string, string>> = {
  file: 'dir://DIRECTORY or tar://FILE',
  gcs: 'gs://BUCKET/OBJECT',
  s3a: 's3://BUCKET/OBJECT',
  'git+https': 'git://HOST/REPOSITORY',
  'git+ssh': 'ssh://USER@HOST/REPOSITORY',
  azblob: 'https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME',
  abfs: 'https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME',
  abfss: 'https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME',
};

/**
 * Reads the address of a context: a directory, as a path or `dir://`; `tar://FILE`, `tar://stdin` and `-`; a git repository as
 * BuildKit writes it (`https://….git#ref:directory`, `ssh://`, `git://`, `git@host:path`); `https://` and `http://` for an archive of a web
 * server or of Azure Blob Storage; `s3://BUCKET/KEY`, `gs://BUCKET/KEY`.
 *
 * @param where how messages call it: `--context`.
 * @throws UsageError `E_CONTEXT_UNSUPPORTED`, `E_CONTEXT_ADDRESS`.
 */
export function parseContext(text: string, where: string): ContextAddress {
  if (text === '-') return { kind: 'standard-input' };
  const [, scheme, rest = ''] = /^([a-z][a-z0-9+.-]*):\/\/(.*)$/is.exec(text) ?? [];
  switch (scheme?.toLowerCase()) {
    case undefined:
      return parseGit(text, where) ?? { kind: 'directory', path: text };
    case 'dir':
      return { kind: 'directory', path: fromRoot(required(rest, text, where)) };
    case 'tar':
      return rest === 'stdin' || rest === '-'
        ? { kind: 'standard-input' }
        : { kind: 'file', path: required(rest, text, where) };
    case 's3':
      return { kind: 's3', ...parseBucket(rest, text, where) };
    case 'gs':
      return { kind: 'google', ...parseBucket(rest, text, where) };
    case 'git':
    case 'ssh':
      return parseGit(text, where) ?? { kind: 'directory', path: text };
    case 'http':
    case 'https':
      return parseGit(text, where) ?? parseWeb(text, where);
    default:
      throw unknownKind(scheme ?? '', where);
  }
}

/** How messages call a context: by its address, without what could be secret in it. */
export function contextName(address: ContextAddress): string {
  switch (address.kind) {
    case 'directory':
    case 'file':
      return address.path;
    case 'standard-input':
      return 'standard input';
    case 'git': {
      const { remote, ref, directory } = address.source;
      const place = directory === '' ? '' : `:${directory}`;
      return `${hideCredentials(remote)}${ref === undefined && place === '' ? '' : `#${ref ?? ''}${place}`}`;
    }
    case 's3':
      return `s3://${address.bucket}/${address.key}`;
    case 'google':
      return `gs://${address.bucket}/${address.key}`;
    case 'web':
    case 'azure': {
      // Keys of a query have any name, so that nobody can say which of them is a secret.
      const { origin, pathname } = new URL(address.url);
      return origin + pathname;
    }
  }
}

/** kaniko reads `dir://workspace` from the root, and its examples are written so. What is here counts first. */
function fromRoot(path: string): string {
  return isAbsolute(path) || existsSync(path) ? path : `/${path}`;
}

/** @returns undefined for what is no address of a repository. */
export function parseGit(
  text: string,
  where: string,
): { readonly kind: 'git'; readonly source: GitSource } | undefined {
  try {
    const remote = parseRemote(text, { checksum: undefined, keepGitDir: undefined }, where);
    return remote?.kind === 'git' ? { kind: 'git', source: remote } : undefined;
  } catch (error) {
    if (!(error instanceof KilnError)) throw error;
    const { message, remedy } = error;
    throw new UsageError(message, { code: 'E_CONTEXT_ADDRESS', where, remedy });
  }
}

function parseWeb(text: string, where: string): ArchiveContext {
  if (!URL.canParse(text)) throw malformed(text, where);
  const url = new URL(text);
  url.hash = '';
  if (url.protocol !== 'https:' || !azureHost.test(url.hostname)) return { kind: 'web', url: url.href };
  // Its container, and then a name that may itself have slashes.
  if (!/^\/[^/]+\/[^/]/.test(url.pathname))
    throw malformed(text, where, 'Write it as https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME.');
  return { kind: 'azure', url: url.href };
}

function parseBucket(
  rest: string,
  text: string,
  where: string,
): { readonly bucket: string; readonly key: string } {
  const [, bucket = '', path = ''] = /^([a-z0-9][a-z0-9._-]*)(?:\/([^?#]*))?$/i.exec(rest) ?? [];
  if (bucket === '') throw malformed(text, where, 'Write it as s3://BUCKET/OBJECT or gs://BUCKET/OBJECT.');
  try {
    return { bucket, key: decodeURIComponent(path) || defaultKey };
  } catch (cause) {
    if (!(cause instanceof URIError)) throw cause;
    throw malformed(text, where, 'A percent sign in a name is written %25.');
  }
}

function required(path: string, text: string, where: string): string {
  if (path !== '') return path;
  throw malformed(text, where, 'Write the path behind it.');
}

function malformed(text: string, where: string, remedy?: string): UsageError {
  return new UsageError(`${where} ${hideCredentials(text)} cannot be understood`, {
    code: 'E_CONTEXT_ADDRESS',
    remedy,
  });
}

function unknownKind(scheme: string, where: string): UsageError {
  const name = scheme.toLowerCase();
  const known = otherNames[name];
  const near = nearestWord(name, schemes);
  const images = ['oci-layout', 'docker-image', 'oci', 'docker'].includes(name);
  return new UsageError(`${where}: there are no contexts of the kind ${scheme}://`, {
    code: 'E_CONTEXT_UNSUPPORTED',
    remedy: images
      ? 'An image is no context, but may have a name: --build-context NAME=oci-layout://DIRECTORY or docker-image://IMAGE.'
      : known !== undefined
        ? `Write it as ${known}.`
        : near === undefined
          ? `It is a directory, or begins with ${schemes.map((one) => `${one}://`).join(', ')}.`
          : `Did you mean ${near}://?`,
  });
}
