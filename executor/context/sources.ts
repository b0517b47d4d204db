import { lstatSync, readdirSync, type Stats } from 'node:fs';
import { posix } from 'node:path';
import { type BytePath, pathBuffer, pathText, resolveBytesInRoot, toBytePath } from '../../src/os/index.ts';
import { BuildError, systemErrorCode } from '../../src/support/index.ts';
import { componentExpression, Ignore, type IgnoreRules } from './dockerignore.ts';

/** A tree and what of it is asked for. Plain data that can be posted to a worker. */
export interface SourceQuery {
  /** The directory that is `/` for the patterns. */
  readonly root: string;
  /** Paths, with the wildcards of Go's filepath.Match. */
  readonly patterns: readonly string[];
  readonly ignore: IgnoreRules;
  /** Where the patterns stand, for messages: `Dockerfile:7`. */
  readonly where: string;
  /** How messages call the tree: `the build context`, `stage "build"`. */
  readonly treeName: string;
}

/** One thing that a pattern matched. */
export interface SourceMatch {
  /** Its path in the tree as the pattern has it. */
  readonly name: BytePath;
  /** Where it really is. */
  readonly path: BytePath;
  readonly stat: Stats;
  /** For a directory, the relative paths below it that are not ignored, parents before children, by bytes. */
  readonly below: readonly BytePath[];
}

const wildcard = /[*?[\\]/;

/**
 * Finds what the patterns match, in the order of the patterns and by name within each. A pattern with wildcards may match
 * nothing, as in BuildKit.
 *
 * @throws BuildError `E_COPY_SOURCE_NOT_FOUND` for a name that is not there.
 */
export function matchSources(query: SourceQuery): SourceMatch[] {
  const ignore = new Ignore(query.ignore);
  const root = toBytePath(query.root);
  return query.patterns.flatMap((pattern) => {
    const relative = posix.normalize(`/${pattern}`).replace(/^\/+|\/+$/g, '');
    const isWildcard = wildcard.test(relative);
    const names = isWildcard ? glob(root, relative, ignore) : [toBytePath(relative)];
    const found = names.flatMap((name) => matchOne(root, name, ignore));
    if (found.length === 0 && !isWildcard) throw notFound(query, pattern, relative, ignore);
    return found;
  });
}

function notFound(query: SourceQuery, pattern: string, relative: string, ignore: Ignore): BuildError {
  const ignored = ignore.excludes(relative);
  return new BuildError(
    `"${pattern}" is not in ${query.treeName}${ignored ? ': .dockerignore leaves it out' : ''}`,
    {
      code: 'E_COPY_SOURCE_NOT_FOUND',
      where: query.where,
      remedy: ignored
        ? `Take it out of .dockerignore, or add the line !${relative}.`
        : 'Check the path; it is relative to the root of that tree.',
    },
  );
}

function matchOne(root: BytePath, name: BytePath, ignore: Ignore): SourceMatch[] {
  const { path, stat } = resolveBytesInRoot(root, name, { followLast: true });
  if (stat === undefined) return [];
  const excluded = name !== '' && ignore.excludes(pathText(name));
  if (!stat.isDirectory()) return excluded ? [] : [{ name, path, stat, below: [] }];
  const below = [...walk(path, '', name, ignore)];
  return excluded && below.length === 0 ? [] : [{ name, path, stat, below }];
}

/** Paths below a directory; an excluded directory appears when something in it does not. */
function* walk(root: BytePath, relative: BytePath, name: BytePath, ignore: Ignore): Generator<BytePath> {
  for (const entry of sortedEntries(posix.join(root, relative))) {
    const path = relative === '' ? entry.name : `${relative}/${entry.name}`;
    const full = pathText(name === '' ? path : `${name}/${path}`);
    const excluded = ignore.excludes(full);
    if (!entry.isDirectory) {
      if (!excluded) yield path;
      continue;
    }
    if (excluded && ignore.prunes(full)) continue;
    const inside = walk(root, path, name, ignore);
    if (!excluded) {
      yield path;
      yield* inside;
      continue;
    }
    const first = inside.next();
    if (first.done === true) continue;
    yield path;
    yield first.value;
    yield* inside;
  }
}

/** What is in a directory, by bytes; nothing when it is gone since its parent was read. */
function sortedEntries(directory: BytePath): { name: BytePath; isDirectory: boolean }[] {
  try {
    return readdirSync(pathBuffer(directory), { withFileTypes: true, encoding: 'buffer' })
      .map((entry) => ({ name: toBytePath(entry.name), isDirectory: entry.isDirectory() }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return [];
    throw error;
  }
}

/** Expands a wildcard pattern component by component. */
function glob(root: BytePath, pattern: string, ignore: Ignore): BytePath[] {
  let names = [''];
  for (const component of pattern.split('/')) {
    const expression = wildcard.test(component) ? componentExpression(component) : undefined;
    names = names.flatMap((name) => {
      const join = (entry: BytePath): BytePath => (name === '' ? entry : `${name}/${entry}`);
      if (expression === undefined) {
        const next = join(toBytePath(component));
        return resolveBytesInRoot(root, next, { followLast: false }).stat === undefined ? [] : [next];
      }
      const { path, stat } = resolveBytesInRoot(root, name, { followLast: true });
      if (stat?.isDirectory() !== true) return [];
      return sortedEntries(path)
        .filter((entry) => expression.test(pathText(entry.name)))
        .map((entry) => join(entry.name));
    });
  }
  return names.filter((name) => !ignore.prunes(pathText(name)));
}

/** The name a match has at its destination. */
export function matchBaseName(match: SourceMatch): BytePath {
  return posix.basename(match.name);
}

/** What is at a path, links not followed; undefined when nothing is, also because it has just gone. */
export function lookUp(path: BytePath): Stats | undefined {
  try {
    return lstatSync(pathBuffer(path), { throwIfNoEntry: false });
  } catch (error) {
    if (systemErrorCode(error) === 'ENOTDIR') return undefined;
    throw error;
  }
}
