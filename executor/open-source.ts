import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { resolveInRoot } from '../src/os/index.ts';
import { UsageError } from '../src/support/index.ts';
import { type BuildContext, openContext, readDockerfile, standardInput } from './context/index.ts';
import { type ContextPlace, fetchContext } from './context/kinds/index.ts';
import { dockerfilePath } from './dockerfile-path.ts';
import type { ContextOptions } from './options.ts';

/** What is built, read: the Dockerfile's text and the context. */
export interface OpenedSource {
  readonly text: string;
  /** Where the Dockerfile is. */
  readonly dockerfile: string;
  readonly context: BuildContext;
}

/**
 * Reads the Dockerfile and opens the context, which is fetched first when it is elsewhere.
 *
 * @param place only asked for when something has to be fetched.
 * @throws UsageError for what is not there; what {@link fetchContext} throws.
 */
export async function openSource(
  options: ContextOptions,
  place: () => Promise<ContextPlace>,
): Promise<OpenedSource> {
  const { context: address, contextSubPath, dockerfile: given } = options;
  if (address.kind === 'directory') {
    const directory = join(address.path, contextSubPath ?? '');
    const dockerfile = dockerfilePath(given, directory);
    const text = await readDockerfile(dockerfile);
    return { text, dockerfile, context: await openContext(directory, dockerfile) };
  }
  if (address.kind === 'standard-input' && given === standardInput)
    throw new UsageError('the Dockerfile and the context cannot both be read from standard input', {
      remedy: 'Put the Dockerfile into the archive, or give its path.',
    });
  const root = await fetchContext(address, await place(), '--context', options.contextAccess);
  const directory = contextSubPath === undefined ? root : await subDirectory(root, contextSubPath);
  const dockerfile = dockerfilePath(given, directory, root);
  const text = await readDockerfile(dockerfile);
  return { text, dockerfile, context: await openContext(directory, dockerfile, root) };
}

/** A directory of a tree that was fetched; no link leads out of the tree. */
async function subDirectory(root: string, path: string): Promise<string> {
  const found = resolveInRoot(root, path, { followLast: true });
  if (found.stat !== undefined && (await stat(found.path)).isDirectory()) return found.path;
  throw new UsageError(`the build context has no directory ${path}`, {
    code: 'E_CONTEXT_NOT_FOUND',
    remedy: 'Check --context-sub-path; it is relative to the root of the context.',
  });
}
