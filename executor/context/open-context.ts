import { readFile, realpath, stat } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import { resolveInRoot } from '../../src/os/index.ts';
import { systemErrorCode, UsageError } from '../../src/support/index.ts';
import { type IgnoreRules, parseDockerignore } from './dockerignore.ts';

/** The files a build is made from. */
export interface BuildContext {
  /** Its real path. */
  readonly directory: string;
  readonly ignore: IgnoreRules;
}

/**
 * Opens a directory as a build context.
 *
 * @param dockerfile whose own `.dockerignore` counts, if it has one; undefined when there is no file.
 * @param root of a tree that is not this machine's own: no link leads out of it.
 * @throws UsageError when it is no directory; BuildError `E_DOCKERIGNORE_SYNTAX`.
 */
export async function openContext(
  path: string,
  dockerfile: string | undefined,
  root?: string,
): Promise<BuildContext> {
  let directory: string;
  try {
    directory = await realpath(path);
  } catch (cause) {
    throw new UsageError(`the build context ${path} cannot be opened`, {
      code: 'E_CONTEXT_NOT_FOUND',
      cause,
      remedy: 'Check --context.',
    });
  }
  const found = await stat(directory);
  if (!found.isDirectory())
    throw new UsageError(`the build context ${path} is not a directory`, {
      code: 'E_CONTEXT_NOT_FOUND',
      remedy: found.isFile() ? `An archive is written --context tar://${path}.` : undefined,
    });
  return { directory, ignore: await readIgnoreRules(directory, dockerfile, root) };
}

/** The rules of the `.dockerignore` that belongs to the Dockerfile alone, or else to the context. */
async function readIgnoreRules(
  directory: string,
  dockerfile: string | undefined,
  root: string | undefined,
): Promise<IgnoreRules> {
  const own = dockerfile === undefined || dockerfile === standardInput ? [] : [`${dockerfile}.dockerignore`];
  for (const path of [...own, join(directory, '.dockerignore')]) {
    const text = await readIfThere(root === undefined ? path : pathInTree(root, path));
    if (text !== undefined) return parseDockerignore(text, basename(path));
  }
  return [];
}

/** Where a path of a tree really is, when no link leads out of it; as it is, when it is none of the tree's. */
export function pathInTree(root: string, path: string): string {
  const inside = relative(root, path);
  if (inside.startsWith('..')) return path;
  return resolveInRoot(root, inside, { followLast: true }).path;
}

/** The path that stands for standard input. */
export const standardInput = '-';

/** How messages call a Dockerfile. */
export function dockerfileName(path: string): string {
  return path === standardInput ? 'Dockerfile' : basename(path);
}

/** No Dockerfile is longer; what is, is something else. */
const longestDockerfile = 16 << 20;

/** The text of the Dockerfile, or of standard input for `-`. @throws UsageError `E_DOCKERFILE_NOT_FOUND`. */
export async function readDockerfile(path: string): Promise<string> {
  if (path === standardInput) return readStandardInput();
  const text = await readIfThere(path);
  if (text !== undefined) return text;
  throw new UsageError(`there is no Dockerfile at ${path}`, {
    code: 'E_DOCKERFILE_NOT_FOUND',
    remedy: 'Give its path with --dockerfile.',
  });
}

async function readStandardInput(): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of process.stdin) {
    chunks.push(chunk as Buffer);
    length += (chunk as Buffer).length;
    if (length > longestDockerfile)
      throw new UsageError('standard input is too long for a Dockerfile', {
        code: 'E_DOCKERFILE_NOT_FOUND',
        remedy:
          'With --dockerfile - the Dockerfile is read there; a context is read there by --context tar://stdin.',
      });
  }
  return Buffer.concat(chunks).toString('utf8');
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'EISDIR') return undefined;
    throw error;
  }
}
