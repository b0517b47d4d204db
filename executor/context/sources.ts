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
  /** What is left out of what a pattern matches, by its path below the match. */
  readonly excludes?: IgnoreRules;
  /** The directories that lead to what a pattern matches are kept, up to `/./` in it; `**` matches any number of them. */
  readonly parents?: boolean;
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
  /** Of these, the directories that are there only for what is in them. */
  readonly carried: ReadonlySet<BytePath>;
}

const wildcard = /[*?[\\]/;

/**
 * Finds what the patterns match, in the order of the patterns and by name within each. A pattern with wildcards may match
 * nothing, as in BuildKit.
 *
 * @throws BuildError `E_COPY_SOURCE_NOT_FOUND` for a name that is not there.
 */
export function matchSources(query: SourceQuery): SourceMatch[] {
  const root = toBytePath(query.root);
  const filter: Filter = { ignore: new Ignore(query.ignore), exclude: new Ignore(query.excludes ?? []) };
  const match = query.parents === true ? matchWithParents : matchPattern;
  return query.patterns.flatMap((pattern) => match(query, root, pattern, filter));
}

function matchPattern(query: SourceQuery, root: BytePath, pattern: string, filter: Filter): SourceMatch[] {
  const { ignore } = filter;
  const relative = relativePattern(pattern);
  const isWildcard = wildcard.test(relative);
  const names = isWildcard ? glob(root, relative, ignore) : [toBytePath(relative)];
  const found = names.flatMap((name) => matchOne(root, name, filter));
  if (found.length === 0 && !isWildcard) throw notFound(query, pattern, relative, ignore);
  return found.filter(
    ({ name, stat }) => stat.isDirectory() || !filter.exclude.excludes(pathText(posix.basename(name))),
  );
}

/**
 * `--parents`: the match is the directory before `/./`, or the tree itself, of which only what the rest of the pattern
 * matches is taken.
 */
function matchWithParents(
  query: SourceQuery,
  root: BytePath,
  pattern: string,
  filter: Filter,
): SourceMatch[] {
  const pivot = pattern.indexOf('/./');
  const directory = pivot < 0 ? '' : relativePattern(pattern.slice(0, pivot));
  const inside = relativePattern(pivot < 0 ? pattern : pattern.slice(pivot + 3));
  const names = wildcard.test(directory) ? glob(root, directory, filter.ignore) : [toBytePath(directory)];
  const include = inside === '' ? undefined : new Inclusion(inside);
  const found = names.flatMap((name) => {
    const { path, stat } = resolveBytesInRoot(root, name, { followLast: true });
    if (stat?.isDirectory() !== true) return [];
    const walk = new SourceWalk(path, name, { ...filter, include });
    return [{ name, path, stat, below: [...walk.below('')], carried: walk.carried }];
  });
  const whole = posix.join(directory, inside);
  const isThere = found.some(({ below }) => below.length > 0) || include === undefined;
  // Everything that is excluded may be nothing; a name that is not there may not.
  if (!isThere && !wildcard.test(whole) && lookUpIn(root, whole, filter.ignore) === undefined)
    throw notFound(query, pattern, whole, filter.ignore);
  return found;
}

function lookUpIn(root: BytePath, name: string, ignore: Ignore): Stats | undefined {
  if (ignore.prunes(name)) return undefined;
  return lookUp(posix.join(root, toBytePath(name)));
}

function relativePattern(pattern: string): string {
  return posix.normalize(`/${pattern}`).replace(/^\/+|\/+$/g, '');
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

function matchOne(root: BytePath, name: BytePath, filter: Filter): SourceMatch[] {
  const { path, stat } = resolveBytesInRoot(root, name, { followLast: true });
  if (stat === undefined) return [];
  const excluded = name !== '' && filter.ignore.excludes(pathText(name));
  const walk = new SourceWalk(path, name, filter);
  const { carried } = walk;
  if (!stat.isDirectory()) return excluded ? [] : [{ name, path, stat, below: [], carried }];
  const below = [...walk.below('')];
  return excluded && below.length === 0 ? [] : [{ name, path, stat, below, carried }];
}

/** What decides about the paths below a match. */
interface Filter {
  /** By the path in the whole tree. */
  readonly ignore: Ignore;
  /** By the path below the match, as {@link include}. */
  readonly exclude: Ignore;
  /** Undefined: everything. */
  readonly include?: Inclusion | undefined;
}

/** The paths below one match that its filter lets through. */
class SourceWalk {
  readonly #root: BytePath;
  readonly #name: BytePath;
  readonly #filter: Filter;
  readonly carried = new Set<BytePath>();

  constructor(root: BytePath, name: BytePath, filter: Filter) {
    this.#root = root;
    this.#name = name;
    this.#filter = filter;
  }

  /** Paths below a directory; one that is not taken itself appears when something in it is. */
  *below(relative: BytePath): Generator<BytePath> {
    const { ignore, exclude, include } = this.#filter;
    for (const entry of sortedEntries(posix.join(this.#root, relative))) {
      const path = relative === '' ? entry.name : `${relative}/${entry.name}`;
      const full = pathText(this.#name === '' ? path : `${this.#name}/${path}`);
      const text = pathText(path);
      const ignored = ignore.excludes(full);
      const taken = !exclude.excludes(text) && include?.includes(text) !== false;
      if (!entry.isDirectory) {
        if (taken && !ignored) yield path;
        continue;
      }
      if (ignored && ignore.prunes(full)) continue;
      if (exclude.prunes(text) || include?.mayIncludeBelow(text) === false) continue;
      const inside = this.below(path);
      if (taken && !ignored) {
        yield path;
        yield* inside;
        continue;
      }
      const first = inside.next();
      if (first.done === true) continue;
      if (!taken) this.carried.add(path);
      yield path;
      yield first.value;
      yield* inside;
    }
  }
}

/** A pattern with `**` that names what is taken of a tree: what it matches, and all that is below that. */
class Inclusion {
  readonly #matcher: Ignore;
  /** Expressions of its components up to the first `**`, after which anything may follow. */
  readonly #components: readonly RegExp[];
  readonly #isDeep: boolean;

  constructor(pattern: string) {
    this.#matcher = new Ignore([pattern.startsWith('!') ? `\\${pattern}` : pattern]);
    const components = pattern.split('/');
    const deep = components.findIndex((component) => component.includes('**'));
    this.#isDeep = deep >= 0;
    this.#components = (deep < 0 ? components : components.slice(0, deep)).map(componentExpression);
  }

  includes(path: string): boolean {
    return this.#matcher.excludes(path);
  }

  /** Whether it may include something below a directory. */
  mayIncludeBelow(directory: string): boolean {
    if (this.includes(directory)) return true;
    const names = directory.split('/');
    if (names.length >= this.#components.length && !this.#isDeep) return false;
    return names.slice(0, this.#components.length).every((name, at) => this.#components[at]?.test(name));
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
