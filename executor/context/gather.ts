import { posix } from 'node:path';
import { pathText } from '../../src/os/index.ts';
import { BuildError } from '../../src/support/index.ts';
import { copyInto, type CopyRequest } from './copy.ts';
import { matchBaseName, matchSources } from './sources.ts';

/** Files of one source, brought together. */
export interface Gathered {
  /** As of {@link copyInto}. */
  readonly stamp: string;
  /** Where the source is, in the directory that it was copied to. */
  readonly path: string;
}

/**
 * Copies one source, a file or what is in a directory, to a directory, and says where it is then.
 *
 * @throws BuildError `E_COPY_SOURCE_NOT_FOUND`, and as `copyInto`.
 */
export async function gatherInto(directory: string, request: CopyRequest): Promise<Gathered> {
  const { query, where } = request;
  const [match] = query === undefined ? [] : matchSources(query);
  if (query === undefined || match === undefined)
    throw new BuildError(
      `"${query?.patterns[0] ?? ''}" is not in ${query?.treeName ?? 'the build context'}`,
      {
        code: 'E_COPY_SOURCE_NOT_FOUND',
        where,
        remedy: 'Check the path; it is relative to the root of that tree.',
      },
    );
  const stamp = await copyInto(directory, request);
  const name = match.stat.isDirectory() ? '' : pathText(matchBaseName(match));
  return { stamp, path: posix.join(request.destination, name) };
}
