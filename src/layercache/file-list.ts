import { createHash } from 'node:crypto';

/**
 * What a copy took, file by file, so that it can be said which one changed. Long lists are folded: below a certain depth a
 * directory stands for all that is in it.
 */
export interface FileList {
  /** By path; the first digits of a digest of what counts of a file, or of all files below a directory, whose path ends in `/`. */
  readonly digests: ReadonlyMap<string, string>;
}

/** The member of an entry's configuration that holds the list. */
const member = 'dev.kiln.cache.files';

/** Paths that a stored list has at most, and their characters altogether. */
const fileListLimits = { paths: 2000, characters: 200_000 };
const deepestFold = 12;

/** A list of files that is within the limits, folded where it has to be; undefined when it cannot be, so that there is none. */
export function foldFileList(digests: ReadonlyMap<string, string>): FileList | undefined {
  if (isSmall(digests)) return { digests };
  for (let depth = deepestFold; depth >= 1; depth--) {
    const groups = Map.groupBy(digests, ([path]) => {
      const parts = path.split('/');
      return parts.length > depth ? `${parts.slice(0, depth).join('/')}/` : path;
    });
    if (groups.size > fileListLimits.paths) continue;
    const folded = new Map(
      [...groups].map(([path, group]) => [
        path,
        path.endsWith('/') ? digestOfAll(group) : (group[0]?.[1] ?? ''),
      ]),
    );
    if (isSmall(folded)) return { digests: folded };
  }
  return undefined;
}

/** Framed as JSON, so that no two groups of files give the same text. */
function digestOfAll(group: readonly (readonly [string, string])[]): string {
  return createHash('sha256').update(JSON.stringify(group)).digest('hex').slice(0, 16);
}

/** The paths of a list and how they differ from another, in the list's order, then those that only the other has. */
export function compareFileLists(now: FileList, before: FileList): FileChange[] {
  const changes: FileChange[] = [];
  const [current, former] = unfoldAlike(now, before);
  for (const [path, digest] of current) {
    const known = former.get(path);
    if (known === undefined) {
      if (!isDirectoryOf(path, before)) changes.push({ path, change: 'added' });
    } else if (known !== digest) changes.push({ path, change: 'changed' });
  }
  for (const path of former.keys())
    if (!current.has(path) && !isDirectoryOf(path, now)) changes.push({ path, change: 'removed' });
  return changes;
}

/** Whether a path is a folded directory of which the other list has the files, so that nothing can be said of it. */
function isDirectoryOf(path: string, { digests }: FileList): boolean {
  return path.endsWith('/') && [...digests.keys()].some((other) => other !== path && other.startsWith(path));
}

export interface FileChange {
  readonly path: string;
  readonly change: 'added' | 'changed' | 'removed';
}

/** The list as a member of a configuration. */
export function encodeFileList({ digests }: FileList): object {
  return { [member]: Object.fromEntries(digests) };
}

/** Reads the list of a configuration; undefined when it has none, or something else. */
export function decodeFileList(config: unknown): FileList | undefined {
  const value = (config as Record<string, unknown> | null)?.[member];
  if (typeof value !== 'object' || value === null) return undefined;
  const entries = Object.entries(value).filter(
    (entry): entry is [string, string] => typeof entry[1] === 'string',
  );
  return { digests: new Map(entries.slice(0, fileListLimits.paths)) };
}

/** Where one list has a directory in place of its files, the other is cut down to it: whether it changed is not known from them. */
function unfoldAlike(
  now: FileList,
  before: FileList,
): [ReadonlyMap<string, string>, ReadonlyMap<string, string>] {
  const folded = new Set(
    [...now.digests.keys(), ...before.digests.keys()].filter((path) => path.endsWith('/')),
  );
  if (folded.size === 0) return [now.digests, before.digests];
  const cut = (digests: ReadonlyMap<string, string>): Map<string, string> =>
    new Map([...digests].filter(([path]) => folded.has(path) || !isBelow(path, folded)));
  return [cut(now.digests), cut(before.digests)];
}

function isBelow(path: string, directories: ReadonlySet<string>): boolean {
  for (let end = path.indexOf('/'); end >= 0; end = path.indexOf('/', end + 1))
    if (directories.has(path.slice(0, end + 1))) return true;
  return false;
}

function isSmall(digests: ReadonlyMap<string, string>): boolean {
  if (digests.size > fileListLimits.paths) return false;
  let characters = 0;
  for (const path of digests.keys()) characters += path.length;
  return characters <= fileListLimits.characters;
}
