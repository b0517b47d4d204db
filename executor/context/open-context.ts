import { readFile, realpath, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { systemErrorCode, UsageError } from '../../src/support/index.ts';
import { type IgnoreRules, parseDockerignore } from './dockerignore.ts';

/** The files a build is made from. */
export interface BuildContext {
  /** Its real path. */
  readonly directory: string;
  readonly ignore: IgnoreRules;
}

/**
 * Opens a build context: a directory, as a path or `dir://path`.
 *
 * @throws UsageError for another kind of context, or when it is no directory; BuildError `E_DOCKERIGNORE_SYNTAX`.
 */
export async function openContext(source: string, dockerfile: string): Promise<BuildContext> {
  const scheme = /^([a-z0-9+]+):\/\//i.exec(source)?.[1]?.toLowerCase();
  if (scheme !== undefined && scheme !== 'dir')
    throw new UsageError(`contexts of the kind ${scheme}:// are not supported by this version`, {
      code: 'E_CONTEXT_UNSUPPORTED',
      remedy: 'Fetch it first, and give the directory: --context DIR.',
    });
  const path = scheme === 'dir' ? source.slice('dir://'.length) : source;
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
  if (!(await stat(directory)).isDirectory())
    throw new UsageError(`the build context ${path} is not a directory`, { code: 'E_CONTEXT_NOT_FOUND' });
  return { directory, ignore: await readIgnoreRules(directory, dockerfile) };
}

/** The rules of the `.dockerignore` that belongs to the Dockerfile alone, or else to the context. */
async function readIgnoreRules(directory: string, dockerfile: string): Promise<IgnoreRules> {
  for (const path of [`${dockerfile}.dockerignore`, join(directory, '.dockerignore')]) {
    const text = await readIfThere(path);
    if (text !== undefined) return parseDockerignore(text, basename(path));
  }
  return [];
}

/** The text of the Dockerfile. @throws UsageError `E_DOCKERFILE_NOT_FOUND`. */
export async function readDockerfile(path: string): Promise<string> {
  const text = await readIfThere(path);
  if (text !== undefined) return text;
  throw new UsageError(`there is no Dockerfile at ${path}`, {
    code: 'E_DOCKERFILE_NOT_FOUND',
    remedy: 'Give its path with --dockerfile.',
  });
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
