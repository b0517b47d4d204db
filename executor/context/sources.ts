import { lstatSync, readdirSync, type Stats } from 'node:fs';
import { basename, posix } from 'node:path';
import { resolveInRoot } from '../../src/os/index.ts';
import { BuildError } from '../../src/support/index.ts';
import { Ignore, type IgnoreRules, patternSource } from './dockerignore.ts';

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
  readonly name: string;
  /** Where it really is. */
  readonly path: string;
  readonly stat: Stats;
  /** For a directory, the relative paths below it that are not ignored, parents before children. */
  readonly below: readonly string[];
}

/**
 * Finds what the patterns match, in the order of the patterns and by name within each.
 *
 * @throws BuildError `E_COPY_SOURCE_NOT_FOUND` for a pattern that matches nothing.
 */
export function matchSources(query: SourceQuery): SourceMatch[] {
  const ignore = new Ignore(query.ignore);
  return query.patterns.flatMap((pattern) => {
    const relative = posix.normalize(`/${pattern}`).replace(/^\/+|\/+$/g, '');
    const names = /[*?[\\]/.test(relative) ? glob(query.root, relative, ignore) : [relative];
    const found = names.flatMap((name) => matchOne(query, name, ignore));
    if (found.length === 0) throw notFound(query, pattern, relative, ignore);
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

function matchOne(query: SourceQuery, name: string, ignore: Ignore): SourceMatch[] {
  const { path, stat } = resolveInRoot(query.root, name, { followLast: true });
  if (stat === undefined) return [];
  if (!stat.isDirectory()) return ignore.excludes(name) ? [] : [{ name, path, stat, below: [] }];
  const below = [...walk(path, '', name, ignore)];
  return name !== '' && ignore.excludes(name) && below.length === 0 ? [] : [{ name, path, stat, below }];
}

/** Paths below a directory; an excluded directory appears when something in it does not. */
function* walk(root: string, relative: string, name: string, ignore: Ignore): Generator<string> {
  for (const entry of sortedEntries(posix.join(root, relative))) {
    const path = relative === '' ? entry.name : `${relative}/${entry.name}`;
    const full = name === '' ? path : `${name}/${path}`;
    const excluded = ignore.excludes(full);
    if (!entry.isDirectory()) {
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

function sortedEntries(directory: string): ReturnType<typeof readEntries> {
  return readEntries(directory).sort((a, b) => (a.name < b.name ? -1 : 1));
}

function readEntries(directory: string) {
  return readdirSync(directory, { withFileTypes: true });
}

/** Expands a wildcard pattern component by component. */
function glob(root: string, pattern: string, ignore: Ignore): string[] {
  let names = [''];
  for (const component of pattern.split('/')) {
    const expression = /[*?[\\]/.test(component)
      ? new RegExp(`^${patternSource(component, false)}$`, 's')
      : undefined;
    names = names.flatMap((name) => {
      const join = (entry: string): string => (name === '' ? entry : `${name}/${entry}`);
      if (expression === undefined)
        return resolveInRoot(root, join(component), { followLast: false }).stat === undefined
          ? []
          : [join(component)];
      const { path, stat } = resolveInRoot(root, name, { followLast: true });
      if (stat?.isDirectory() !== true) return [];
      return readdirSync(path)
        .filter((entry) => expression.test(entry))
        .sort()
        .map(join);
    });
  }
  return names.filter((name) => !ignore.prunes(name));
}

/** The name a match has at its destination. */
export function matchBaseName(match: SourceMatch): string {
  return basename(match.name);
}

/** A file's status, not followed. */
export function statOf(match: SourceMatch, below: string): Stats {
  return lstatSync(posix.join(match.path, below));
}
